//! A good component that is not a plugin: it exports none of the roles.

wit_bindgen::generate!({
    inline: "
        package guests:other;
        world other { export greet: func() -> string; }
    ",
});

struct Other;

impl Guest for Other {
    fn greet() -> String {
        "hello".into()
    }
}

export!(Other);
