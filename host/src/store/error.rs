//! Errors of the store.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use sqlx::error::ErrorKind;
use sqlx::migrate::MigrateError;

use super::sqlite::sqlite_code;

/// Why an operation of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database failed, or the store is closed. Retrying may help. Nothing of the operation is stored, with one
    /// exception that no database can rule out: if the sync itself failed, the operation may reappear after a
    /// restart. An idempotency key makes a retry safe even then.
    #[error("the store could not {operation}")]
    Unavailable {
        /// The operation.
        operation: &'static str,
        /// The error of the database.
        #[source]
        cause: Cause,
    },
    /// The operation conflicts with what is already stored. Nothing has changed.
    #[error("the store could not {operation}: {why}")]
    Conflict {
        /// The operation.
        operation: &'static str,
        /// What it conflicts with.
        why: &'static str,
    },
    /// The tenant or agent that the operation refers to does not exist. Nothing has changed.
    #[error("the store could not {operation}: its tenant or agent does not exist")]
    Missing {
        /// The operation.
        operation: &'static str,
    },
    /// Another client has changed the data since it was read. This operation has changed nothing.
    #[error("the store could not {operation}: another client has changed it meanwhile")]
    Stale {
        /// The operation.
        operation: &'static str,
    },
    /// The maximum number of such reads is in progress, most of them for the same tenant. Retrying helps.
    #[error("the store could not {operation}: too much is being read at the moment")]
    Busy {
        /// The operation.
        operation: &'static str,
    },
    /// The file holds something that this program does not write.
    #[error("the store could not {operation}: its file is damaged, or written by another program")]
    Corrupt {
        /// The operation.
        operation: &'static str,
        /// What is wrong with the file.
        #[source]
        cause: Cause,
    },
}

/// The error of the database, for the log.
#[derive(Clone)]
pub struct Cause(Arc<sqlx::Error>);

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl StoreError {
    /// Maps an error of the database to an error of the operation. The callers of a batch share one error, hence the
    /// `Arc`.
    pub(super) fn database(operation: &'static str, error: impl Into<Arc<sqlx::Error>>) -> Self {
        let error = error.into();
        let cause = Cause(Arc::clone(&error));
        match error.as_database_error().map(|said| said.kind()) {
            Some(ErrorKind::UniqueViolation) => {
                return Self::Conflict { operation, why: "its name or id is taken" };
            }
            Some(ErrorKind::ForeignKeyViolation) => return Self::Missing { operation },
            _ => {}
        }
        match (&*error, sqlite_code(&error)) {
            // CORRUPT and NOTADB.
            (_, Some(11 | 26)) => Self::Corrupt { operation, cause },
            (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
                Self::Corrupt { operation, cause }
            }
            // A migration that this program does not have, or has in a different form. A migration that failed to
            // execute is treated like any other failed statement.
            (sqlx::Error::Migrate(error), _)
                if !matches!(
                    **error,
                    MigrateError::Execute(_) | MigrateError::ExecuteMigration(..)
                ) =>
            {
                Self::Corrupt { operation, cause }
            }
            _ => Self::Unavailable { operation, cause },
        }
    }

    /// The data could not be serialized for the database.
    pub(super) fn serialization(operation: &'static str, error: serde_json::Error) -> Self {
        Self::database(operation, sqlx::Error::Encode(error.into()))
    }
}
