//! Servers that are down, lie, or talk without end: they cost their own tools, and a few notes.

use serde_json::json;

use super::{TOKEN, agent, gateway, last_content, notes, offered, put, used};
use crate::support::mcp_server::{Fault, McpServer, Revision, tool};
use crate::support::model_server::{ModelServer, Reply};

#[tokio::test]
async fn a_redirect_gets_no_token() {
    let model = ModelServer::start([Reply::Text("done")]).await;
    let (server, other) =
        (McpServer::start(Revision::Stateless).await, McpServer::start(Revision::Stateless).await);
    let (_gateway, agent) = gateway(&model, &server).await;
    server.set_fault(Some(Fault::Redirect(other.url())));
    let answer = agent.ask(json!({"prompt": "x", "user_tokens": {"crm": TOKEN}})).await;
    let notes = notes(&agent, &answer.task_id()).await;
    assert!(notes.contains("it answers with HTTP status 307"), "{notes}");
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn a_sick_server_costs_its_own_tools_and_the_trace_says_why() {
    for (revision, fault, why) in [
        (Revision::Stateless, Some(Fault::Status(503, "down")), "it answers with HTTP status 503"),
        (
            Revision::Stateless,
            Some(Fault::Status(200, "<html>")),
            "does not answer as an MCP server",
        ),
        (
            Revision::Unknown,
            None,
            "it speaks no revision of MCP that this gateway does: it has 2031-01-01",
        ),
    ] {
        let call = Reply::Tool("other__echo", r#"{"text":"still here"}"#);
        let model = ModelServer::start([call, Reply::Text("done")]).await;
        let sick = McpServer::start(revision).await;
        let other = McpServer::start(Revision::Stateless).await;
        sick.set_fault(fault);
        let (gateway, _) = gateway(&model, &sick).await;
        put(&gateway, "other", json!({"url": other.url()})).await;
        let agent = agent(&gateway, |agent| agent.mcp_servers.push(used("other"))).await;
        let answer = agent.ask(json!({"prompt": "x"})).await;
        assert_eq!(answer.json()["status"], "completed");
        assert_eq!(last_content(&model), "still here");
        let notes = notes(&agent, &answer.task_id()).await;
        let start = "the run goes on without the tools of the MCP server crm: ";
        assert!(notes.contains(start) && notes.contains(why), "{notes}");
        let listed = gateway.admin_request("GET", "/mcp-servers/crm/tools").expect(502).await;
        assert!(listed.detail().contains(why), "{}", listed.detail());
    }
}

#[tokio::test]
async fn nobody_listens_and_nobody_answers() {
    let model =
        ModelServer::start([Reply::Tool("crm__hold", r#"{"text":""}"#), Reply::Text("done")]).await;
    let server = McpServer::start(Revision::Stateless).await;
    let (gateway, agent) = gateway(&model, &server).await;
    put(&gateway, "crm", json!({"url": server.url(), "seconds_max": 1})).await;
    agent.ask(json!({"prompt": "x"})).await;
    assert_eq!(last_content(&model), "crm__hold: it did not answer within 1 seconds");
    server.release(1);

    put(&gateway, "crm", json!({"url": "http://127.0.0.1:9/mcp"})).await;
    let listed = gateway.admin_request("GET", "/mcp-servers/crm/tools").expect(502).await;
    assert!(listed.detail().contains("cannot be connected to"), "{}", listed.detail());
}

#[tokio::test]
async fn what_a_server_says_besides_its_answer_is_neither_heard_nor_answered() {
    let call = Reply::Tool("crm__chatty", r#"{"text":""}"#);
    let model = ModelServer::start([call, Reply::Text("done")]).await;
    let server = McpServer::start(Revision::WithSessions).await;
    server.set_tools([tool("chatty")]);
    let (_gateway, agent) = gateway(&model, &server).await;
    agent.ask(json!({"prompt": "x"})).await;
    assert_eq!(last_content(&model), "at last");
    let methods: Vec<_> =
        server.requests().iter().map(|(_, body)| body["method"].clone()).collect();
    assert_eq!(
        methods,
        ["server/discover", "initialize", "notifications/initialized", "tools/list", "tools/call"],
        "no common stream is opened, and no ping has an answer"
    );
}

#[tokio::test]
async fn tools_that_cannot_be_offered_cost_a_few_notes() {
    let model = ModelServer::start([Reply::Text("done")]).await;
    let server = McpServer::start(Revision::Stateless).await;
    let (_gateway, agent) = gateway(&model, &server).await;
    let mut tools = vec![tool(""); 1_000];
    tools.push(tool("echo"));
    server.set_tools(tools);
    let answer = agent.ask(json!({"prompt": "x"})).await;
    let thread = agent.thread(&answer.task_id()).await;
    assert!(thread.len() < 20, "{} steps", thread.len());
    let told = notes(&agent, &answer.task_id()).await;
    assert!(told.contains("992 more tools are left out likewise"), "{told}");
    assert!(offered(&model).contains(&"crm__echo".to_owned()));

    // 128 tools of 20 KiB each are more than all turns should send.
    let long = |number: usize| {
        let mut tool = tool(&format!("tool-{number}"));
        tool["inputSchema"]["description"] = "x".repeat(20 << 10).into();
        tool
    };
    server.set_tools((0..128).map(long));
    let answer = agent.ask(json!({"prompt": "x"})).await;
    assert!(offered(&model).len() < 30, "{}", offered(&model).len());
    assert!(notes(&agent, &answer.task_id()).await.contains("it has more tools than are offered"));
}
