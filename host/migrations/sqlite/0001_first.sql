-- The whole schema of the embedded store. Whatever belongs to a tenant says so in a column of its
-- own, so that no query needs a join to keep tenants apart.
--
-- Ids are the 16 bytes of a UUID, hashes 32 bytes, times microseconds since the Unix epoch in UTC.

CREATE TABLE tenants (
    id         BLOB NOT NULL PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- API keys and operator keys, by the hash of the key. That a key is an operator's is said in words:
-- a missing tenant alone must never make one.
CREATE TABLE keys (
    hash       BLOB NOT NULL PRIMARY KEY,
    holder     TEXT NOT NULL,
    tenant_id  BLOB REFERENCES tenants (id),
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    CHECK ((holder = 'tenant' AND tenant_id IS NOT NULL)
        OR (holder = 'operator' AND tenant_id IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
    id         BLOB NOT NULL PRIMARY KEY,
    tenant_id  BLOB NOT NULL REFERENCES tenants (id),
    definition TEXT NOT NULL,
    -- Nothing sets it yet.
    disabled   INTEGER NOT NULL DEFAULT FALSE CHECK (disabled IN (FALSE, TRUE)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- What tasks and webhooks refer to, so that none can name an agent of another tenant.
    UNIQUE (tenant_id, id)
) STRICT;

-- One webhook token per agent: putting another one ends the one before.
CREATE TABLE webhooks (
    tenant_id  BLOB NOT NULL,
    agent_id   BLOB NOT NULL,
    token_hash BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, agent_id),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE plugins (
    tenant_id    BLOB NOT NULL REFERENCES tenants (id),
    name         TEXT NOT NULL,
    digest       TEXT NOT NULL,
    installed_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;

-- Nothing writes files yet. The table is here so that files belong to a tenant from the first
-- migration on, as everything else does.
CREATE TABLE files (
    tenant_id  BLOB NOT NULL REFERENCES tenants (id),
    hash       BLOB NOT NULL,
    name       TEXT NOT NULL,
    mime       TEXT NOT NULL,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    sequence    INTEGER NOT NULL PRIMARY KEY,
    id          BLOB NOT NULL,
    tenant_id   BLOB NOT NULL,
    agent_id    BLOB NOT NULL,
    status      TEXT NOT NULL DEFAULT 'pending' CHECK (status IN
                    ('pending', 'executing', 'paused', 'error', 'failed', 'completed', 'stopped')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    fence       INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    lease_until INTEGER,
    started_at  INTEGER,
    finished_at INTEGER,
    thread      TEXT,
    source      TEXT NOT NULL,
    result      TEXT,
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
) STRICT;

CREATE UNIQUE INDEX tasks_by_id ON tasks (id);
-- Each index costs every accepted task a write, so three of the four hold only the rows they are for.
CREATE INDEX tasks_by_thread ON tasks (tenant_id, agent_id, thread) WHERE thread IS NOT NULL;
CREATE INDEX tasks_pending ON tasks (tenant_id) WHERE status = 'pending';
CREATE INDEX tasks_leased ON tasks (lease_until) WHERE lease_until IS NOT NULL;

-- What a task was given: written with it and never changed. Apart from it, because a change of a row
-- writes the whole of it again, and a task changes three times at least while a payload may be large.
CREATE TABLE inputs (
    task_sequence INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (sequence),
    "user"        TEXT,
    prompt        TEXT,
    mapping       TEXT,
    payload       TEXT NOT NULL
) STRICT;

-- Claims on idempotency keys. The primary key is the task that has the key: rows are in order of
-- acceptance, which is the order in which they expire.
CREATE TABLE idempotency (
    task_sequence INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (sequence),
    tenant_id     BLOB NOT NULL,
    agent_id      BLOB NOT NULL,
    key           TEXT NOT NULL,
    fingerprint   BLOB NOT NULL,
    expires_at    INTEGER NOT NULL,
    UNIQUE (tenant_id, agent_id, key)
) STRICT;

-- What happened in a run. Written together with the task's end, by the attempt that finished it.
CREATE TABLE steps (
    task_sequence INTEGER NOT NULL REFERENCES tasks (sequence),
    position      INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    micros        INTEGER NOT NULL,
    event         TEXT NOT NULL,
    PRIMARY KEY (task_sequence, position)
) STRICT;
