-- How far a task is, is where its row lies: `ready`, `later` or `leases` until it ends. Rows of these are inserted
-- and deleted, never updated, and the row of `tasks` changes once, at the end.

-- What a task was given and the request that it came from, without credentials: written with the task and never
-- changed.
CREATE TABLE bodies (
    task_sequence INTEGER NOT NULL PRIMARY KEY,
    "user"        TEXT,
    prompt        TEXT,
    mapping       TEXT,
    payload       TEXT NOT NULL,
    -- NULL: the task is of a time when requests were not kept.
    head          TEXT,
    -- NULL: it is the payload, byte for byte.
    body          BLOB,
    -- No reference: a channel may go while its tasks stay.
    channel_id    BLOB
) STRICT;

INSERT INTO bodies
    SELECT i.task_sequence, i."user", i.prompt, i.mapping, i.payload, r.head,
           CASE WHEN r.is_payload THEN NULL ELSE r.body END, r.channel_id
    FROM inputs i LEFT JOIN requests r ON r.task_sequence = i.task_sequence;

DROP TABLE requests;
DROP TABLE inputs;

-- Tasks that wait for a run.
CREATE TABLE ready (
    tenant_id     BLOB NOT NULL,
    task_sequence INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    fence         INTEGER NOT NULL,
    -- When the first attempt began.
    started_at    INTEGER,
    PRIMARY KEY (tenant_id, task_sequence)
) STRICT, WITHOUT ROWID;

-- Tasks that are ready from a moment on.
CREATE TABLE later (
    task_sequence INTEGER NOT NULL PRIMARY KEY,
    tenant_id     BLOB NOT NULL,
    due_at        INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    fence         INTEGER NOT NULL,
    started_at    INTEGER
) STRICT;

CREATE INDEX later_due ON later (due_at);

-- Tasks that a process runs, each under a fence of its own.
CREATE TABLE leases (
    tenant_id     BLOB NOT NULL,
    task_sequence INTEGER NOT NULL,
    owner         BLOB NOT NULL,
    attempts      INTEGER NOT NULL,
    fence         INTEGER NOT NULL,
    started_at    INTEGER,
    PRIMARY KEY (tenant_id, task_sequence)
) STRICT, WITHOUT ROWID;

-- Processes that run tasks, one row for each start. The leases of one that is not alive any more are taken over.
CREATE TABLE owners (
    id          BLOB NOT NULL PRIMARY KEY,
    alive_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO ready
    SELECT tenant_id, sequence, attempts, fence, started_at FROM tasks WHERE status = 'pending';
-- Their process has ended: it is in no row of `owners`.
INSERT INTO leases
    SELECT tenant_id, sequence, zeroblob(16), attempts, fence, started_at FROM tasks
    WHERE status IN ('executing', 'paused');

DROP INDEX tasks_pending;
DROP INDEX tasks_leased;
-- NULL until the task ends.
ALTER TABLE tasks ADD COLUMN ended TEXT CHECK (ended IN ('error', 'failed', 'completed', 'stopped'));
UPDATE tasks SET ended = status WHERE status IN ('error', 'failed', 'completed', 'stopped');
ALTER TABLE tasks DROP COLUMN status;
ALTER TABLE tasks DROP COLUMN lease_until;
ALTER TABLE tasks DROP COLUMN fence;

-- Nothing ever wrote files here; they come with a schema of their own.
DROP TABLE files;
