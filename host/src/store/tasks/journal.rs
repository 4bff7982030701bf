//! The journal of a run: what it has done so far, written under the fence of its lease, so that the next attempt goes on
//! where this one ended. The store does not look into its entries.

use std::sync::Arc;

use sqlx::Row as _;

use crate::ids::{OwnerId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::sqlite::{execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tasks::{Fence, Task};

/// The longest text of one row and of one write, in bytes, as nobody should wait long behind a write.
const PART_BYTES_MAX: usize = 64 << 10;

/// How a write of the journal survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives the death of the process, not that of the machine: nothing is synced for it.
    Process,
    /// It survives the loss of power.
    Machine,
}

const HELD: &str = "\
    SELECT 1 FROM leases WHERE tenant_id = ? AND task_sequence = ? AND fence = ? AND owner = ?";

/// Replaces what an earlier attempt may have left of an entry that it did not finish.
const CLEAR: &str = "DELETE FROM journal WHERE task_sequence = ? AND position >= ?";

const INSERT: &str = "\
    INSERT INTO journal (task_sequence, position, part, is_last, text) VALUES (?, ?, ?, ?, ?)";

const READ: &str = "\
    SELECT position, is_last, text FROM journal WHERE task_sequence = ? ORDER BY position, part";

/// Deletes the journal of a task that has ended.
pub(in crate::store) const DELETE_JOURNAL: &str = "DELETE FROM journal WHERE task_sequence = ?";

impl Store {
    /// Adds an entry at this position, which follows that of the entry before. Returns false, with nothing stored, if
    /// the fence is not that of the task's lease.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]). A part of the entry may be stored, which does not
    /// count.
    pub async fn append_to_journal(
        &self,
        task: &Task,
        fence: Fence,
        position: i64,
        entry: &str,
        durability: Durability,
    ) -> Result<bool, StoreError> {
        let parts = parts(entry);
        let count = parts.len();
        for (number, text) in (0_i64..).zip(parts) {
            let is_last = usize::try_from(number + 1) == Ok(count);
            let append = AppendJournal {
                owner: self.0.owner,
                tenant: task.tenant,
                sequence: task.sequence,
                fence,
                position,
                part: number,
                is_last,
                text: text.into(),
                // An entry counts once its last part is there, whose sync covers the parts before it.
                durability: if is_last { durability } else { Durability::Process },
            };
            if !self.write(append).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The entries of a task's journal, in order.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn journal(&self, task: &Task) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query(READ).bind(task.sequence);
        let rows = self.many("read a run's journal", query, |row| {
            Ok((
                row.try_get::<i64, _>(0)?,
                row.try_get::<bool, _>(1)?,
                row.try_get::<String, _>(2)?,
            ))
        });
        let (mut entries, mut entry) = (Vec::new(), String::new());
        for (position, is_last, text) in rows.await? {
            if usize::try_from(position) != Ok(entries.len()) {
                // What stood here is missing, which the reader must not overlook.
                entries.push(String::new());
                break;
            }
            entry.push_str(&text);
            if is_last {
                entries.push(std::mem::take(&mut entry));
            }
        }
        Ok(entries)
    }
}

/// Cuts an entry into parts of at most [`PART_BYTES_MAX`] bytes.
fn parts(mut entry: &str) -> Vec<&str> {
    let mut parts = Vec::with_capacity(entry.len() / PART_BYTES_MAX + 1);
    while entry.len() > PART_BYTES_MAX {
        let (part, rest) = entry.split_at(entry.floor_char_boundary(PART_BYTES_MAX));
        parts.push(part);
        entry = rest;
    }
    parts.push(entry);
    parts
}

struct AppendJournal {
    owner: OwnerId,
    tenant: TenantId,
    sequence: i64,
    fence: Fence,
    position: i64,
    part: i64,
    is_last: bool,
    text: Arc<str>,
    durability: Durability,
}

impl Write for AppendJournal {
    type Answer = bool;
    const OPERATION: &'static str = "record what a run has done";

    fn flow(&self) -> Flow {
        Flow::Runs(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.text.len()
    }

    fn is_synced(&self) -> bool {
        self.durability == Durability::Machine
    }
}

impl SingleWrite for AppendJournal {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let held = sqlx::query(HELD)
            .bind(self.tenant.as_bytes().to_vec())
            .bind(self.sequence)
            .bind(self.fence.0)
            .bind(self.owner.as_bytes().to_vec());
        if fetch(held, session.db).await?.is_empty() {
            return Ok(false);
        }
        if self.part == 0 {
            let clear = sqlx::query(CLEAR).bind(self.sequence).bind(self.position);
            execute(clear, session.db).await?;
        }
        let insert = sqlx::query(INSERT)
            .bind(self.sequence)
            .bind(self.position)
            .bind(self.part)
            .bind(self.is_last)
            .bind(Arc::clone(&self.text));
        execute(insert, session.db).await?;
        Ok(true)
    }
}
