//! A tool `panic` that says something on its standard output and panics with the words of its argument `why`.

guests::tool!("panic", |arguments| {
    println!("about to panic");
    panic!("{}", arguments["why"].as_str().unwrap_or_default())
});
