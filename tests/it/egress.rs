//! A component can reach only what the operator granted. The tool `http_fetch` stands for every component. The
//! server is on this machine, whose addresses no rule allows by default.

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Uri;
use serde_json::{Value, json};

use crate::support::Gateway;
use crate::support::web::{ClosedPort, FAR_LESS_THAN_SLOW, Web};

/// A gateway whose plugin http-fetch has these grants, and a server.
async fn gateway_with_grants(rule: &str) -> (Gateway, Web) {
    let (gateway, web) = (Gateway::start().await, Web::serve_egress_targets().await);
    gateway.write_grants("http-fetch", &rule.replace("PORT", &web.port.to_string()));
    (gateway, web)
}

/// Allows `/open` of the server, and the loopback network that it is in.
const OPEN_PATH_GRANT: &str = "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = PORT\n\
                    path = \"/open\"\nnetworks = [\"127.0.0.0/8\"]\n";

/// Makes the agent fetch, and returns the tool's result.
async fn fetch(gateway: &Gateway, arguments: Value) -> Value {
    let answer = gateway.ask(json!({"prompt": format!("http_fetch {arguments}")})).await;
    assert_eq!(answer.json()["status"], "completed");
    answer.report()["tools"][0].clone()
}

/// Makes the agent fetch what is not granted, and returns the reason.
async fn fetch_refused(gateway: &Gateway, arguments: Value) -> String {
    let tool = fetch(gateway, arguments).await;
    assert_eq!(tool["is_error"], true, "{tool}");
    tool["result"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_a_grant_nothing_is_sent_and_the_grant_is_named() {
    let (gateway, web) = gateway_with_grants("").await;
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    let reason = fetch_refused(&gateway, json!({"url": url})).await;
    for part in ["no grant", "GET", "[[egress]]", "host = \"127.0.0.1\"", "the plugin http-fetch"] {
        assert!(reason.contains(part), "{reason}");
    }
    // The plugin may pass the reason on to anyone, so it must not name the tenant.
    assert!(!reason.contains(&gateway.tenant.to_string()), "{reason}");
}

#[tokio::test]
async fn a_granted_name_at_a_private_address_is_refused() {
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"] {
        let rule = format!("[[egress]]\nhost = \"{host}\"\nscheme = \"http\"\nport = PORT\n");
        let (gateway, web) = gateway_with_grants(&rule).await;
        let url = format!("http://{host}:{}/open/hello", web.port);
        let reason = fetch_refused(&gateway, json!({"url": url})).await;
        assert!(reason.contains("not a public address") && reason.contains("networks"), "{reason}");
    }
}

#[tokio::test]
async fn addresses_in_odd_spellings_are_the_same_addresses() {
    let rule = "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = PORT\n";
    let (gateway, web) = gateway_with_grants(rule).await;
    for host in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"] {
        let url = format!("http://{host}:{}/open/hello", web.port);
        let reason = fetch_refused(&gateway, json!({"url": url})).await;
        assert!(reason.contains("not a public address"), "{host}: {reason}");
    }
}

#[tokio::test]
async fn what_is_granted_is_fetched() {
    let (gateway, web) = gateway_with_grants(OPEN_PATH_GRANT).await;
    let url = format!("http://127.0.0.1:{}/open/hello?x=1", web.port);
    let tool = fetch(&gateway, json!({"url": url})).await;
    let (result, is_error) = (&tool["result"], &tool["is_error"]);
    assert_eq!((&result["status"], &result["body"]), (&json!(200), &json!("hello")));
    assert_eq!((&result["truncated"], is_error), (&json!(false), &json!(false)));
}

#[tokio::test]
async fn another_port_method_path_or_scheme_is_not_granted() {
    let (gateway, web) = gateway_with_grants(OPEN_PATH_GRANT).await;
    let (port, other) = (web.port, Web::serve_egress_targets().await);
    for arguments in [
        json!({"url": format!("http://127.0.0.1:{}/open/hello", other.port)}),
        json!({"url": format!("http://127.0.0.1:{port}/open/hello"), "method": "HEAD"}),
        json!({"url": format!("http://127.0.0.1:{port}/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/opening")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/../closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/%2e%2e/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/..%2fclosed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/..;/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/.;a=b/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/..%3b/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/%252e%252e/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/..%c0%afclosed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/.%00./closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/..%20/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/%u002e%u002e/closed")}),
        json!({"url": format!("http://127.0.0.1:{port}/open/\u{ff0e}\u{ff0e}/closed")}),
        json!({"url": format!("https://127.0.0.1:{port}/open/hello")}),
        json!({"url": format!("http://localhost:{port}/open/hello")}),
    ] {
        let reason = fetch_refused(&gateway, arguments.clone()).await;
        assert!(reason.contains("no grant allows"), "{arguments}: {reason}");
    }
    for wrong in ["file:///etc/passwd", "http://user:pass@127.0.0.1/open", "nonsense"] {
        let reason = fetch_refused(&gateway, json!({"url": wrong})).await;
        assert!(!reason.contains("you should not"), "{reason}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_to_granted_places_only() {
    let (gateway, web) = gateway_with_grants(OPEN_PATH_GRANT).await;
    let url = |place: &str| json!({"url": format!("http://127.0.0.1:{}/open/{place}", web.port)});
    assert_eq!(fetch(&gateway, url("near")).await["result"]["body"], "hello");
    let reason = fetch_refused(&gateway, url("far")).await;
    assert!(reason.contains("no grant allows") && reason.contains("/closed"), "{reason}");
    let reason = fetch_refused(&gateway, url("round")).await;
    assert!(reason.contains("redirects more than three times"), "{reason}");
}

#[tokio::test]
async fn headers_of_the_connection_are_not_the_guests_to_set() {
    let (gateway, web) = gateway_with_grants(OPEN_PATH_GRANT).await;
    let url = format!("http://127.0.0.1:{}/open/headers", web.port);
    for name in ["host", "Transfer-Encoding", "connection", "proxy-authorization"] {
        let reason = fetch_refused(&gateway, json!({"url": url, "headers": {name: "x"}})).await;
        assert!(reason.contains("the gateway's to set"), "{reason}");
    }
    let tool = fetch(&gateway, json!({"url": url, "headers": {"x-mine": "yes"}})).await;
    let seen = tool["result"]["body"].as_str().unwrap();
    assert!(seen.contains("x-mine") && seen.contains("wardgate/"), "{seen}");
    assert!(!seen.contains(&gateway.key), "{seen}");
}

#[tokio::test]
async fn a_path_that_only_looks_odd_is_sent_as_it_is() {
    let server = Router::new().fallback(async |uri: Uri| uri.to_string());
    let web = Web::serve(server).await;
    let gateway = Gateway::start().await;
    gateway.write_grants("http-fetch", &OPEN_PATH_GRANT.replace("PORT", &web.port.to_string()));
    for path in
        ["/open/a..b", "/open/a%20b;v=1", "/open//x", "/open/%C3%BC", "/open/a%3Fb?c=%2e%2e/"]
    {
        let url = format!("http://127.0.0.1:{}{path}", web.port);
        assert_eq!(fetch(&gateway, json!({"url": url})).await["result"]["body"], path);
    }
}

#[tokio::test]
async fn no_header_makes_a_request_one_of_another_method_or_url() {
    let (gateway, web) = gateway_with_grants(OPEN_PATH_GRANT).await;
    let url = format!("http://127.0.0.1:{}/open/headers", web.port);
    for name in
        ["X-HTTP-Method-Override", "x_http_method_override", "x-http-method", "x-method-override"]
    {
        let reason =
            fetch_refused(&gateway, json!({"url": url, "headers": {name: "delete"}})).await;
        assert!(reason.contains("no grant allows GET meant as DELETE"), "{name}: {reason}");
        let same = fetch(&gateway, json!({"url": url, "headers": {name: "GET"}})).await;
        assert_eq!(same["result"]["status"], 200, "{name}: {same}");
    }
    for name in
        ["x-original-url", "X-Rewrite-URL", "x_original_url", "x-forwarded-host", "forwarded"]
    {
        let reason =
            fetch_refused(&gateway, json!({"url": url, "headers": {name: "/closed"}})).await;
        assert!(reason.contains("the gateway's to set"), "{name}: {reason}");
    }
}

#[tokio::test]
async fn a_long_answer_is_cut_and_says_so() {
    let (gateway, web) =
        gateway_with_grants(&format!("{OPEN_PATH_GRANT}[limits]\negress_bytes = 5000\n")).await;
    let url = format!("http://127.0.0.1:{}/open/large", web.port);
    let result = fetch(&gateway, json!({"url": url})).await["result"].clone();
    assert_eq!(
        (result["body"].as_str().unwrap().len(), &result["truncated"]),
        (5000, &json!(true))
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_takes_the_calls_time_and_no_more() {
    let (gateway, web) =
        gateway_with_grants(&format!("{OPEN_PATH_GRANT}[limits]\ntool_wall_ms = 500\n")).await;
    let started = Instant::now();
    let url = format!("http://127.0.0.1:{}/open/slow", web.port);
    let reason = fetch_refused(&gateway, json!({"url": url})).await;
    let reported =
        ["did not answer in time", "did not end in the time", "took longer than the 500 ms"];
    assert!(reported.iter().any(|part| reason.contains(part)), "{reason}");
    let took = started.elapsed();
    assert!(Duration::from_millis(500) <= took && took < FAR_LESS_THAN_SLOW, "{took:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be() {
    let (gateway, closed) = (Gateway::start().await, ClosedPort::new());
    gateway.write_grants("http-fetch", &OPEN_PATH_GRANT.replace("PORT", &closed.port.to_string()));
    let url = format!("http://127.0.0.1:{}/open/hello", closed.port);
    let reason = fetch_refused(&gateway, json!({"url": url})).await;
    assert!(reason.contains("cannot be connected to"), "{reason}");
}

#[tokio::test]
async fn any_guest_is_held_to_its_own_grants() {
    let (gateway, web) = gateway_with_grants(OPEN_PATH_GRANT).await;
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    // The grants of http-fetch do not apply to another plugin.
    let agent = gateway.agent_with_tool("calls_egress", "").await;
    let reported = async |arguments: Value| {
        let prompt = json!({"prompt": format!("fetch {arguments}")});
        agent.ask(prompt).await.report()["tools"][0]["result"].clone()
    };
    let denied = reported(json!({"url": url})).await;
    assert_eq!(denied["code"], "forbidden");
    assert!(denied["message"].as_str().unwrap().contains("the plugin calls-egress"), "{denied}");
    let credential = reported(json!({"url": url, "credential": "github"})).await;
    assert_eq!(credential["code"], "forbidden");
    assert!(credential["message"].as_str().unwrap().contains("credential"), "{credential}");
}
