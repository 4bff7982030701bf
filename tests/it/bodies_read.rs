//! A body is decoded by its actual format, or refused with a reason: an agent never runs on an empty payload.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{Call, Gateway, Setup};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(text).unwrap();
    gzip.finish().unwrap()
}

fn signature(key: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

const MULTIPART: &str = "multipart/form-data; boundary=B";

fn part(head: &str, text: &str) -> String {
    format!("--B\r\ncontent-disposition: form-data; {head}\r\n\r\n{text}\r\n--B--\r\n")
}

/// Creates a channel without authentication that waits and responds with the task; returns its path.
async fn open_channel(gateway: &Gateway, mapper: Option<&str>) -> String {
    let mut definition =
        json!({"name": "open", "agent": "tested", "verifier": "none", "answer": "wait"});
    if let Some(mapper) = mapper {
        definition["mapper"] = json!(mapper);
    }
    gateway.apply_channel(definition).await
}

/// A request to each surface, and whether it accepts bodies of any type or only JSON.
fn surfaces(gateway: &Gateway, channel: &str) -> [(Call, bool); 4] {
    [
        (gateway.post(channel), true),
        (gateway.webhook(""), true),
        (gateway.trigger(), false),
        (gateway.post_to_agent("invoke"), false),
    ]
}

#[tokio::test]
async fn what_senders_send_is_read_as_what_it_is() {
    let gateway = Gateway::start().await;
    let channel = open_channel(&gateway, None).await;
    let (ticket, umlaut) = (json!({"ticket": "disk full"}), json!({"ticket": "ä€"}));
    for (what, body, declared, encoding, given) in [
        (
            "byte order mark",
            b"\xef\xbb\xbf{\"ticket\":\"disk full\"}".to_vec(),
            "application/json",
            None,
            &ticket,
        ),
        ("UTF-16", utf16(&umlaut.to_string()), "application/json", None, &umlaut),
        (
            "a charset",
            b"{\"ticket\":\"\xe4\x80\"}".to_vec(),
            "application/json; Charset=\"windows-1252\"",
            None,
            &umlaut,
        ),
        (
            "a charset that is not so",
            umlaut.to_string().into(),
            "application/json;charset=iso-8859-1",
            None,
            &umlaut,
        ),
        ("gzip", gzip(ticket.to_string().as_bytes()), "application/json", Some("gzip"), &ticket),
        ("words", "disk full".into(), "text/plain", None, &json!("disk full")),
        (
            "words of a charset",
            b"l\xe4uft voll".to_vec(),
            "text/plain; charset=latin1",
            None,
            &json!("läuft voll"),
        ),
        ("JSON as text", ticket.to_string().into(), "text/plain", None, &ticket),
        ("XML", "<a b=\"1\">\n</a>".into(), "application/xml", None, &json!("<a b=\"1\">\n</a>")),
        (
            "SOAP",
            "<Envelope/>".into(),
            "application/soap+xml; charset=utf-8",
            None,
            &json!("<Envelope/>"),
        ),
        ("CSV", "a,b\n1,2\n".into(), "text/csv", None, &json!("a,b\n1,2\n")),
        (
            "JSON lines",
            "{\"a\":1}\r\n\n[2]\n".into(),
            "application/x-ndjson",
            None,
            &json!([{"a": 1}, [2]]),
        ),
        (
            "an input for a file",
            part("name=\"f\"; filename=\"\"", "").into(),
            MULTIPART,
            None,
            &json!({}),
        ),
        (
            "a form with a file that nobody chose",
            format!(
                "--B\r\ncontent-disposition: form-data; name=\"ticket\"\r\n\r\ndisk full\r\n{}",
                part("name=\"f\"; filename=\"\"", "")
            )
            .into(),
            MULTIPART,
            None,
            &ticket,
        ),
    ] {
        for (call, _) in
            surfaces(&gateway, &channel).into_iter().filter(|(_, reads_all)| *reads_all)
        {
            let call = match encoding {
                Some(encoding) => call.header("content-encoding", encoding),
                None => call,
            };
            let task = call.text(declared, body.clone()).expect(200).await.json();
            let thread = gateway.thread(task["id"].as_str().unwrap()).await;
            let prompt = thread
                .iter()
                .find(|step| step["role"] == "user")
                .unwrap_or_else(|| panic!("{what}: {thread:?}"));
            assert!(prompt.to_string().contains(&escaped(given)), "{what}: {prompt}");
        }
    }
}

/// The value's JSON text, escaped as inside a JSON string.
fn escaped(given: &Value) -> String {
    let text = Value::from(given.to_string()).to_string();
    text.trim_matches('"').to_owned()
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_on_every_surface_and_starts_nothing() {
    let setup = Setup::new().settings(|settings| settings.http.body_bytes_max = 1 << 20);
    let gateway = setup.start().await;
    let channel = open_channel(&gateway, None).await;
    let bomb = gzip(&vec![b' '; 50 << 20]);
    for (what, body, declared, encoding, statuses) in [
        ("JSON cut short", b"{\"ticket\":\"disk".to_vec(), "application/json", None, [400; 2]),
        ("a type of nobody's", b"\x89PNG".to_vec(), "image/png", None, [415; 2]),
        ("bytes as text", b"\xfd\xfe".to_vec(), "text/plain; charset=utf-8", None, [400, 415]),
        (
            "a charset of nobody's",
            b"{\"a\":\"\xe4\"}".to_vec(),
            "application/json; charset=klingon",
            None,
            [415; 2],
        ),
        ("not gzip", b"{}".to_vec(), "application/json", Some("gzip"), [400; 2]),
        (
            "gzip cut short",
            gzip(b"{\"a\":1}")[..15].to_vec(),
            "application/json",
            Some("gzip"),
            [400; 2],
        ),
        ("an encoding of nobody's", b"{}".to_vec(), "application/json", Some("compress"), [415; 2]),
        // The streams declare a window of a gigabyte, in brotli and in zstd.
        (
            "a large window",
            b"\x11\x9e\x02\0\0\x03".to_vec(),
            "application/json",
            Some("br"),
            [400; 2],
        ),
        (
            "a large window",
            b"\x28\xb5\x2f\xfd\0\xa0\x01\0\0".to_vec(),
            "application/json",
            Some("zstd"),
            [400; 2],
        ),
        ("a bomb", bomb.clone(), "application/json", Some("gzip"), [413; 2]),
        ("a bomb in a bomb", gzip(&bomb), "application/json", Some("gzip, gzip"), [413; 2]),
        (
            "a file",
            part("name=\"f\"; filename=\"a.pdf\"", "%PDF").into(),
            MULTIPART,
            None,
            [415; 2],
        ),
        (
            "lines, one of them broken",
            b"{\"a\":1}\n{\"a\":\n".to_vec(),
            "application/x-ndjson",
            None,
            [400, 415],
        ),
    ] {
        for (call, reads_all) in surfaces(&gateway, &channel) {
            let call = match encoding {
                Some(encoding) => call.header("content-encoding", encoding),
                None => call,
            };
            let answer = call.text(declared, body.clone()).send().await;
            let expected = statuses[usize::from(!reads_all)];
            assert_eq!(answer.status, expected, "{what}: {}", answer.text);
        }
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_mapper_that_looks_for_a_payload_in_vain_runs_nothing_and_one_that_reads_bytes_does() {
    let gateway = Gateway::start().await;
    for (guest, status) in [("mapper_custom", 415), ("maps_bytes", 200)] {
        let mapper = gateway.install(guest, "").await;
        let channel = open_channel(&gateway, Some(mapper.as_str())).await;
        let answer = gateway.post(&channel).text("image/png", b"\x89PNG".to_vec()).send().await;
        assert_eq!(answer.status, status, "{guest}: {}", answer.text);
        if status == 200 {
            assert_eq!(answer.report()["received"], "4 bytes");
        }
    }
}

#[tokio::test]
async fn what_is_compressed_is_verified_as_it_came_and_read_as_it_was() {
    let gateway = Gateway::start().await;
    gateway.store_secret("signing", "topsecret", false).await;
    let channel = gateway
        .apply_channel(json!({"name": "signed", "agent": "tested", "verifier": "hmac", "mapper": "hmac",
                        "answer": "wait", "settings": {"header": "x-sig"}, "secrets": {"secret": "signing"}}))
        .await;
    let body = {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        zlib.write_all(b"{\"ticket\":\"disk full\"}").unwrap();
        zlib.finish().unwrap()
    };
    let call = |signature: String| {
        gateway
            .post(&channel)
            .header("content-encoding", "deflate")
            .header("x-sig", &signature)
            .text("application/json", body.clone())
    };
    let task = call(signature("topsecret", &body)).expect(200).await;
    assert!(task.text.contains("disk full"), "{}", task.text);
    call("00".repeat(32)).expect(401).await;
}
