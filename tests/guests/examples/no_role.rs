//! A good component that is not a plugin: what it exports is an interface of WASI, which is for hosts.

wit_bindgen::generate!({
    inline: "
        package wasi:cli@0.2.0;
        interface run { run: func() -> result; }
        world command { export run; }
    ",
});

struct Command;

impl exports::wasi::cli::run::Guest for Command {
    fn run() -> Result<(), ()> {
        Ok(())
    }
}

export!(Command);
