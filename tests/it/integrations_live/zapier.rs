//! Zapier: the answer to a form is delivered to the URL in the form.

use serde_json::json;

use super::{FORM, LiveChannel, SECRET, clock, form};
use crate::support::Setup;

#[tokio::test]
async fn a_form_is_answered_at_the_url_that_it_names() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "zapier-form", "deliver").await;
    let callback = format!("{}/hooks/callback/7f3a", live.api.url());
    let body = form(&[("prompt", "is 1 < 2?"), ("callback_url", callback.as_str())]);
    let call = live.post().header("x-webhook-token", SECRET).text(FORM, body);
    let task = call.expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.request_line, "POST /hooks/callback/7f3a");
    assert!(!sent.headers.contains_key("authorization"), "{sent:?}");
    assert_eq!(sent.header("content-type"), "application/json");
    assert_eq!(sent.json(), json!({"id": task, "status": "completed", "result": result}));
}
