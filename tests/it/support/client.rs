//! A caller of one agent, which accesses a gateway over HTTP only.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Answer, Call, EVENT_TIMEOUT, poll_until};

/// The address of a gateway, and the credentials for one of its agents.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    /// `host:port`.
    pub(crate) listen: String,
    pub(crate) agent: String,
    pub(crate) key: String,
    /// The token of the agent's webhook.
    pub(crate) token: String,
}

impl Client {
    pub(crate) fn new(listen: &str, agent: &str, key: &str, token: &str) -> Self {
        let http = wardgate::tls::http_client()
            .no_proxy()
            .timeout(EVENT_TIMEOUT)
            // The gateway closes connections that are idle for longer, possibly just as the client uses one again.
            .pool_idle_timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let [listen, agent, key, token] = [listen, agent, key, token].map(str::to_owned);
        Self { http: http.unwrap(), listen, agent, key, token }
    }

    /// The same caller, from another local address.
    pub(crate) fn with_local_address(&self, address: std::net::IpAddr) -> Self {
        let http =
            wardgate::tls::http_client().no_proxy().timeout(EVENT_TIMEOUT).local_address(address);
        Self { http: http.build().unwrap(), ..self.clone() }
    }

    /// Sends these bytes and keeps the connection open.
    pub(crate) async fn send_raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.listen).await.unwrap();
        // The gateway may refuse the request and close the connection before all bytes are written.
        let _ = stream.write_all(bytes).await;
        stream
    }

    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.listen)
    }

    pub(crate) fn get(&self, target: &str) -> Call {
        Call::new(self.http.get(self.url(target)))
    }

    pub(crate) fn post(&self, target: &str) -> Call {
        Call::new(self.http.post(self.url(target)))
    }

    /// A request with any method.
    pub(crate) fn request(&self, method: &str, target: &str) -> Call {
        Call::new(self.http.request(method.parse().unwrap(), self.url(target)))
    }

    pub(crate) fn patch(&self, target: &str) -> Call {
        Call::new(self.http.patch(self.url(target)))
    }

    pub(crate) fn delete(&self, target: &str) -> Call {
        Call::new(self.http.delete(self.url(target)))
    }

    /// `POST /` for the agent, with the key and these additions to the query (`&json=true`).
    pub(crate) fn webhook(&self, more: &str) -> Call {
        self.post(&format!("/?agent_id={}{more}", self.agent)).key(&self.key)
    }

    /// `POST` to the agent's webhook.
    pub(crate) fn trigger(&self) -> Call {
        self.post(&format!("/api/webhooks/agents/{}", self.token))
    }

    /// Calls the agent and waits for its answer.
    pub(crate) async fn ask(&self, body: Value) -> Answer {
        self.webhook("").json(&body).expect(200).await
    }

    /// `POST /v1/agents/{id}/invoke`, or another `route` such as `invoke/async`, with this text.
    pub(crate) fn invoke(&self, route: &str, text: &str) -> Call {
        self.post_to_agent(route).json(&json!({"input": {"text": text}}))
    }

    /// `POST` below the agent's path, with the key.
    pub(crate) fn post_to_agent(&self, route: &str) -> Call {
        self.post(&format!("/v1/agents/{}/{route}", self.agent)).key(&self.key)
    }

    /// Starts a run without waiting for it, and returns the task's id.
    pub(crate) async fn start_run(&self, text: &str) -> String {
        self.invoke("invoke/async", text).expect(200).await.task_id()
    }

    /// Stops a task and returns its new state.
    pub(crate) async fn stop_task(&self, id: &str) -> Value {
        self.post(&format!("/v1/tasks/{id}/stop")).key(&self.key).expect(200).await.json()
    }

    /// The newest tasks of the agent's tenant.
    pub(crate) async fn recent_tasks(&self) -> Vec<Value> {
        let page = self.get("/v1/tasks").key(&self.key).expect(200).await.json();
        page["items"].as_array().unwrap().clone()
    }

    /// The task, as its tenant reads it.
    pub(crate) async fn task(&self, id: &str) -> Value {
        self.get(&format!("/v1/tasks/{id}")).key(&self.key).expect(200).await.json()
    }

    /// Every step of a run.
    pub(crate) async fn thread(&self, id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/tasks/{id}/thread")).key(&self.key).expect(200).await;
        answer.json().as_array().unwrap().clone()
    }

    /// Waits until the task has ended, and returns it.
    pub(crate) async fn wait_for_end(&self, id: &str) -> Value {
        poll_until("the end of a task", async || {
            let task = self.task(id).await;
            let unfinished = ["pending", "executing", "paused"];
            (!unfinished.contains(&task["status"].as_str().unwrap())).then_some(task)
        })
        .await
    }

    /// Polls the status of a task of the agent's webhook until it is final, and returns it.
    pub(crate) async fn wait_for_final_status(&self, id: &str) -> Value {
        poll_until("a status that does not change any more", async || {
            let target = format!("/api/task_status?task_id={id}");
            let status = self.get(&target).expect(200).await.json();
            let unfinished = ["PENDING", "STARTED"];
            (!unfinished.contains(&status["status"].as_str().unwrap())).then_some(status)
        })
        .await
    }

    /// Sends these bytes unchanged and reads until the gateway closes the connection: for requests that a
    /// well-behaved client cannot send. The request needs `connection: close`.
    pub(crate) async fn exchange_raw(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.listen).await.unwrap();
        // A server that refuses a request before reading all of it may close before all of it is written.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(EVENT_TIMEOUT, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the gateway neither answered nor closed");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status.unwrap_or_else(|| panic!("no answer: {text:?}")), body.unwrap_or_default())
    }
}
