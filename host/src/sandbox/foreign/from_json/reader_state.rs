//! The reader's position in the arguments, the number of values read, and the first mismatch.

use std::cell::{Cell, RefCell};

use serde::de::Error;

use super::super::shape::Shape;
use super::messages::{expected, shortened};

/// Most values of one call, including the bytes of a `list<u8>`: each value takes forty bytes of memory.
const VALUES_MAX: usize = 100_000;

/// The reader's position, and the first mismatch.
#[derive(Default)]
pub(super) struct ReaderState {
    /// A JSON pointer (RFC 6901).
    pointer: RefCell<String>,
    values: Cell<usize>,
    error: RefCell<Option<String>>,
}

impl ReaderState {
    /// The mismatch that ended the reading. `None` if the text itself is not valid JSON.
    pub(super) fn error(&self) -> Option<String> {
        self.error.take()
    }

    /// Ends the reading. The JSON library gets an empty error of its own, which is not shown.
    pub(super) fn fail<E: Error>(&self, what: &str) -> E {
        let pointer = self.pointer.borrow();
        let location = if pointer.is_empty() {
            "the arguments".to_owned()
        } else {
            format!("the argument at {}", shortened(&pointer, 200))
        };
        *self.error.borrow_mut() = Some(format!("{location}: {what}"));
        E::custom("")
    }

    pub(super) fn mismatch<E: Error>(&self, shape: &Shape, found: &str) -> E {
        self.fail(&format!("wanted {}, found {found}", expected(shape)))
    }

    /// Reads a value one level down.
    pub(super) fn at_step<T>(&self, step: &str, read: impl FnOnce() -> T) -> T {
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
            return Err(self.fail(&format!("there are more than {VALUES_MAX} values by here")));
        }
        Ok(())
    }
}
