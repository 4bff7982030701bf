//! The host attaches a credential where the grants allow it, and the plugin never sees it. Also: the number of
//! requests, and the URLs, that a plugin may send.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use super::{agent, tool_result};
use crate::support::web::Web;
use crate::support::{Client, Gateway};

/// The log lines of the tool call in the trace.
async fn logs(agent: &Client, arguments: Value) -> Vec<Value> {
    let answer = agent.ask(json!({"prompt": format!("fetch {arguments}")})).await;
    let thread = agent.thread(&answer.task_id()).await;
    let step = thread.iter().find(|step| step["plugin"].is_string()).unwrap();
    step["logs"].as_array().unwrap().clone()
}

/// A handler that echoes the request in its headers, body and redirect.
async fn echo_request(uri: Uri, headers: HeaderMap) -> (StatusCode, HeaderMap, String) {
    let mut back = HeaderMap::new();
    let sent = headers.get("authorization").cloned();
    sent.map(|sent| back.insert("x-seen", sent));
    let status = if uri.path().starts_with("/moved") {
        back.insert("location", format!("/closed{}", uri.path()).parse().unwrap());
        StatusCode::FOUND
    } else {
        StatusCode::OK
    };
    // As JSON too, where some characters get a backslash.
    let quoted = Value::from(format!("{headers:?}"));
    (status, back, format!("{uri} {headers:?} {quoted}"))
}

/// Grants for the server's paths `/open/` and `/moved/`, with a credential that goes to `place`.
fn grants_with_credential(web: &Web, place: &str) -> String {
    format!(
        "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\nnetworks = [\"127.0.0.0/8\"]\n\
         credentials = [\"api\"]\npath = \"/open/\"\n\
         [[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\nnetworks = [\"127.0.0.0/8\"]\n\
         credentials = [\"api\"]\npath = \"/moved/\"\n\
         [credentials.api]\nsecret = \"example-api-key\"\n{place}\n",
        web.port, web.port
    )
}

#[tokio::test]
async fn a_credential_goes_along_where_the_grant_says_and_the_plugin_never_sees_it() {
    for (secret, place, url, sent) in [
        (
            "s3cret/with+more=",
            "header = \"authorization\"\nprefix = \"Bearer \"",
            "/open/x",
            "Bearer s3cret/with+more=",
        ),
        (
            "s3cret/with+more=",
            "query = \"key\"",
            "/open/x?a=1",
            "/open/x?a=1&key=s3cret%2Fwith%2Bmore%3D",
        ),
        (
            "123:ABC-def_ghi",
            "path = \"CREDENTIAL\"",
            "/open/botCREDENTIAL/x",
            "/open/bot123:ABC-def_ghi/x",
        ),
        (
            "123:ABC-def_ghi",
            "path = \"CREDENTIAL\"",
            "/moved/botCREDENTIAL/x",
            "/moved/bot123:ABC-def_ghi/x",
        ),
    ] {
        let gateway = Gateway::start().await;
        gateway.store_secret("example-api-key", secret, false).await;
        let (seen_by, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let server = Router::new().fallback(get(async move |uri: Uri, headers: HeaderMap| {
            seen_by.send(format!("{uri} {:?}", headers.get("authorization"))).unwrap();
            echo_request(uri, headers).await
        }));
        let web = Web::serve(server).await;
        let agent = agent(&gateway, "hunts_secret", &grants_with_credential(&web, place)).await;
        let url = format!("http://127.0.0.1:{}{url}", web.port);
        let found = tool_result(&agent, "hunt", json!({"url": url, "credential": "api"})).await;
        let arrived = seen.recv().await.unwrap();
        assert!(arrived.contains(sent), "the server gets it: {arrived}");
        // In no form: plain, encoded as in a query, or as JSON.
        let text = found.to_string();
        for form in [secret, "s3cret", "with%2Bmore", "ABC-def_ghi"] {
            assert!(!text.contains(form), "{form} in {text}");
        }
        // Nor does the database hold it.
        let kept = gateway.home.database_bytes();
        assert!(!kept.windows(secret.len()).any(|part| part == secret.as_bytes()));
    }
}

/// The credential in one of the encodings that servers use.
fn written(form: &str, key: &str) -> String {
    let each = |is: fn(u8) -> bool, as_this: fn(u8) -> String| -> String {
        let one = |byte: u8| if is(byte) { as_this(byte) } else { char::from(byte).to_string() };
        key.bytes().map(one).collect()
    };
    let sign = |byte: u8| !byte.is_ascii_alphanumeric();
    match form {
        "quoted" => each(
            |byte| !byte.is_ascii_alphanumeric() && byte != b'/',
            |byte| format!("%{byte:02X}"),
        ),
        "percent" => each(sign, |byte| format!("%{byte:02x}")),
        "twice" => each(sign, |byte| format!("%25{byte:02X}")),
        "json" => each(|byte| byte == b'/', |byte| format!("\\{}", char::from(byte))),
        "unicode" => each(|_| true, |byte| format!("\\u{:04X}", u32::from(byte))),
        "entity" => each(sign, |byte| format!("&#{byte};")),
        "hex-entity" => each(sign, |byte| format!("&#x{byte:x};")),
        "hex" => each(|_| true, |byte| format!("{byte:02x}")),
        "HEX" => each(|_| true, |byte| format!("{byte:02X}")),
        "base64" => STANDARD.encode(key),
        "base64-1" => STANDARD.encode(format!("a{key}")),
        "base64-2" => STANDARD.encode(format!("ab{key}")),
        "base64url" => URL_SAFE.encode(format!("user:{key}")),
        _ => key.to_owned(),
    }
}

#[tokio::test]
async fn an_answer_that_repeats_a_credential_tells_neither_it_nor_its_length_nor_a_digest() {
    let gateway = Gateway::start().await;
    // In the body, in headers, and in every header that describes the body.
    let server = async |uri: Uri, headers: HeaderMap| {
        let key = headers["x-key"].to_str().unwrap();
        let body =
            format!("{{\"seen\": \"{}\"}}", written(uri.path().trim_start_matches("/open/"), key));
        let digest = BuildHasherDefault::<DefaultHasher>::default().hash_one(&body);
        let mut back = HeaderMap::new();
        for name in [
            "etag",
            "content-md5",
            "digest",
            "content-digest",
            "repr-digest",
            "x-goog-hash",
            "x-amz-checksum-sha256",
            "x-goog-stored-content-length",
            "signature",
        ] {
            back.insert(name, format!("\"{digest}-{}\"", body.len()).parse().unwrap());
        }
        back.insert("x-seen", format!("<{key}>").parse().unwrap());
        let name =
            axum::http::HeaderName::from_bytes(format!("x-{}", written("hex", key)).as_bytes());
        back.insert(name.unwrap(), "1".parse().unwrap());
        (back, body)
    };
    let web = Web::serve(Router::new().fallback(server)).await;
    let agent =
        agent(&gateway, "hunts_secret", &grants_with_credential(&web, "header = \"x-key\"")).await;
    for form in [
        "plain", "quoted", "percent", "twice", "json", "unicode", "entity", "hex-entity", "hex",
        "HEX", "base64", "base64-1", "base64-2", "base64url",
    ] {
        let mut told_of = Vec::new();
        for secret in ["s3cret/with+more", "another/Key-of-some+length_42~x"] {
            gateway.store_secret("example-api-key", secret, false).await;
            let url = format!("http://127.0.0.1:{}/open/{form}", web.port);
            let found = tool_result(&agent, "hunt", json!({"url": url, "credential": "api"})).await;
            let echo = &found["echoes"][0];
            let headers = echo["headers"].as_array().unwrap().iter();
            let headers: Vec<_> = headers.filter(|header| header[0] != "date").cloned().collect();
            told_of.push((headers, echo["text"].as_str().unwrap().to_owned()));
        }
        assert_eq!(told_of[0], told_of[1], "{form}: the two cannot be told apart");
        assert!(told_of[0].1.contains("[redacted]"), "{form}: {told_of:?}");
        let seen = told_of[0].0.iter().find(|header| header[0] == "x-seen");
        assert_eq!(seen.unwrap()[1], "<[redacted]>", "other headers are there: {form}");
    }
}

#[tokio::test]
async fn a_credential_at_the_edge_of_an_answer_that_is_cut_is_taken_out_too() {
    let gateway = Gateway::start().await;
    gateway.store_secret("example-api-key", "abcdefghijklmnop", false).await;
    let server = Router::new().fallback(get(async |headers: HeaderMap| {
        let key = headers["authorization"].to_str().unwrap().to_owned();
        // Twice complete, and once across the end of the 100 bytes that the plugin sees.
        format!("{key}{key}{}{key}", "x".repeat(58))
    }));
    let web = Web::serve(server).await;
    let grants = grants_with_credential(&web, "header = \"authorization\"");
    let limits = "[limits]\negress_bytes = 100\ntool_cpu_ms = 10000\n";
    let agent = gateway.agent_with_tool("hunts_secret", &format!("{grants}{limits}")).await;
    let url = format!("http://127.0.0.1:{}/open/x", web.port);
    let found = tool_result(&agent, "hunt", json!({"url": url, "credential": "api"})).await;
    let text = found["echoes"][0]["text"].as_str().unwrap();
    assert!(text.len() <= 100 && text.contains("xxxx"), "{text}");
    assert!(!text.contains("abc"), "{text}");
}

#[tokio::test]
async fn a_credential_goes_only_where_a_rule_names_it_and_along_no_redirect() {
    let gateway = Gateway::start().await;
    gateway.store_secret("example-api-key", "s3cret-s3cret", false).await;
    let (seen_by, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Router::new().fallback(get(async move |uri: Uri, headers: HeaderMap| {
        seen_by.send((uri.path().to_owned(), headers.contains_key("authorization"))).unwrap();
        let to = if uri.path() == "/open/first" { "/open/second" } else { "/" };
        let found = uri.path() == "/open/first";
        (if found { StatusCode::FOUND } else { StatusCode::OK }, [("location", to)])
    }));
    let web = Web::serve(server).await;
    let grants = grants_with_credential(&web, "header = \"authorization\"");
    let agent = agent(&gateway, "calls_egress", &grants).await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", web.port);
    let call = json!({"url": url("/open/first"), "credential": "api"});
    assert_eq!(tool_result(&agent, "fetch", call).await["status"], 200);
    assert_eq!(seen.recv().await.unwrap(), ("/open/first".to_owned(), true));
    assert_eq!(seen.recv().await.unwrap(), ("/open/second".to_owned(), false));

    let unnamed = grants.replace("credentials = [\"api\"]\n", "");
    gateway.admin_request("PUT", "/plugins/calls-egress/grants").body(unnamed).expect(200).await;
    let call = json!({"url": url("/open/first"), "credential": "api"});
    let refused = tool_result(&agent, "fetch", call).await;
    assert_eq!(refused["code"], "forbidden");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("may not go to 127.0.0.1") && message.contains("[[egress]]"),
        "{message}"
    );
    assert!(seen.try_recv().is_err(), "nothing is sent without the credential either");
}

/// A server that redirects to another one and puts the received credential into the location, in the encoding
/// that the path names.
async fn leaks_to(other: u16) -> Web {
    let server = async move |uri: Uri, headers: HeaderMap| {
        let in_header = headers.get("x-key").map(|key| key.to_str().unwrap().to_owned());
        let after = |text: &str, mark: &str| text.split_once(mark).map(|(_, key)| key.to_owned());
        let in_query = uri.query().and_then(|query| after(query, "key="));
        let key = in_header.or(in_query).or_else(|| after(uri.path(), "/bot")).unwrap_or_default();
        let percent =
            |sign: &str| key.bytes().map(|byte| format!("{sign}{byte:02X}")).collect::<String>();
        let tail = match uri.path().split('/').nth(2).unwrap() {
            "query" => format!("/x?leak={key}"),
            "path" => format!("/{key}/x"),
            "fragment" => format!("/x#{key}"),
            "percent" => format!("/x?leak={}", percent("%")),
            "twice" => format!("/x?leak={}", percent("%25")),
            "base64" => format!("/x?leak={}", STANDARD.encode(format!("user:{key}"))),
            "hex" => format!("/x?leak={}", percent("")),
            _ => "/x?leak=nothing".to_owned(),
        };
        let to = format!("http://127.0.0.1:{other}{tail}");
        (StatusCode::TEMPORARY_REDIRECT, [("location", to)])
    };
    Web::serve(Router::new().fallback(server)).await
}

#[tokio::test]
async fn a_redirect_carries_no_credential_to_where_it_is_not_granted() {
    let secret = "s3cret-Key_42x";
    let gateway = Gateway::start().await;
    gateway.store_secret("example-api-key", secret, false).await;
    let (seen_by, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let other =
        Router::new().fallback(async move |uri: Uri| seen_by.send(uri.to_string()).unwrap());
    let other = Web::serve(other).await;
    let web = leaks_to(other.port).await;
    let grants = |place: &str, there: &str| {
        let rule =
            "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nnetworks = [\"127.0.0.0/8\"]\n";
        format!(
            "{rule}port = {}\ncredentials = [\"api\"]\npath = \"/open/\"\n{rule}port = {}\n{there}\n\
             [credentials.api]\nsecret = \"example-api-key\"\n{place}\n{}",
            web.port,
            other.port,
            super::RELAXED_LIMITS
        )
    };
    let agent = gateway.agent_with_tool("calls_egress", "").await;
    let put = async |grants: String| {
        gateway.admin_request("PUT", "/plugins/calls-egress/grants").body(grants).expect(200).await;
    };
    let forms = ["query", "path", "fragment", "percent", "twice", "base64", "hex"];
    for (place, tail) in [
        ("header = \"x-key\"", ""),
        ("query = \"key\"", ""),
        ("path = \"CREDENTIAL\"", "/botCREDENTIAL"),
    ] {
        let call = |form: &str| {
            let url = format!("http://127.0.0.1:{}/open/{form}{tail}", web.port);
            json!({"url": url, "credential": "api"})
        };
        put(grants(place, "")).await;
        for form in forms {
            let refused = tool_result(&agent, "fetch", call(form)).await;
            assert_eq!(refused["code"], "forbidden", "{place} {form}: {refused}");
            let message = refused["message"].as_str().unwrap();
            assert!(message.contains("redirects with the credential \"api\""), "{message}");
            assert!(message.contains("[[egress]]") && !message.contains("s3cret"), "{message}");
        }
        assert!(seen.try_recv().is_err(), "nothing arrives there");
        // A redirect without the credential is followed, and the host does not attach it.
        assert_eq!(tool_result(&agent, "fetch", call("none")).await["status"], 200);
        assert_eq!(seen.try_recv().unwrap(), "/x?leak=nothing");
        // If the grants allow the credential at the target too, the redirect may carry it.
        put(grants(place, "credentials = [\"api\"]")).await;
        for form in forms {
            assert_eq!(
                tool_result(&agent, "fetch", call(form)).await["status"],
                200,
                "{place} {form}"
            );
            assert!(seen.try_recv().is_ok(), "{form}");
        }
    }
}

#[tokio::test]
async fn a_redirect_with_the_credential_to_nowhere_granted_does_not_show_it() {
    let gateway = Gateway::start().await;
    gateway.store_secret("example-api-key", "s3cret-Key_42x", false).await;
    let web = leaks_to(1).await;
    let agent =
        agent(&gateway, "calls_egress", &grants_with_credential(&web, "query = \"key\"")).await;
    for form in ["query", "path", "percent", "twice", "base64", "hex"] {
        let url = format!("http://127.0.0.1:{}/open/{form}", web.port);
        let refused = tool_result(&agent, "fetch", json!({"url": url, "credential": "api"})).await;
        assert_eq!(refused["code"], "forbidden", "{form}: {refused}");
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains("no grant allows GET http://127.0.0.1:1/"), "{message}");
        assert!(!message.contains("s3cret") && !message.contains("Key_42"), "{form}: {message}");
    }
}

#[tokio::test]
async fn what_is_only_counted_is_sent_and_noted_but_to_no_private_address() {
    let gateway = Gateway::start().await;
    gateway.store_secret("example-api-key", "s3cret-s3cret", false).await;
    let web = Web::serve_egress_targets().await;
    let rule = grants_with_credential(&web, "header = \"authorization\"");
    let agent = agent(&gateway, "calls_egress", &format!("egress-mode = \"count\"\n{rule}")).await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", web.port);
    // A request that a rule allows is not counted.
    assert_eq!(logs(&agent, json!({"url": url("/open/hello")})).await, Vec::<Value>::new());
    // A request that no rule allows is counted. It would have been sent if the address were public.
    let call = json!({"url": url("/closed")});
    let counted = logs(&agent, call.clone()).await;
    assert_eq!(counted.len(), 1);
    let line = counted[0].as_str().unwrap();
    for part in ["Count egress", "GET", "/closed", "[[egress]]"] {
        assert!(line.contains(part), "{line}");
    }
    let refused = tool_result(&agent, "fetch", call).await;
    assert!(refused["message"].as_str().unwrap().contains("not a public address"), "{refused}");
    let with_credential = json!({"url": url("/closed"), "credential": "api"});
    let refused = tool_result(&agent, "fetch", with_credential).await;
    assert!(refused["message"].as_str().unwrap().contains("may not go to"), "{refused}");
    // A redirect to a place that no rule allows is counted, too.
    assert_eq!(logs(&agent, json!({"url": url("/open/far")})).await.len(), 1);
    let plugins = &gateway.services.plugins;
    let binding = plugins.binding(gateway.tenant, &"calls-egress".parse().unwrap()).await.unwrap();
    assert_eq!(binding.stats().snapshot().egress_counted, 4);
}

#[tokio::test]
async fn a_call_sends_as_many_requests_as_it_may_and_no_more() {
    let gateway = Gateway::start().await;
    let (arrived, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Router::new().fallback(get(async move || arrived.send(()).unwrap()));
    let web = Web::serve(server).await;
    let grants = grants_with_credential(&web, "header = \"authorization\"");
    let grants = format!("{grants}[limits]\negress_requests = 5\ntool_cpu_ms = 10000\n");
    let agent = gateway.agent_with_tool("sends_many", &grants).await;
    let url = format!("http://127.0.0.1:{}/open/x", web.port);
    for calls in 1..3 {
        let actual = tool_result(&agent, "send", json!({"url": url, "times": 1_000})).await;
        assert_eq!(actual, json!({"200": 5, "rate-limited": 995}), "call {calls}");
    }
    let mut count = 0;
    while seen.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 10, "each call has its own five");
}

#[tokio::test]
async fn a_request_that_is_not_granted_answers_no_guess_of_a_credential() {
    let gateway = Gateway::start().await;
    gateway.store_secret("example-api-key", "739154", false).await;
    let web = Web::serve(Router::new()).await;
    for mode in ["", "egress-mode = \"count\"\n"] {
        let grants = format!("{mode}{}", grants_with_credential(&web, "header = \"x-key\""));
        let agent = agent(&gateway, "calls_egress", &grants).await;
        let guess = async |guess: &str| {
            let url = format!("http://127.0.0.1:1/{guess}/");
            let arguments = json!({"url": url, "credential": "api"});
            let logs = logs(&agent, arguments.clone()).await;
            let result = tool_result(&agent, "fetch", arguments).await.to_string();
            format!("{result}{}", Value::from(logs)).replace(guess, "GUESS")
        };
        let (wrong, right) = (guess("739153").await, guess("739154").await);
        assert_eq!(wrong, right);
        assert!(
            right.contains("GUESS") || !mode.is_empty(),
            "what it wrote itself is told it: {right}"
        );
    }
}

#[tokio::test]
async fn where_an_answer_is_cut_tells_nothing_of_a_credentials_length() {
    let gateway = Gateway::start().await;
    // The path says how many bytes come before and after the key.
    let server = async |uri: Uri, headers: HeaderMap| {
        let key = headers["x-key"].to_str().unwrap().to_owned();
        let numbers = uri.path().trim_start_matches("/open/").split('-');
        let [before, behind] = [0, 1].map(|at| numbers.clone().nth(at).unwrap().parse().unwrap());
        format!("{}{key}{}", "b".repeat(before), "e".repeat(behind))
    };
    let web = Web::serve(Router::new().fallback(server)).await;
    let grants = format!(
        "{}[limits]\negress_bytes = 1000\ntool_cpu_ms = 10000\n",
        grants_with_credential(&web, "header = \"x-key\"")
    );
    let agent = gateway.agent_with_tool("calls_egress", &grants).await;
    let mut told_of = Vec::new();
    for secret in ["short-one", "a-very-much-longer-one-than-that-0123456789"] {
        gateway.store_secret("example-api-key", secret, false).await;
        let mut answers = Vec::new();
        // Within the limit, at its edge in all ways, and far beyond what is read.
        for (before, behind) in (950..1_010).map(|before| (before, 20)).chain([
            (0, 980),
            (0, 989),
            (0, 990),
            (0, 991),
            (0, 1_000),
            (0, 2_000_000),
            (2_000_000, 0),
        ]) {
            let url = format!("http://127.0.0.1:{}/open/{before}-{behind}", web.port);
            let result =
                tool_result(&agent, "fetch", json!({"url": url, "credential": "api"})).await;
            answers.push(((before, behind), result));
        }
        told_of.push(answers);
    }
    for (short, long) in told_of[0].iter().zip(&told_of[1]) {
        assert_eq!(short, long);
    }
    assert_eq!(told_of[0].iter().find(|(at, _)| *at == (0, 990)).unwrap().1["truncated"], false);
    assert_eq!(told_of[0].iter().find(|(at, _)| *at == (0, 991)).unwrap().1["truncated"], true);
}

#[tokio::test]
async fn a_url_that_takes_long_to_read_is_not_read() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("calls_egress", "").await;
    for (url, fill, told_of) in [
        ("http://FILL.example/", 300_000, "the URL has more than 8192 bytes"),
        ("http://FILL.example/", 1_000, "the host in the URL has more than 1024 bytes"),
        ("http:\\\\a@FILL:99999/", 1_000, "the host in the URL has more than 1024 bytes"),
        ("http://a.example/FILL", 3_000, "the URL has more than 8192 bytes"),
        ("http://a.example/FILL", 1_000, "no grant allows GET http://a.example:80/"),
    ] {
        let refused = tool_result(&agent, "fetch", json!({"url": url, "fill": fill})).await;
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(told_of), "{url}: {message}");
    }
}

#[tokio::test]
async fn how_long_a_url_may_be_tells_nothing_of_a_credentials_length() {
    let gateway = Gateway::start().await;
    let web = Web::serve(Router::new().fallback(get(async || "thanks"))).await;
    let agent =
        agent(&gateway, "calls_egress", &grants_with_credential(&web, "query = \"key\"")).await;
    for secret in ["k", &"%".repeat(16_384)] {
        gateway.store_secret("example-api-key", secret, false).await;
        let start = format!("http://127.0.0.1:{}/open/", web.port);
        for (length, is_sent) in [(8_192, true), (8_193, false)] {
            let url = format!("{start}{}", "x".repeat(length - start.len()));
            let result =
                tool_result(&agent, "fetch", json!({"url": url, "credential": "api"})).await;
            assert_eq!(result["status"] == 200, is_sent, "{length}: {result}");
        }
    }
}
