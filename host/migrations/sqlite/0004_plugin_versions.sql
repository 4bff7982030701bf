-- A tenant's plugin is the versions of it that were installed; one of them is current. Each component is
-- one version, however often it was installed.
CREATE TABLE plugin_versions (
    tenant_id       BLOB NOT NULL REFERENCES tenants (id),
    name            TEXT NOT NULL,
    digest          TEXT NOT NULL,
    -- Grows with each installation. Rolling back leads to the next smaller one.
    number          INTEGER NOT NULL,
    is_current      INTEGER NOT NULL CHECK (is_current IN (FALSE, TRUE)),
    -- It was rolled back from, and something else was installed since: rolling back passes over it.
    is_skipped      INTEGER NOT NULL DEFAULT FALSE CHECK (is_skipped IN (FALSE, TRUE)),
    installed_at    INTEGER NOT NULL,
    -- Who installed it: NULL where that was not written down yet.
    installed_by    TEXT CHECK (installed_by IN ('operator', 'admin')),
    provenance      TEXT NOT NULL,
    version         TEXT,
    -- The pinned key that signed it, what the settings called it then, and what was signed with it.
    signer_key      TEXT,
    signer          TEXT,
    trusted_comment TEXT,
    PRIMARY KEY (tenant_id, name, digest),
    CHECK ((signer_key IS NULL) = (signer IS NULL)),
    CHECK ((signer_key IS NULL) = (trusted_comment IS NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX plugins_current ON plugin_versions (tenant_id, name) WHERE is_current;
-- Whether anybody still needs a component's file.
CREATE INDEX plugin_versions_by_digest ON plugin_versions (digest);

INSERT INTO plugin_versions (tenant_id, name, digest, number, is_current, installed_at, provenance)
    SELECT tenant_id, name, digest, 1, TRUE, installed_at, 'file' FROM plugins;

DROP TABLE plugins;
