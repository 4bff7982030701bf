-- Whose directory has changed, and in which order: the one that changed last has the largest version. For the
-- processes that have not changed it themselves. What is no tenant's has the id of zeros.
CREATE TABLE directory_changes (
    tenant_id BLOB NOT NULL PRIMARY KEY,
    version   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX directory_changes_by_version ON directory_changes (version);
