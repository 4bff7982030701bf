//! Where the reader of arguments is, how much it has read, and what it found wrong.

use std::cell::{Cell, RefCell};

use serde::de::Error;

use super::super::shape::Shape;
use super::words::{shortened, wanted};

/// Most values of one call, bytes of a `list<u8>` included: each takes forty bytes in memory.
const VALUES_MAX: usize = 100_000;

/// Where the reader is, and what it found wrong.
#[derive(Default)]
pub(super) struct Reading {
    /// RFC 6901.
    pointer: RefCell<String>,
    values: Cell<usize>,
    wrong: RefCell<Option<String>>,
}

impl Reading {
    /// What ended the reading, where it was not the text itself.
    pub(super) fn found(&self) -> Option<String> {
        self.wrong.take()
    }

    /// Ends the reading. The JSON library gets an error of its own, which nobody sees.
    pub(super) fn wrong<E: Error>(&self, what: &str) -> E {
        let pointer = self.pointer.borrow();
        let place = if pointer.is_empty() {
            "the arguments".to_owned()
        } else {
            format!("the argument at {}", shortened(&pointer, 200))
        };
        *self.wrong.borrow_mut() = Some(format!("{place}: {what}"));
        E::custom("")
    }

    pub(super) fn mismatch<E: Error>(&self, shape: &Shape, found: &str) -> E {
        self.wrong(&format!("wanted {}, found {found}", wanted(shape)))
    }

    /// Reads what lies one step down.
    pub(super) fn below<T>(&self, step: &str, read: impl FnOnce() -> T) -> T {
        let before = self.pointer.borrow().len();
        {
            let mut pointer = self.pointer.borrow_mut();
            pointer.push('/');
            pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        }
        let read = read();
        self.pointer.borrow_mut().truncate(before);
        read
    }

    pub(super) fn count<E: Error>(&self, values: usize) -> Result<(), E> {
        let values = self.values.get().saturating_add(values);
        self.values.set(values);
        if values > VALUES_MAX {
            return Err(self.wrong(&format!("there are more than {VALUES_MAX} values by here")));
        }
        Ok(())
    }
}
