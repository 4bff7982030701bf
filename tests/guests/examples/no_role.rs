//! A valid component that is not a plugin: it exports only a WASI interface, which hosts call.

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
