-- What plugins need to be a product: secrets, values that outlive a call, channels, deliveries, and the
-- request of each task, so that what a plugin did with it can be done again.

-- Sealed with the gateway's own key for their place, so that none can be read here or moved.
CREATE TABLE secrets (
    tenant_id  BLOB NOT NULL REFERENCES tenants (id),
    name       TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    -- The value before, while a rotation is under way and both are accepted.
    previous   BLOB,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;

-- Values of plugins, and how many bytes each plugin's keys and values are together.
CREATE TABLE plugin_values (
    tenant_id BLOB NOT NULL REFERENCES tenants (id),
    plugin    TEXT NOT NULL,
    key       TEXT NOT NULL,
    value     BLOB NOT NULL,
    PRIMARY KEY (tenant_id, plugin, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE plugin_value_bytes (
    tenant_id BLOB NOT NULL REFERENCES tenants (id),
    plugin    TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, plugin)
) STRICT, WITHOUT ROWID;

CREATE TABLE channels (
    id         BLOB NOT NULL PRIMARY KEY,
    tenant_id  BLOB NOT NULL,
    agent_id   BLOB NOT NULL,
    definition TEXT NOT NULL,
    version    INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX channels_by_name ON channels (tenant_id, definition ->> '$.name');

-- The request that a task came from, without credentials: what plugins saw of it. `channel_id` is no
-- reference: a channel may go while its tasks stay.
CREATE TABLE requests (
    task_sequence INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (sequence),
    channel_id    BLOB,
    head          TEXT NOT NULL,
    body          BLOB NOT NULL
) STRICT;

-- Answers that are to be delivered after their task has ended. `due_at` is NULL until then, and again
-- when the delivery has come to an end.
CREATE TABLE deliveries (
    task_sequence INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (sequence),
    tenant_id     BLOB NOT NULL,
    channel_id    BLOB NOT NULL,
    status        TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN
                      ('waiting', 'due', 'delivered', 'dead')),
    attempts      INTEGER NOT NULL DEFAULT 0,
    due_at        INTEGER,
    ended_at      INTEGER,
    reason        TEXT
) STRICT;

CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
