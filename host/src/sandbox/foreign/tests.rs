//! Tests of foreign components: their tools, schemas, arguments and results.

mod survives;

use serde_json::json;
use wasmtime::component::Component;

use super::from_json::arguments;
use super::shape::{Integer, Shape};
use super::{ForeignComponent, to_json};
use crate::sandbox::engine::{self, PoolSize};

fn names(count: usize) -> Vec<String> {
    ["north-east", "b", "some", "ok", "~/"].into_iter().take(count).map(str::to_owned).collect()
}

#[test]
fn numbers_lose_nothing_within_their_type() {
    for (shape, text) in [
        (Shape::Integer(Integer::U64), "18446744073709551615"),
        (Shape::Integer(Integer::S64), "-9223372036854775808"),
        (Shape::Float64, "0.1"),
        (Shape::Float64, "-0.0"),
        (Shape::Float32, "0.1"),
        (Shape::Float64, "\"NaN\""),
        (Shape::Float32, "\"-Infinity\""),
    ] {
        let read = arguments(&[("x".to_owned(), shape.clone())], &format!("{{\"x\":{text}}}"));
        assert_eq!(to_json::text(&shape, &read.unwrap()[0], 100).unwrap(), text);
    }
}

/// Parameters of most kinds of types.
fn params() -> Vec<(String, Shape)> {
    let byte = || Shape::Integer(Integer::U8);
    let point =
        Shape::Record(vec![("x".into(), byte()), ("a/b".into(), Shape::Option(byte().into()))]);
    let cases = vec![("plain".to_owned(), None), ("loaded".to_owned(), Some(byte()))];
    vec![
        ("points".to_owned(), Shape::List(Box::new(point))),
        ("choice".to_owned(), Shape::Option(Box::new(Shape::Variant(cases)))),
        ("pair".to_owned(), Shape::Option(Box::new(Shape::Tuple(vec![byte(), Shape::Bool])))),
        ("set".to_owned(), Shape::Option(Box::new(Shape::Flags(names(2))))),
        ("raw".to_owned(), Shape::Option(Box::new(Shape::Bytes))),
        ("letter".to_owned(), Shape::Option(Box::new(Shape::Char))),
        ("deep".to_owned(), Shape::Option(Box::new(Shape::Option(Box::new(byte()))))),
        ("near".to_owned(), Shape::Option(Box::new(Shape::Float32))),
    ]
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let params = params();
    for (given, told) in [
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
        ("{\"points\":[]} x", "not valid JSON"),
        ("{}", "the field \"points\" is missing"),
        (r#"{"points":[],"other":1}"#, "no field \"other\", but points, choice"),
        (r#"{"points":[],"points":[]}"#, "\"points\" is there twice"),
        (r#"{"points":{}}"#, "at /points: wanted an array, found an object"),
        (
            r#"{"points":[{"x":1},{"x":256}]}"#,
            "at /points/1/x: wanted a whole number from 0 to 255, found the number 256",
        ),
        (
            r#"{"points":[{"x":1.5}]}"#,
            "at /points/0/x: wanted a whole number from 0 to 255, found the number 1.5",
        ),
        (r#"{"points":[{"x":-1}]}"#, "found the number -1"),
        (r#"{"points":[{"x":"1"}]}"#, "found the text \"1\""),
        (
            r#"{"points":[{"x":null}]}"#,
            "at /points/0/x: wanted a whole number from 0 to 255, found null",
        ),
        (
            r#"{"points":[{"x":1,"a/b":true}]}"#,
            "at /points/0/a~1b: wanted a whole number from 0 to 255, found true",
        ),
        (r#"{"points":[{"x":1,"y":1}]}"#, "at /points/0: there is no field \"y\", but x, a/b"),
        (r#"{"points":[],"choice":"loaded"}"#, "at /choice: the case loaded has a payload"),
        (r#"{"points":[],"choice":{"plain":1}}"#, "at /choice: the case plain has no payload"),
        (r#"{"points":[],"choice":{"loaded":1,"plain":1}}"#, "found an object of several fields"),
        (r#"{"points":[],"choice":{"loaded":"x"}}"#, "at /choice/loaded: wanted a whole number"),
        (r#"{"points":[],"choice":"neither"}"#, "there is no case \"neither\", but plain, loaded"),
        (r#"{"points":[],"pair":[1]}"#, "at /pair: wanted an array of 2, found an array of 1"),
        (r#"{"points":[],"pair":[1,true,2]}"#, "found an array of more"),
        (r#"{"points":[],"set":["b","b"]}"#, "at /set: b is there twice"),
        (r#"{"points":[],"set":["c"]}"#, "at /set/0: wanted north-east, b, found the text \"c\""),
        (r#"{"points":[],"raw":"%"}"#, "at /raw: it is not base64"),
        (r#"{"points":[],"letter":"ab"}"#, "at /letter: wanted a text of one character"),
        (r#"{"points":[],"deep":7}"#, "at /deep: wanted null or {\"some\": …}"),
        (
            r#"{"points":[],"near":1e300}"#,
            "at /near: wanted a number in the range of 32-bit floats",
        ),
    ] {
        let error = arguments(&params, given).unwrap_err();
        assert!(error.contains(told), "{given}\n{error}");
    }
}

#[test]
fn arguments_are_bounded_in_size_and_number() {
    let list = [("x".to_owned(), Shape::List(Box::new(Shape::Bool)))];
    let of = |count: usize| format!("{{\"x\":[{}true]}}", "true,".repeat(count - 1));
    assert_eq!(arguments(&list, &of(99_999)).unwrap().len(), 1);
    assert!(arguments(&list, &of(100_000)).unwrap_err().contains("more than 100000 values"));
    let bytes = [("x".to_owned(), Shape::Bytes)];
    let encoded = format!("{{\"x\":\"{}\"}}", "AAAA".repeat(50_000));
    assert!(arguments(&bytes, &encoded).unwrap_err().contains("at /x: there are more than 100000"));
    let text = [("x".to_owned(), Shape::String)];
    let long = format!("{{\"x\":\"{}\"}}", "a".repeat(1 << 20));
    assert!(arguments(&text, &long).unwrap_err().contains("longer than 1048576 bytes"));
    // Text that nests deeper than the type is rejected at the type's depth.
    let deep = format!("{{\"x\":{}", "[".repeat(1 << 19));
    assert!(arguments(&list, &deep).unwrap_err().contains("at /x/0: wanted true or false"));
}

#[test]
fn an_answer_is_bounded_as_it_is_written() {
    let shape = Shape::String;
    let read = arguments(&[("x".to_owned(), shape.clone())], "{\"x\":\"\\u0001\\u0002\"}").unwrap();
    // A control character takes six bytes as JSON.
    assert!(to_json::text(&shape, &read[0], 14).is_ok());
    let error = to_json::text(&shape, &read[0], 13).unwrap_err();
    assert!(error.downcast_ref::<super::TooLarge>().is_some(), "{error:#}");
}

/// The functions of a component with this text, which can lift from the core instance `$i`.
fn of_component(wat: &str) -> Result<Option<ForeignComponent>, String> {
    let component = format!(
        "(component
            (core module $m
                (memory (export \"memory\") 1)
                (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) unreachable)
                (func (export \"unit\"))
                (func (export \"give\") (result i32) unreachable)
                (func (export \"take\") (param i32))
                (func (export \"four\") (param i32 i32 i32 i32))
                (func (export \"find\") (param i32 i32) (result i32) unreachable)
                (func (export \"sum\") (param i64 i64) (result i64) unreachable))
            (core instance $i (instantiate $m))
            {wat})"
    );
    let engine = engine::build(PoolSize { calls: 1, memory_bytes_max: 1 << 20 }).unwrap();
    let component = wat::parse_str(component).unwrap();
    let component = Component::new(&engine, component).map_err(|error| format!("{error:#}"))?;
    ForeignComponent::from_component(&component, &engine)
}

/// Lifts a function of the core instance.
fn lift(core: &str) -> String {
    let memory = "(memory (core memory $i \"memory\")) (realloc (core func $i \"realloc\"))";
    format!("(canon lift (core func $i \"{core}\") {memory})")
}

#[test]
fn exported_functions_become_tools_with_schemas() {
    let foreign = of_component(&format!(
        "(func $add (export \"add\") (param \"a\" u64) (param \"b\" u64) (result u64) {})
         (func (export \"reset\") {})
         (type $point' (record (field \"x\" s32) (field \"label\" (option string))))
         (export $point \"point\" (type $point'))
         (func $find (param \"near\" (list $point)) (result (result $point (error string))) {})
         (instance $ops (export \"find\" (func $find)) (export \"add\" (func $add)))
         (export \"docs:calculator/ops@1.2.3\" (instance $ops))",
        lift("sum"),
        lift("unit"),
        lift("find"),
    ));
    let tools = foreign.unwrap().unwrap().tools();
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["add", "reset", "ops-add", "ops-find"]);
    assert!(tools.iter().all(|tool| tool.destructive));
    let number = json!({"type": "integer", "minimum": 0, "maximum": u64::MAX});
    let add = json!({
        "type": "object", "properties": {"a": number, "b": number}, "required": ["a", "b"],
        "additionalProperties": false,
    });
    assert_eq!(tools[0].input_schema, add);
    assert_eq!(tools[0].output_schema, Some(number));
    assert_eq!(tools[0].description, "The function add: func(a: u64, b: u64) -> u64");
    assert_eq!(tools[1].output_schema, None);
    let signature = "find: func(near: list<record { x: s32, label: option<string> }>) \
        -> result<record { x: s32, label: option<string> }, string> of docs:calculator/ops@1.2.3";
    assert_eq!(tools[3].description, format!("The function {signature}"));
    let point = &tools[3].input_schema["properties"]["near"]["items"];
    assert_eq!(point["required"], json!(["x"]));
    // The error of a `result` becomes the tool's error, so the output schema is that of the `ok` case.
    assert_eq!(tools[3].output_schema.as_ref(), Some(point));
}

const COUNTER: &str = "(type $counter' (resource (rep i32)))
    (export $counter \"counter\" (type $counter'))";

#[test]
fn what_json_cannot_hold_is_left_out_by_name() {
    let foreign = of_component(&format!(
        "{COUNTER}
         (func (export \"make\") (result (own $counter)) {})
         (func (export \"watch\") (param \"it\" (borrow $counter)) {})
         (func (export \"[static]counter.forget\") {})
         (func (export \"plain\") (result u32) {})",
        lift("give"),
        lift("take"),
        lift("unit"),
        lift("give"),
    ));
    let foreign = foreign.unwrap().unwrap();
    let names: Vec<_> = foreign.tools().into_iter().map(|tool| tool.name).collect();
    assert_eq!(names, ["counter-forget", "plain"]);
    let left_out = [
        "make: its answer holds the resource counter",
        "watch: its parameter it holds the resource counter",
    ];
    assert_eq!(foreign.skipped_functions(), left_out);
}

#[test]
fn a_component_of_nothing_but_refused_functions_is_refused_with_the_reasons() {
    let make = format!("(func (export \"make\") (result (own $counter)) {})", lift("give"));
    let error = of_component(&format!("{COUNTER}{make}")).map(|_| ()).unwrap_err();
    assert!(error.contains("make: its answer holds the resource counter"), "{error}");
    // WASI interfaces are meant for hosts, and exports other than functions do not become tools.
    let run = format!("(func $run (result (result)) {})", lift("give"));
    let run = format!(
        "{run} (instance $run (export \"run\" (func $run)))
        (export \"wasi:cli/run@0.2.6\" (instance $run)) (type $n u8) (export \"number\" (type $n))"
    );
    assert!(of_component(&run).unwrap().is_none());
}

#[test]
fn what_a_build_tool_left_behind_is_no_tool() {
    let init = |first: &str| {
        format!(
            "(func (export \"init\") (param \"{first}\" string) (param \"script\" string) {})
             (func (export \"run\") {})",
            lift("four"),
            lift("unit"),
        )
    };
    let names = |first: &str| {
        let tools = of_component(&init(first)).unwrap().unwrap().tools();
        tools.into_iter().map(|tool| tool.name).collect::<Vec<_>>()
    };
    assert_eq!(names("shim"), ["run"]);
    assert_eq!(names("with"), ["init", "run"]);
}

#[test]
fn types_that_unfold_into_millions_are_refused() {
    let unfolding = |levels: usize, of: &str| {
        let types: String = (1..levels)
            .map(|n| format!("(type $t{n} {})", of.replace('T', &format!("$t{}", n - 1))))
            .collect();
        // A result of many values is returned by address, and so is the content of a list.
        let take = format!("(func (export \"f\") (result $t{}) {})", levels - 1, lift("give"));
        of_component(&format!("(type $t0 u16) {types} {take}")).map(|_| ()).unwrap_err()
    };
    let error = unfolding(16, "(tuple T T)");
    assert!(error.contains("more types than a tool's description has room for"), "{error}");
    let error = unfolding(30, "(list T)");
    assert!(error.contains("nest deeper than 24 levels"), "{error}");
    let many: String =
        (0..130).map(|n| format!("(func (export \"f{n}\") {})", lift("unit"))).collect();
    let foreign = of_component(&many).unwrap().unwrap();
    assert_eq!((foreign.tools().len(), foreign.skipped_functions().len()), (128, 2));
    let name = "n".repeat(2_000);
    let long: String =
        (0..300).map(|n| format!("(func (export \"{name}{n}\") {})", lift("unit"))).collect();
    let foreign = of_component(&long).unwrap().unwrap();
    let reasons = foreign.skipped_functions();
    assert_eq!((reasons.len(), reasons[50].as_str()), (51, "122 more functions"));
    assert!(reasons.iter().all(|reason| reason.len() <= 400));
    assert!(foreign.tools().iter().all(|tool| tool.description.len() <= 1_200));
}

#[test]
fn streams_and_futures_are_not_compiled() {
    for kind in ["stream", "future"] {
        let make = format!(
            "(type $it ({kind} u8)) (func (export \"make\") (result $it) {})",
            lift("give")
        );
        let error = of_component(&make).map(|_| ()).unwrap_err();
        assert!(error.contains("async"), "{error}");
    }
}
