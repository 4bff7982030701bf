//! Large texts are stored once, and read back unchanged.

use sqlx::AssertSqlSafe;

use super::*;
use crate::tasks::{SHOWN_RESULT_CHARS_MAX, Status};
use crate::trace::Event;

/// The bytes of this column over all rows.
async fn stored(fixture: &Fixture, table: &str, column: &str) -> i64 {
    let query = format!("SELECT coalesce(sum(octet_length({column})), 0) FROM {table}");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(fixture.store.reads()).await.unwrap()
}

/// The step of a prompt with this text, and the step of a model turn with this answer.
fn steps(prompt: &str, answer: &str) -> Vec<Step> {
    let step = |event| Step { at: Timestamp::from_micros(NOON), micros: 7, event };
    vec![
        step(Event::Prompt { text: prompt.to_owned() }),
        step(Event::Model {
            model: "offline".to_owned(),
            text: answer.to_owned(),
            tool_calls: Vec::new(),
            input_tokens: Some(1),
            output_tokens: None,
            usage: None,
            spending: None,
            served_by: None,
            attempts: None,
            fallback: None,
            restarts: None,
        }),
    ]
}

#[tokio::test]
async fn a_payload_and_a_result_are_stored_once_each() {
    let fixture = Fixture::new().await;
    let payload = serde_json::json!({ "text": "ü\"\0🦀".repeat(50_000) }).to_string();
    let result = "an answer\n ü".repeat(20_000);
    let mut task = new_task(fixture.owner);
    task.input.payload = payload.clone();
    task.request.body = payload.clone().into();
    let request = task.request.clone();
    fixture.store.accept(task.clone()).await.unwrap();
    let claimed = fixture.claim_one().await;
    assert_eq!(claimed.task.input, task.input);
    let steps = steps(&format!("do it\n[payload]\n{payload}\n[end ü]"), &result);
    let finish = fixture.finish(task.id, claimed.fence, completed(&result), steps.clone());
    assert!(finish.await.unwrap());

    let Owner { tenant, .. } = fixture.owner;
    assert_eq!(fixture.store.request(tenant, task.id).await.unwrap(), Some(request));
    let read = fixture.task(task.id).await;
    assert_eq!((&read.input, read.result.as_deref()), (&task.input, Some(result.as_str())));
    assert_eq!(fixture.store.steps(&read).await.unwrap(), steps);
    let (_, by_id) = fixture.store.task_with_steps_by_id(task.id).await.unwrap().unwrap();
    assert_eq!(by_id, steps);
    assert_eq!(fixture.store.steps(&claimed.task).await.unwrap(), steps, "read before it ended");

    let mut all = 0;
    for (table, column) in [
        ("bodies", "payload"),
        ("bodies", "body"),
        ("steps", "event"),
        ("tasks", "result"),
        ("result_rests", "rest"),
        ("chunks", "bytes"),
    ] {
        all += stored(&fixture, table, column).await;
    }
    let given = i64::try_from(payload.len() + result.len()).unwrap();
    assert!((given..given + 1_000).contains(&all), "{all} of {given} bytes");
}

#[tokio::test]
async fn what_is_no_repetition_is_stored_as_it_is() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(5_000);
    for (body, prompt, answer, result) in [
        // Short, different, without the text as after a redaction, empty.
        ("short", "short", "short", "short"),
        ("another", &*long, "another", &*long),
        ("", "nothing of it", "", ""),
    ] {
        let mut task = new_task(fixture.owner);
        task.input.payload = format!("{{\"a\":\"{long}\"}}");
        task.request.body = body.to_owned().into();
        let request = task.request.clone();
        fixture.store.accept(task.clone()).await.unwrap();
        let fence = fixture.claim_one().await.fence;
        let mut steps = steps(prompt, answer);
        steps
            .push(Step { event: Event::Failure { reason: result.to_owned() }, ..steps[0].clone() });
        let outcome = Outcome { status: EndStatus::Failed, result: result.to_owned() };
        assert!(fixture.finish(task.id, fence, outcome, steps.clone()).await.unwrap());
        let tenant = fixture.owner.tenant;
        assert_eq!(fixture.store.request(tenant, task.id).await.unwrap(), Some(request));
        let read = fixture.task(task.id).await;
        assert_eq!((read.status, read.result.as_deref()), (Status::Failed, Some(result)));
        assert_eq!(fixture.store.steps(&read).await.unwrap(), steps);
    }
}

#[tokio::test]
async fn a_list_reads_the_beginning_of_a_result_and_a_task_has_all_of_it() {
    let fixture = Fixture::new().await;
    let tenant = fixture.owner.tenant;
    let shown = SHOWN_RESULT_CHARS_MAX as usize;
    let whole = ["ü".repeat(shown), "ü".repeat(shown + 1), "\0".repeat(3 * shown)];
    for result in &whole {
        // Ended by its run, and ended by its tenant.
        let [id, stopped] = fixture.accept(fixture.owner, 2).await.try_into().unwrap();
        let claimed = fixture.claim_one().await;
        assert_eq!(claimed.task.id, id);
        assert!(fixture.finish(id, claimed.fence, completed(result), Vec::new()).await.unwrap());
        assert!(fixture.store.end(tenant, stopped, completed(result)).await.unwrap());
        for id in [id, stopped] {
            assert_eq!(fixture.task(id).await.result.as_deref(), Some(result.as_str()));
        }
    }
    let rows = stored(&fixture, "tasks", "result").await;
    let bytes_max = 2 * (2 * shown + 2 * shown + shown);
    assert!(rows <= i64::try_from(bytes_max).unwrap(), "{rows} bytes in the rows that lists walk");
    let slice = Slice { offset: 0, limit: 10 };
    let (listed, _) =
        fixture.store.list_tasks(tenant, &TaskFilter::default(), slice).await.unwrap();
    for task in &listed {
        let chars = task.result.as_ref().unwrap().chars().count();
        assert!(chars <= shown, "{chars}");
    }
    assert_eq!(listed.len(), 6);
    assert!(fixture.store.delete_task(tenant, listed[0].id).await.unwrap());
    assert!(fixture.store.task_by_id(listed[0].id).await.unwrap().is_none());
}

#[tokio::test]
async fn pages_behind_what_is_counted_are_empty() {
    let fixture = Fixture::new().await;
    fixture.accept(fixture.owner, 1).await;
    for offset in [1, 99_999, 100_000, u32::MAX] {
        let slice = Slice { offset, limit: 100 };
        let filter = TaskFilter::default();
        let (listed, total) =
            fixture.store.list_tasks(fixture.owner.tenant, &filter, slice).await.unwrap();
        assert_eq!((listed.len(), total), (0, 1), "{offset}");
    }
}
