//! A plugin that exports an ordinary function besides its Wardgate role.

guests::tool!("echo", |arguments| Ok(arguments.to_string()));

mod beside {
    wit_bindgen::generate!({
        inline: "
            package elsewhere:beside;
            world beside { export shout: func(text: string) -> string; }
        ",
    });

    struct Beside;

    impl Guest for Beside {
        fn shout(text: String) -> String {
            text.to_uppercase()
        }
    }

    export!(Beside);
}
