//! What the store says when it cannot do what it is asked.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use sqlx::error::ErrorKind;
use sqlx::migrate::MigrateError;

use super::sqlite::sqlite_code;

/// What the store could not do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database did not do it, or the store is closed. Trying again may help. Nothing of it is
    /// stored, with one exception that no database can rule out: when the sync itself failed, it may
    /// turn up after a restart. An idempotency key makes trying again safe even then.
    #[error("the store could not {operation}")]
    Unavailable {
        /// What it was asked for.
        operation: &'static str,
        /// What the database said.
        #[source]
        cause: Cause,
    },
    /// What is stored already is in the way. Nothing has changed.
    #[error("the store could not {operation}: {why}")]
    Conflict {
        /// What it was asked for.
        operation: &'static str,
        /// What is in the way.
        why: &'static str,
    },
    /// It refers to a tenant or an agent that does not exist. Nothing has changed.
    #[error("the store could not {operation}: its tenant or agent does not exist")]
    Missing {
        /// What it was asked for.
        operation: &'static str,
    },
    /// Somebody else has changed it since it was read. Nothing has changed by this.
    #[error("the store could not {operation}: another client has changed it meanwhile")]
    Stale {
        /// What it was asked for.
        operation: &'static str,
    },
    /// As much of the kind is being read as may be, most of it for the same tenant. Trying again helps.
    #[error("the store could not {operation}: too much is being read at the moment")]
    Busy {
        /// What it was asked for.
        operation: &'static str,
    },
    /// What the file holds is not what this program writes.
    #[error("the store could not {operation}: its file is damaged, or written by another program")]
    Corrupt {
        /// What it was asked for.
        operation: &'static str,
        /// What is wrong with it.
        #[source]
        cause: Cause,
    },
}

/// What the database said, for the log.
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
    /// What the database's error means to whoever asked for the operation. A batch shares its error
    /// among its callers, hence the `Arc`.
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
            // A migration that this program does not have, or has otherwise; one that could not run
            // is as any other statement that could not.
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

    /// A fact could not be put into words for the database.
    pub(super) fn unwritable(operation: &'static str, error: serde_json::Error) -> Self {
        Self::database(operation, sqlx::Error::Encode(error.into()))
    }
}
