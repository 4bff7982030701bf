//! A tool `values` that performs the operations in `do`, in order, on the plugin's key-value bucket `bucket`:
//! `["set", key, text]`, `["fill", key, bytes]`, `["get", key]`, `["delete", key]`, `["exists", key]`,
//! `["increment", key, number]` and `["keys"]`. It repeats the list `times` times and returns the results of
//! the last round.

use guests::sdk::keyvalue::{atomics, store};
use serde_json::{Value, json};

guests::tool!("values", |arguments| {
    let bucket = match store::open(arguments["bucket"].as_str().unwrap_or_default()) {
        Ok(bucket) => bucket,
        Err(error) => return Ok(json!({"error": named(error)}).to_string()),
    };
    let operations = arguments["do"].as_array().cloned().unwrap_or_default();
    let mut came = Vec::new();
    for _ in 0..arguments["times"].as_u64().unwrap_or(1) {
        came = operations.iter().map(|one| operate(&bucket, one)).collect();
    }
    Ok(Value::from(came).to_string())
});

fn operate(bucket: &store::Bucket, operation: &Value) -> Value {
    let text = |place: usize| operation[place].as_str().unwrap_or_default();
    let number = |place: usize| operation[place].as_u64().unwrap_or_default();
    let outcome = match text(0) {
        "set" => bucket.set(text(1), text(2).as_bytes()).map(|()| Value::Null),
        "fill" => bucket.set(text(1), &vec![b'x'; number(2) as usize]).map(|()| Value::Null),
        "get" => bucket
            .get(text(1))
            .map(|value| value.map_or(Value::Null, |bytes| String::from_utf8_lossy(&bytes).into())),
        "delete" => bucket.delete(text(1)).map(|()| Value::Null),
        "exists" => bucket.exists(text(1)).map(Value::from),
        "increment" => atomics::increment(bucket, text(1), number(2)).map(Value::from),
        _ => bucket.list_keys(None).map(|answer| answer.keys.into()),
    };
    outcome.unwrap_or_else(|error| json!({"error": named(error)}))
}

fn named(error: store::Error) -> String {
    match error {
        store::Error::NoSuchStore => "no-such-store".into(),
        store::Error::AccessDenied => "access-denied".into(),
        store::Error::Other(what) => what,
    }
}
