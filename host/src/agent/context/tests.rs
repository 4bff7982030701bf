//! A conversation fits, keeps its newest input, and never has a call without its result.

use proptest::prelude::*;

use super::*;

fn user(text: &str) -> Message {
    Message::User(UserMessage {
        prompt: Some(text.to_owned()),
        payload: None,
        fence: String::new(),
        images: Vec::new(),
        left_out_turns: 0,
    })
}

fn answer(text: &str) -> Message {
    Message::Assistant(AssistantMessage { text: text.to_owned(), ..AssistantMessage::default() })
}

fn context(messages: Vec<Message>, tokens: u64, result_bytes_max: usize) -> Context {
    Context::new(
        messages,
        Some(ContextSize { tokens }),
        result_bytes_max,
        ("Instructions.", 0),
        &[],
    )
}

/// A turn with one call for each of these results.
fn take_turn(context: &mut Context, turn: usize, text: &str, results: &[String]) {
    let calls: Vec<ToolCall> = (0..results.len())
        .map(|call| ToolCall {
            id: format!("{turn}.{call}"),
            name: "look".to_owned(),
            arguments: "{}".to_owned(),
        })
        .collect();
    context.measure(&Usage::default());
    context.push_turn(AssistantMessage {
        text: text.to_owned(),
        tool_calls: calls.clone(),
        provider_message: None,
    });
    let results = calls
        .into_iter()
        .zip(results)
        .map(|(call, result)| context.result(call, result.clone(), false))
        .collect();
    context.push_results(results);
}

/// The texts of all results that are in the conversation.
fn results(context: &Context) -> Vec<&ToolResult> {
    let results = context.messages().iter().filter_map(|message| match message {
        Message::ToolResults(results) => Some(results),
        _ => None,
    });
    results.flatten().collect()
}

/// Reads a kept result from its beginning to its end, as a model does.
fn read_whole(context: &Context, result: u32) -> String {
    let mut whole = String::new();
    while let Ok(part) =
        context.read_result(&format!(r#"{{"result": {result}, "offset": {}}}"#, whole.len()))
    {
        whole += part.split_once("]\n").unwrap().1;
    }
    whole
}

#[test]
fn a_long_result_is_shown_in_part_and_can_be_read_to_its_end() {
    let mut context = context(vec![user("Look.")], 1_000_000, 1_000);
    let long = "äöü🦀".repeat(400);
    take_turn(&mut context, 0, "", &["short".to_owned(), long.clone()]);
    let [short, shown] = results(&context).try_into().unwrap();
    assert_eq!(short.text, "short");
    let (beginning, notice) = shown.text.split_once("\n[result 2 has 4000 bytes").unwrap();
    assert!(long.starts_with(beginning) && beginning.len() > 990, "{}", beginning.len());
    assert!(notice.contains(&format!(r#"{{"result": 2, "offset": {}}}"#, beginning.len())));
    assert_eq!(read_whole(&context, 2), long);
    for wrong in [r#"{"result": 1, "offset": 0}"#, r#"{"result": 3, "offset": 0}"#, "{}", "[]"] {
        assert!(context.read_result(wrong).is_err(), "{wrong}");
    }
    let behind = context.read_result(r#"{"result": 2, "offset": 18446744073709551615}"#);
    assert_eq!(behind.unwrap_err(), "result 2 has 4000 bytes");
}

#[test]
fn earlier_tasks_go_first_then_old_results_then_turns() {
    let earlier = [user("before"), answer(&"a".repeat(3_000))];
    let messages = earlier.into_iter().chain([user("now")]).collect();
    let mut context = context(messages, 2_000, 10_000);
    take_turn(&mut context, 0, "", &["r".repeat(2_000)]);
    assert_eq!(context.fit(), None, "it fits");
    take_turn(&mut context, 1, "", &["s".repeat(1_500)]);
    let note = context.fit().unwrap();
    assert!(note.contains("1 earlier tasks, 0 results, 0 turns"), "{note}");
    assert!(
        matches!(&context.messages()[0], Message::User(m) if m.prompt.as_deref() == Some("now"))
    );

    take_turn(&mut context, 2, "", &["t".repeat(3_000)]);
    let note = context.fit().unwrap();
    assert!(note.contains("0 earlier tasks, 2 results, 0 turns"), "{note}");
    let texts: Vec<&str> = results(&context).iter().map(|result| &result.text[..8]).collect();
    assert_eq!(texts, ["[result ", "[result ", "tttttttt"]);
    assert_eq!(read_whole(&context, 1), "r".repeat(2_000), "nothing is lost");

    take_turn(&mut context, 3, &"long text ".repeat(900), &["u".to_owned()]);
    take_turn(&mut context, 4, "", &["v".to_owned()]);
    let note = context.fit().unwrap();
    assert!(note.ends_with("4 turns)"), "{note}");
    let Message::User(input) = &context.messages()[0] else { panic!("the input stays") };
    assert!(input.fenced().starts_with("now\n\n[4 turns that followed"), "{}", input.fenced());
    assert_eq!(results(&context).len(), 1);
    assert_eq!(read_whole(&context, 4), "u", "results of turns that are left out can be read too");
}

#[test]
fn the_last_results_are_cut_if_nothing_else_is_left() {
    let mut context = context(vec![user("Look.")], 2_000, 100_000);
    take_turn(&mut context, 0, "", &["r".repeat(50_000), "short".to_owned()]);
    assert!(context.fit().unwrap().contains("1 results"));
    let [cut, short] = results(&context).try_into().unwrap();
    assert!(cut.text.starts_with("rrr") && cut.text.len() < 3_000);
    assert_eq!(short.text, "short");
    assert_eq!(read_whole(&context, 1).len(), 50_000);
}

#[test]
fn what_a_provider_counts_takes_precedence_over_lengths() {
    let mut context = context(vec![user(&"x".repeat(3_000))], 4_000, 10_000);
    take_turn(&mut context, 0, "", &["r".repeat(9_000)]);
    assert_eq!(context.tokens(), (3_000 + 13 + 9_000 + 6) / 3);
    let usage = Usage { fresh_input: Some(3_500), ..Usage::default() };
    context.measure(&usage);
    assert_eq!(context.tokens(), 3_500);
    take_turn(&mut context, 1, "", &["s".repeat(600)]);
    assert_eq!(context.fit(), None, "3,500 and 200");
    take_turn(&mut context, 2, "", &["t".repeat(6_000)]);
    assert!(context.fit().is_some());
}

#[test]
fn a_model_without_a_limit_sees_everything() {
    let mut context = Context::new(vec![user("Look.")], None, 1_000, ("", 0), &[]);
    take_turn(&mut context, 0, "", &["r".repeat(50_000)]);
    assert_eq!(context.fit(), None);
    assert_eq!(results(&context)[0].text.len(), 50_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_left_out_the_conversation_is_whole(
        tasks in 0_usize..4,
        turns in prop::collection::vec(
            (0_usize..4_000, prop::collection::vec(0_usize..20_000, 1..4)), 0..12),
        tokens in 768_u64..8_000,
        result_bytes_max in 1_024_usize..40_000,
        reported in prop::option::of(0_u64..20_000),
    ) {
        let mut messages = Vec::new();
        for _ in 0..tasks {
            messages.extend([user(&"earlier ".repeat(60)), answer(&"answer ".repeat(60))]);
        }
        messages.push(user("the newest"));
        let mut context = context(messages, tokens, result_bytes_max);
        for (turn, (text, lengths)) in turns.iter().enumerate() {
            context.fit();
            let usage = Usage { fresh_input: reported, ..Usage::default() };
            context.measure(&usage);
            let texts: Vec<String> = lengths.iter().map(|length| "r".repeat(*length)).collect();
            take_turn(&mut context, turn, &"t".repeat(*text), &texts);
        }
        context.fit();

        let inputs: Vec<&str> = context.messages().iter().filter_map(|message| match message {
            Message::User(message) => message.prompt.as_deref(),
            _ => None,
        }).collect();
        prop_assert_eq!(inputs.last(), Some(&"the newest"));
        prop_assert!(matches!(context.messages().first(), Some(Message::User(_))));
        // Each turn that calls tools is followed by the results of its calls, and no result stands alone.
        let mut waiting: Option<Vec<&str>> = None;
        for message in context.messages() {
            match message {
                Message::ToolResults(results) => {
                    let ids: Vec<&str> = results.iter().map(|result| result.call.id.as_str()).collect();
                    prop_assert_eq!(waiting.take(), Some(ids));
                }
                Message::Assistant(message) => {
                    prop_assert!(waiting.is_none());
                    let calls = message.tool_calls.iter().map(|call| call.id.as_str());
                    waiting = (!message.tool_calls.is_empty()).then(|| calls.collect());
                }
                Message::User(_) => prop_assert!(waiting.is_none()),
            }
        }
        prop_assert!(waiting.is_none());
        // Whatever is not shown as a whole can be read.
        let mut number = 0;
        for length in turns.iter().flat_map(|(_, lengths)| lengths) {
            number += 1;
            let shown = results(&context).iter().any(|result| {
                result.number == number && result.text == "r".repeat(*length)
            });
            prop_assert!(shown || read_whole(&context, number).len() == *length);
        }
    }
}
