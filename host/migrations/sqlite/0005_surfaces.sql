-- Idempotency keys and conversations belong to the surface that they came in by: the tenant's API (no
-- bytes), one token of an agent's webhook (the four bytes of its generation), or one channel (the 16 bytes
-- of its id).

CREATE TABLE idempotency_by_surface (
    task_sequence INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (sequence),
    tenant_id     BLOB NOT NULL,
    agent_id      BLOB NOT NULL,
    surface       BLOB NOT NULL CHECK (length(surface) IN (0, 4, 16)),
    key           TEXT NOT NULL,
    fingerprint   BLOB NOT NULL,
    expires_at    INTEGER NOT NULL,
    UNIQUE (tenant_id, agent_id, surface, key)
) STRICT;

-- Keys of before stay where they were used. What is known of the request says where that was: its channel,
-- or the path, which is not kept where it held a webhook's token.
INSERT INTO idempotency_by_surface
    SELECT k.task_sequence, k.tenant_id, k.agent_id,
        CASE
            WHEN r.channel_id IS NOT NULL THEN r.channel_id
            WHEN r.head ->> '$.path' = '' THEN unhex(format('%08X', coalesce(
                (SELECT w.generation FROM webhooks w
                 WHERE w.tenant_id = k.tenant_id AND w.agent_id = k.agent_id), 0)))
            ELSE x''
        END,
        k.key, k.fingerprint, k.expires_at
    FROM idempotency k LEFT JOIN requests r ON r.task_sequence = k.task_sequence;

DROP TABLE idempotency;
ALTER TABLE idempotency_by_surface RENAME TO idempotency;

-- The surface whose conversations the task's thread is one of. A channel may share those of the API.
ALTER TABLE tasks ADD COLUMN thread_surface BLOB NOT NULL DEFAULT x''
    CHECK (length(thread_surface) IN (0, 4, 16));
UPDATE tasks SET thread_surface = r.channel_id FROM requests r
    WHERE r.task_sequence = tasks.sequence AND r.channel_id IS NOT NULL;

DROP INDEX tasks_by_thread;
CREATE INDEX tasks_by_thread ON tasks (tenant_id, thread_surface, thread, agent_id)
    WHERE thread IS NOT NULL;
