//! A mapper that panics.

guests::mapper!(|_| panic!("this guest panics on purpose"));
