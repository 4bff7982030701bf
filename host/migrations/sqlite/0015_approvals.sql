-- A paused task waits in `later` until a person has decided, at most until its due time.
ALTER TABLE later ADD COLUMN is_paused INTEGER NOT NULL DEFAULT FALSE CHECK (is_paused IN (FALSE, TRUE));

-- Tool calls that a person decides about. They go with their task.
CREATE TABLE approvals (
    id             BLOB NOT NULL PRIMARY KEY,
    tenant_id      BLOB NOT NULL,
    task_sequence  INTEGER NOT NULL,
    -- The call: the turn of the model, from 1, and the number of the call in the turn, from 0.
    turn           INTEGER NOT NULL,
    call           INTEGER NOT NULL,
    -- 0: before the call is made. Else how often its outcome has become unknown.
    round          INTEGER NOT NULL,
    tool           TEXT NOT NULL,
    -- As they are shown, without secrets.
    arguments      TEXT NOT NULL,
    -- Of the tool's name and the arguments as the model wrote them.
    call_hash      BLOB NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    -- NULL: nobody has decided yet.
    decision       TEXT CHECK (decision IN ('approved', 'denied', 'expired', 'withdrawn')),
    decided_at     INTEGER,
    decided_by     TEXT,
    comment        TEXT,
    UNIQUE (task_sequence, turn, call, round)
) STRICT, WITHOUT ROWID;

CREATE INDEX approvals_pending ON approvals (tenant_id, created_at) WHERE decision IS NULL;
CREATE INDEX approvals_of_tenant ON approvals (tenant_id, created_at);
