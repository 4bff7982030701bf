//! How much of an answer is kept.

use super::error::ModelError;

/// The most bytes of one answer that are kept: text, reasoning and calls together. A million characters are more than
/// any model writes in a turn.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// The room that is left for an answer.
#[derive(Debug)]
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(KEPT_BYTES_MAX)
    }
}

impl Room {
    /// Takes room for this many bytes.
    ///
    /// # Errors
    /// If there is not so much left.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| {
            ModelError::upstream(format!("the model's answer has more than {KEPT_BYTES_MAX} bytes"))
        })?;
        Ok(())
    }
}
