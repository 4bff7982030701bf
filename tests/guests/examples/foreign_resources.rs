//! A foreign component that exports only a resource, which JSON cannot represent.

wit_bindgen::generate!({
    inline: "
        package elsewhere:resources;
        interface things {
            resource counter { constructor(start: u32); next: func() -> u32; }
            first: func(among: list<borrow<counter>>) -> u32;
        }
        world resources { export things; }
    ",
});

use std::cell::Cell;

use exports::elsewhere::resources::things::{CounterBorrow, Guest, GuestCounter};

struct Things;

struct Counting(Cell<u32>);

impl GuestCounter for Counting {
    fn new(start: u32) -> Self {
        Self(Cell::new(start))
    }

    fn next(&self) -> u32 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

impl Guest for Things {
    type Counter = Counting;

    fn first(among: Vec<CounterBorrow<'_>>) -> u32 {
        among.first().map_or(0, |counter| counter.get::<Counting>().next())
    }
}

export!(Things);
