//! Real payloads: GitHub's webhooks, as its community collected them. Every value of each payload can be mapped and
//! read by a getter (rows X9 and X11), and its bytes reach the agent unchanged (rows X6 and D1).

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use crate::support::{BundledPlugins, Client, Gateway, Setup};

/// The collection; `tests/payloads/README.md` names its source.
const COLLECTION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/payloads/node_modules/@octokit/webhooks-examples/api.github.com/index.json"
);

/// The contents of the collection: with an empty one, every test would pass.
const KINDS: usize = 58;
const EXAMPLES: usize = 329;
const LEAVES: usize = 63_411;
/// Objects and arrays, except the payloads themselves.
const INNER_NODES: usize = 4_636;
/// Labels of container images, such as `org.opencontainers.image.title`. A dot always separates, so a path cannot
/// refer to a key with a dot in it.
const VALUES_WITHOUT_PATH: usize = 8;

/// How many workers run concurrently; a machine with two cores cannot use more.
const WORKERS: usize = 4;

/// One payload, with its text as in the collection.
struct Example {
    /// The event's name and a number, for error messages.
    name: String,
    text: String,
    value: Value,
}

/// A value of a payload, and its dot path.
struct PathValue<'v> {
    path: String,
    value: &'v Value,
}

fn examples() -> Vec<Example> {
    #[derive(Deserialize)]
    struct Kind {
        name: String,
        examples: Vec<Box<RawValue>>,
    }
    let text = std::fs::read_to_string(COLLECTION).unwrap_or_else(|error| {
        panic!("{COLLECTION}: {error}; to install it:\n\n  cargo xtask payloads\n")
    });
    let kinds: Vec<Kind> = serde_json::from_str(&text).unwrap();
    assert_eq!(kinds.len(), KINDS);
    let mut examples = Vec::new();
    for kind in &kinds {
        for (number, example) in kind.examples.iter().enumerate() {
            let (name, text) = (format!("{} {number}", kind.name), example.get().to_owned());
            let value = serde_json::from_str(&text).unwrap();
            examples.push(Example { name, text, value });
        }
    }
    assert_eq!(examples.len(), EXAMPLES);
    examples
}

fn is_leaf(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

impl Example {
    /// Every value that has a dot path, and the number of values that have none.
    fn path_values(&self) -> (Vec<PathValue<'_>>, usize) {
        let (mut found, mut without_path) = (Vec::new(), 0);
        let mut pending = vec![(Vec::new(), &self.value)];
        while let Some((steps, value)) = pending.pop() {
            let mut push_child =
                |step: String, value| pending.push(([steps.clone(), vec![step]].concat(), value));
            match value {
                Value::Object(fields) => {
                    fields.iter().for_each(|(key, v)| push_child(key.clone(), v))
                }
                Value::Array(items) => {
                    items
                        .iter()
                        .enumerate()
                        .for_each(|(at, item)| push_child(at.to_string(), item));
                }
                _ => {}
            }
            match steps.join(".") {
                _ if steps.iter().any(|step| step.contains('.')) => without_path += 1,
                path if !path.is_empty() => found.push(PathValue { path, value }),
                _ => {}
            }
        }
        (found, without_path)
    }
}

/// Processes the items with [`WORKERS`] concurrent workers.
async fn run_concurrently<T, W>(items: impl IntoIterator<Item = T>, work: impl Fn(T) -> W)
where
    W: Future<Output = ()> + Send + 'static,
{
    let mut workers = JoinSet::new();
    for item in items {
        if workers.len() == WORKERS {
            workers.join_next().await.unwrap().unwrap();
        }
        workers.spawn(work(item));
    }
    workers.join_all().await;
}

/// The parameter value that a mapping yields for a leaf.
fn stringified(leaf: &Value) -> Option<String> {
    match leaf {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        scalar => Some(scalar.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_every_scalar_of_every_example_can_be_mapped() {
    let gateway = Gateway::start().await;
    let plugins = BundledPlugins::bind(&gateway).await;
    let (mut work, mut leaves, mut without_path) = (Vec::new(), 0, 0);
    for example in examples() {
        let (places, unreachable) = example.path_values();
        let wanted = places.iter().filter(|place| is_leaf(place.value));
        let (paths, expected): (Vec<_>, Vec<_>) =
            wanted.map(|leaf| (leaf.path.clone(), stringified(leaf.value))).unzip();
        leaves += paths.len();
        without_path += unreachable;
        work.push((example, paths, expected));
    }
    assert_eq!((leaves, without_path), (LEAVES, VALUES_WITHOUT_PATH));
    run_concurrently(work, |(example, paths, expected)| {
        let plugins = plugins.clone();
        async move {
            let mapped = plugins.map_values(&example.text, &paths).await;
            for ((path, mapped), expected) in paths.iter().zip(mapped).zip(expected) {
                assert_eq!(mapped, expected, "{}: {path}", example.name);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x11_every_value_of_every_example_can_be_got() {
    let gateway = Gateway::start().await;
    let plugins = BundledPlugins::bind(&gateway).await;
    let (mut work, mut counts) = (Vec::new(), [0; 3]);
    for example in examples() {
        let (places, unreachable) = example.path_values();
        let leaves = places.iter().filter(|place| is_leaf(place.value)).count();
        counts = [counts[0] + leaves, counts[1] + places.len() - leaves, counts[2] + unreachable];
        let places: Vec<_> = places.iter().map(|p| (p.path.clone(), p.value.clone())).collect();
        work.push((example, places));
    }
    assert_eq!(counts, [LEAVES, INNER_NODES, VALUES_WITHOUT_PATH]);
    // The payload as an agent's result: a string that holds JSON.
    run_concurrently(work, |(example, places)| {
        let plugins = plugins.clone();
        async move {
            let task = BundledPlugins::task_with_text_result(&example.text);
            for (path, value) in places {
                let got = plugins.get_value(&task, format!("result.{path}")).await;
                let got = got.unwrap_or_else(|| panic!("{}: nothing at {path}", example.name));
                let got: Value = serde_json::from_str(&got).unwrap();
                assert_eq!(got, value, "{}: {path}", example.name);
            }
        }
    })
    .await;
}

/// Sends the payload in each way, and compares what the agent and the store received.
async fn send_and_compare(caller: Client, example: Example) {
    let Example { name, text, value } = example;
    let send = |more: &str| caller.webhook(more).text("application/json", text.clone());

    // Without a prompt, the payload is the agent's text.
    let alone = send("").expect(200).await;
    assert_eq!(alone.report()["received"], text, "{name}");
    assert_eq!(caller.task(&alone.task_id()).await["input"]["text"], text, "{name}");

    // With a prompt, the payload is data between two markers, and the offline model reports it.
    let beside = send("&prompt=Summarise").expect(200).await;
    let (id, payload) = (beside.task_id(), beside.report()["payload"].clone());
    // Compared as text, because the order of keys does not matter for the equality of two objects.
    assert_eq!(payload.to_string(), value.to_string(), "{name}");
    let steps = caller.thread(&id).await;
    let reported = steps[0]["content"].as_str().unwrap();
    let fenced = format!("\n[payload {id}]\n{text}\n[end of payload {id}]");
    assert!(reported.ends_with(&fenced), "{name}: {reported}");

    // The agent's own webhook also passes it on unchanged.
    let id = caller.trigger().text("application/json", text.clone()).expect(200).await.task_id();
    assert_eq!(caller.task(&id).await["input"]["text"], text, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x6_every_example_reaches_the_agent_byte_for_byte() {
    let gateway = Setup::new().agent(|agent| agent.tools.clear()).start().await;
    run_concurrently(examples(), |example| send_and_compare(gateway.caller.clone(), example)).await;
    assert_eq!(gateway.stored_task_count().await, 3 * EXAMPLES as i64);
}
