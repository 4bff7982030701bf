-- Models that tenants bring along, with a key among their own secrets.
CREATE TABLE models (
    tenant_id  BLOB NOT NULL REFERENCES tenants (id),
    name       TEXT NOT NULL,
    definition TEXT NOT NULL,
    set_by     TEXT NOT NULL CHECK (set_by IN ('operator', 'admin')),
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;
