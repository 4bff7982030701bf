//! Invalid requests get a 4xx with one sentence in `{"detail"}`, before a task exists, and never a 5xx (row
//! X16).

use reqwest::multipart::{Form, Part};
use serde_json::json;

use crate::support::{Answer, Gateway, Setup};

const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=b";

/// A multipart body with one part of this value.
fn part(value: &[u8]) -> Vec<u8> {
    let head = b"--b\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\n";
    [head.as_slice(), value, b"\r\n--b--\r\n"].concat()
}

fn check(answer: &Answer, what: &str) {
    assert!((400..500).contains(&answer.status), "{what}: {} {}", answer.status, answer.text);
    let json = answer.json();
    let sentence = json["detail"].as_str().or(json["message"].as_str()).unwrap_or_default();
    assert!(!sentence.is_empty(), "{what}: {json}");
    assert_eq!(answer.header("x-wardgate-fault"), Some("caller"), "{what}");
}

/// Sends bodies to `POST /` and to the agent's own webhook; each must be refused and create no task.
async fn refused(gateway: &Gateway, bodies: &[(&str, &[u8])]) {
    for (declared, body) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let what = format!("{declared} {shown:?}");
        check(&gateway.webhook("").text(declared, body.to_vec()).send().await, &what);
        check(&gateway.trigger().text(declared, body.to_vec()).send().await, &what);
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_broken_json_is_refused() {
    let gateway = Gateway::start().await;
    let broken: [&[u8]; 9] = [
        b"{",
        b"{\"prompt\":}",
        b"{\"a\":1}}",
        b"[1,]",
        b"nul",
        b"{'a':1}",
        b"{\"a\":NaN}",
        b"{\"a\":\"\\ud800\"",
        b"{\"a\":01}",
    ];
    let bodies: Vec<_> = broken.iter().map(|body| ("application/json", *body)).collect();
    refused(&gateway, &bodies).await;
    // `curl -d` declares every body as a form.
    let cut: [&[u8]; 5] = [b"{", b"{\"prompt\": \"a=b", b"[1,]", b"{'prompt':'x'}", b" {\"a\":1}}"];
    refused(&gateway, &cut.map(|body| (FORM, body))).await;
    refused(&gateway, &[("text/plain", b"{\"a\":"), ("application/octet-stream", b"\x89PNG")])
        .await;
}

#[tokio::test]
async fn x16_absurd_nesting_is_refused() {
    let gateway = Gateway::start().await;
    let arrays = "[".repeat(100_000) + &"]".repeat(100_000);
    let objects = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    let open = "[".repeat(1_000_000);
    for deep in [&arrays, &objects, &open] {
        for declared in ["application/json", "text/plain", FORM] {
            refused(&gateway, &[(declared, deep.as_bytes())]).await;
        }
    }
    // JSON inside a parameter is refused too.
    for name in ["params_mapping", "user_tokens"] {
        let call = gateway.webhook(&format!("&{name}={}", "[".repeat(20_000)));
        check(&call.json(&json!({})).send().await, name);
    }
    let tokens = json!({"prompt": "x", "user_tokens": arrays});
    check(&gateway.webhook("").json(&tokens).send().await, "user_tokens");
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_nul_bytes_are_refused() {
    let gateway = Gateway::start().await;
    let bodies: [(&str, &[u8]); 4] = [
        ("application/json", b"{\"prompt\":\"a\0b\"}"),
        ("application/json", b"\0"),
        (FORM, b"prompt=a\0b"),
        (FORM, b"prompt=a%00b"),
    ];
    refused(&gateway, &bodies).await;
    refused(&gateway, &[(MULTIPART, &part(b"a\0b"))]).await;
    for query in ["&prompt=a%00b", "&task_id=%00", "&user_id=%00", "&getter=%00", "&a%00b=1"] {
        check(&gateway.webhook(query).body("").send().await, query);
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_invalid_utf8_is_refused() {
    let gateway = Gateway::start().await;
    let bodies: [(&str, &[u8]); 4] = [
        ("application/json", b"{\"prompt\":\"\xff\"}"),
        // A UTF-16 byte order mark followed by half a character.
        ("application/json", b"\xff\xfe{\0}"),
        (FORM, b"prompt=%FF"),
        (FORM, b"prompt=\xff"),
    ];
    refused(&gateway, &bodies).await;
    refused(&gateway, &[(MULTIPART, &part(b"\xff\xfe"))]).await;
    for query in ["&prompt=%FF", "&%C0%80=1", "&prompt=%ED%A0%80"] {
        check(&gateway.webhook(query).body("").send().await, query);
    }
    let (status, _) = gateway
        .exchange_raw(b"POST /?agent_id=\xff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert_eq!(status, 400);
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_a_percent_zero_in_a_path_is_nobodys() {
    let gateway = Gateway::start().await;
    for path in
        ["/%00", "/v1/tasks/%00", "/v1/tasks/%FF", "/v1/tasks/%00/thread", "/..%2f%00", "/api/%00"]
    {
        let answer = gateway.get(path).key(&gateway.key).expect(404).await;
        check(&answer, path);
    }
}

#[tokio::test]
async fn x16_headers_that_come_twice_are_refused() {
    let gateway = Gateway::start().await;
    let body = "{\"prompt\":\"x\"}";
    let length = format!("content-length: {}", body.len());
    let key = format!("x-api-key: {}", gateway.key);
    for twice in [
        [key.as_str(), key.as_str()],
        [key.as_str(), "x-api-key: other"],
        ["idempotency-key: a", "idempotency-key: a"],
        ["content-type: application/json", "content-type: text/plain"],
        ["content-length: 3", "content-length: 4"],
        ["transfer-encoding: chunked", "content-length: 3"],
    ] {
        let mut heads = vec![twice[0], twice[1]];
        heads.extend((!twice.contains(&key.as_str())).then_some(key.as_str()));
        heads.extend((!twice[1].starts_with("content-length")).then_some(length.as_str()));
        let target = format!("/?agent_id={}", gateway.agent);
        let request = format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}\r\n\r\n{body}",
            heads.join("\r\n"),
        );
        let (status, text) = gateway.exchange_raw(request.as_bytes()).await;
        assert_eq!(status, 400, "{twice:?}: {text}");
    }
    let twice = format!("&x-api-key={0}&x-api-key={0}", gateway.key);
    let target = format!("/?agent_id={}{twice}", gateway.agent);
    check(&gateway.post(&target).body("{}").expect(400).await, "two keys in the query");
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_a_request_without_one_good_host_is_refused() {
    let gateway = Gateway::start().await;
    let target = format!("/?agent_id={}", gateway.agent);
    let rest =
        format!("x-api-key: {}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}", gateway.key);
    let ask = async |version: &str, hosts: &str| {
        gateway
            .exchange_raw(format!("POST {target} HTTP/{version}\r\n{hosts}{rest}").as_bytes())
            .await
    };
    for hosts in [
        "",
        "host: x\r\nhost: x\r\n",
        "host: x\r\nHost: y\r\n",
        "host: x, y\r\n",
        "host: x/y\r\n",
        "host: somebody@x\r\n",
        "host: [::1\r\n",
        "host: x:http\r\n",
    ] {
        let (status, text) = ask("1.1", hosts).await;
        assert_eq!(status, 400, "{hosts:?}: {text}");
        assert!(text.contains("the header host "), "{hosts:?}: {text}");
    }
    assert_eq!(ask("1.0", "host: x\r\nhost: y\r\n").await.0, 400);
    assert_eq!(gateway.stored_task_count().await, 0);
    for (version, hosts) in [
        ("1.0", ""),
        ("1.0", "host: x\r\n"),
        ("1.1", "host: x\r\n"),
        ("1.1", "Host: hooks.example.com:8443\r\n"),
        ("1.1", "host: [2001:db8::1]:80\r\n"),
    ] {
        let (status, text) = ask(version, hosts).await;
        assert_eq!(status, 200, "{version} {hosts:?}: {text}");
    }
}

#[tokio::test]
async fn x16_a_long_body_is_refused_when_it_says_so_and_when_it_does_not() {
    let gateway = Setup::new().settings(|s| s.http.body_bytes_max = 1_000).start().await;
    let long = json!({"prompt": "x".repeat(2_000)});
    check(&gateway.webhook("").json(&long).expect(413).await, "declared");
    check(&gateway.trigger().json(&long).expect(413).await, "declared, own webhook");

    // Chunked: the bytes so far are valid JSON, and must not be taken for the whole body.
    let chunk = format!("{{\"prompt\":\"x\"}}{}", " ".repeat(500));
    let chunks = format!("{:x}\r\n{chunk}\r\n", chunk.len()).repeat(1)
        + &format!("1f4\r\n{}\r\n", " ".repeat(500)).repeat(3);
    for target in
        [format!("/?agent_id={}", gateway.agent), format!("/api/webhooks/agents/{}", gateway.token)]
    {
        let request = format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunks}0\r\n\r\n",
            gateway.key,
        );
        let (status, text) = gateway.exchange_raw(request.as_bytes()).await;
        assert_eq!(status, 413, "{text}");
        assert!(text.contains("1000"), "{text}");
    }
    assert_eq!(gateway.stored_task_count().await, 0);
    // A body of exactly the limit is accepted.
    let fits = format!("{:<1000}", r#"{"prompt":"x"}"#);
    gateway.webhook("").text("application/json", fits).expect(200).await;
}

#[tokio::test]
async fn a_body_in_crumbs_is_refused_and_one_in_many_pieces_is_not() {
    let gateway = Gateway::start().await;
    let body = |bytes: usize| format!(r#"{{"prompt":"x"}}{}"#, " ".repeat(bytes - 14));
    let ask = async |chunk: usize, bytes: usize| {
        let body = body(bytes);
        let chunks: String = body
            .as_bytes()
            .chunks(chunk)
            .map(|part| format!("{:x}\r\n{}\r\n", part.len(), str::from_utf8(part).unwrap()))
            .collect();
        let request = format!(
            "POST /?agent_id={}&asynchronous=true HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
             {chunks}0\r\n\r\n",
            gateway.agent, gateway.key,
        );
        gateway.exchange_raw(request.as_bytes()).await
    };
    for (chunk, bytes) in [(1, 10_000), (64, 2_000_000)] {
        let (status, text) = ask(chunk, bytes).await;
        assert_eq!(status, 200, "{bytes} bytes in chunks of {chunk}: {text}");
    }
    let (status, text) = ask(1, 10_300).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("too many pieces"), "{text}");
    assert_eq!(gateway.stored_task_count().await, 2);
}

#[tokio::test]
async fn x16_a_body_that_breaks_off_or_never_comes_is_refused() {
    let gateway = Setup::new()
        .settings(|s| s.http.body_time_max = std::time::Duration::from_millis(200))
        .start()
        .await;
    let head = format!(
        "POST /?agent_id={} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nconnection: close\r\n",
        gateway.agent, gateway.key,
    );
    let (status, _) =
        gateway.exchange_raw(format!("{head}content-length: 9\r\n\r\n{{").as_bytes()).await;
    assert_eq!(status, 408);
    let broken = format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n");
    let (status, _) = gateway.exchange_raw(broken.as_bytes()).await;
    assert_eq!(status, 400);
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_unknown_encodings_and_types_are_415() {
    let gateway = Gateway::start().await;
    let call = || gateway.webhook("").header("content-encoding", "compress");
    check(&call().text("application/json", "{}").expect(415).await, "compress");
    for declared in ["image/png", "application/pdf", "nonsense", "multipart/mixed; boundary=b"] {
        check(&gateway.webhook("").text(declared, "{}").expect(415).await, declared);
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_broken_forms_and_multipart_are_refused() {
    let gateway = Gateway::start().await;
    let many = "a=1&".repeat(2_000);
    let parts = "--b\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n".repeat(2_000)
        + "--b--\r\n";
    let unnamed = b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--\r\n";
    for (declared, body) in [
        (FORM, many.as_bytes()),
        (MULTIPART, parts.as_bytes()),
        (MULTIPART, unnamed.as_slice()),
        (MULTIPART, b"--b\r\n"),
        (MULTIPART, b"no boundary in it"),
        (MULTIPART, b""),
        ("multipart/form-data", b"--b--"),
    ] {
        check(&gateway.webhook("").text(declared, body.to_vec()).expect(400).await, declared);
    }
    let latin = Part::bytes(b"caf\xe9".to_vec());
    let call = gateway.webhook("").multipart(Form::new().part("prompt", latin));
    assert!(call.expect(400).await.detail().contains("prompt"));
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_parameters_of_the_wrong_kind_are_refused_by_name() {
    let gateway = Gateway::start().await;
    for name in ["prompt", "task_id", "user_id", "user_email", "getter", "agent_id"] {
        for wrong in [json!({}), json!(["x"])] {
            let body = json!({"prompt": "x", "agent_id": gateway.agent, name: wrong});
            let answer = gateway.post("/").key(&gateway.key).json(&body).expect(400).await;
            assert!(answer.detail().contains(name), "{}", answer.text);
        }
    }
    let long = json!({"prompt": "x", "task_id": "t".repeat(513)});
    assert!(gateway.webhook("").json(&long).expect(400).await.detail().contains("task_id"));
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_methods_and_paths_that_are_not_there() {
    let gateway = Gateway::start().await;
    check(&gateway.get("/").expect(405).await, "GET /");
    check(&gateway.post("/api/task_status").expect(405).await, "POST /api/task_status");
    for path in ["/nowhere", "/v1", "/api/webhooks/agents/", "//nowhere"] {
        check(&gateway.get(path).expect(404).await, path);
    }
    let huge =
        format!("GET /?a={} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "a".repeat(100_000));
    assert_eq!(gateway.exchange_raw(huge.as_bytes()).await.0, 431);
}

#[tokio::test]
async fn a_stranger_cannot_have_a_large_body_read() {
    let gateway = Gateway::start().await;
    let large = || "x".repeat(1 << 20);
    let url = gateway.url("/");
    let strange = gateway.http.post(&url).header("x-api-key", "wrong").body(large());
    let answer = crate::support::Call::new(strange).expect(403).await;
    assert_eq!(answer.detail(), "Invalid API key");
    let answer = crate::support::Call::new(gateway.http.post(&url).body(large())).expect(401).await;
    assert_eq!(answer.detail(), "API key not specified");
}

#[tokio::test]
async fn a_form_or_query_of_too_many_names_is_refused_before_it_is_decoded() {
    let gateway = Gateway::start().await;
    let many = "a&".repeat(1_000_000);
    let form = gateway.webhook("").text("application/x-www-form-urlencoded", many);
    assert!(form.expect(400).await.detail().contains("1000 names"));
    let query = format!("&{}", "a&".repeat(1_001));
    let answer = gateway.webhook(&query).json(&serde_json::json!({})).expect(400).await;
    assert!(answer.detail().contains("1000 names"), "{}", answer.text);
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_payload_built_to_be_walked_is_walked_once_a_look_up() {
    let gateway = Gateway::start().await;
    // Ten times the CPU time of one walk, and a tenth of the time of a walk that restarts at each step.
    gateway.write_grants("dot-mapper", "[limits]\ncpu_ms = 1000\nwall_ms = 40000\n");
    let zeros = vec!["0"; 500_000].join(",");
    let body = format!("{}{zeros}{}", "[".repeat(100), "]".repeat(100));
    let path = format!("{}1", "0.".repeat(99));
    let spec = format!(r#"&asynchronous=true&params_mapping={{"prompt":"{path}"}}"#);
    let answer = gateway.webhook(&spec).text("application/json", body).expect(200).await;
    let task = gateway.wait_for_end(&answer.task_id()).await;
    assert!(task["input"]["text"] == "0", "the walk led elsewhere");
}

#[tokio::test]
async fn an_array_is_no_object_though_its_values_would_fit_the_fields() {
    let gateway = Gateway::start().await;
    let target = format!("/v1/agents/{}/invoke", gateway.agent);
    let call = gateway.post(&target).key(&gateway.key).json(&json!(["chat", {"text": "hi"}]));
    assert!(call.expect(422).await.detail().contains("not a JSON object"));
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x16_a_users_id_that_no_list_could_show_is_refused() {
    let gateway = Gateway::start().await;
    let invoke = |id: &str| {
        let user = json!({"id": id, "email": "ada@example.com"});
        gateway.post_to_agent("invoke/async").json(&json!({"input": {"text": "hi", "user": user}}))
    };
    let (longest, too_long) = ("u".repeat(512), "u".repeat(513));
    let refused = gateway.webhook("").json(&json!({"user_id": too_long})).expect(400).await;
    assert!(refused.detail().contains("user_id"), "{}", refused.text);
    let mapped = r#"&params_mapping={"user_id":"from"}"#;
    gateway.webhook(mapped).json(&json!({"from": too_long})).expect(400).await;
    assert!(invoke(&too_long).expect(422).await.detail().contains("input.user.id"));
    assert_eq!(gateway.stored_task_count().await, 0);
    gateway.webhook("").json(&json!({"user_id": longest})).expect(200).await;
    invoke(&longest).expect(200).await;
}
