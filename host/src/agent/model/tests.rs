//! The three protocols, as their servers speak them and as they should not.

use std::sync::Mutex;

use serde_json::Value;

use super::exchange::AnswerStream;
use super::*;

mod outcomes;
mod requests;
mod streams;

/// Collects what a turn writes.
#[derive(Default)]
struct Written(Mutex<String>);

impl TextSink for Written {
    fn push(&self, part: &str) {
        self.0.lock().unwrap().push_str(part);
    }

    fn restart(&self) {
        self.0.lock().unwrap().clear();
    }
}

const PROTOCOLS: [Protocol; 3] =
    [Protocol::OpenaiCompatible, Protocol::Anthropic, Protocol::Gemini];

/// The turn that a model's answer is, if its server sends these bytes.
async fn turn(protocol: Protocol, bytes: impl Into<reqwest::Body>) -> Result<Turn, ModelError> {
    let response = http::Response::builder().body(bytes).unwrap();
    let (stream, written) =
        (AnswerStream::new(response.into(), Received::default()), Written::default());
    let turn = match protocol {
        Protocol::OpenaiCompatible => openai_compatible::assemble(stream, "m", &written).await,
        Protocol::Anthropic => anthropic::assemble(stream, "m", &written).await,
        Protocol::Gemini => gemini::assemble(stream, "m", &written).await,
    }?;
    assert_eq!(*written.0.lock().unwrap(), turn.text, "what is streamed is the text");
    Ok(turn)
}

/// Events in the form of their protocol.
fn stream(protocol: Protocol, events: &[Value]) -> String {
    let mut stream = String::new();
    for event in events {
        if protocol == Protocol::Anthropic {
            stream += &format!("event: {}\n", event["type"].as_str().unwrap());
        }
        stream += &format!("data: {event}\n\n");
    }
    if protocol == Protocol::OpenaiCompatible {
        stream += "data: [DONE]\n\n";
    }
    stream
}

#[test]
fn a_payload_is_fenced_as_data() {
    let message = |prompt: Option<&str>, payload: Option<&str>| {
        let fence = "f00".to_owned();
        let (prompt, payload) = (prompt.map(str::to_owned), payload.map(str::to_owned));
        UserMessage { prompt, payload, images: Vec::new(), fence, left_out_turns: 0 }.fenced()
    };
    assert_eq!(message(Some("hi"), None), "hi");
    let both = message(Some("hi"), Some("{\"a\":1}"));
    assert!(both.starts_with("hi\n\nThe webhook's payload"), "{both}");
    assert!(both.ends_with("[payload f00]\n{\"a\":1}\n[end of payload f00]"), "{both}");
    assert!(message(None, Some("{}")).starts_with("The webhook's payload"));
}
