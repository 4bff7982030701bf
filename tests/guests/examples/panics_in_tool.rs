//! A tool `panic` that prints to its standard output and panics with the message `why`.

guests::tool!("panic", |arguments| {
    println!("about to panic");
    panic!("{}", arguments["why"].as_str().unwrap_or_default())
});
