//! One plugin with two roles: a mapper, and a tool `echo` that returns its arguments.

guests::mapper!(|_| guests::prompt("mapped"));
guests::tool!("echo", |arguments| Ok(arguments.to_string()));
