//! A plugin for an interface version that is newer than the gateway.

wit_bindgen::generate!({
    inline: "
        package wardgate:plugin@0.9.0;
        interface payload-mapper { map-payload: func(spec: option<string>) -> result<string, string>; }
        world newer { export payload-mapper; }
    ",
});

struct Newer;

impl exports::wardgate::plugin::payload_mapper::Guest for Newer {
    fn map_payload(_spec: Option<String>) -> Result<String, String> {
        Ok(String::new())
    }
}

export!(Newer);
