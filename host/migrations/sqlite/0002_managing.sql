-- What the management of tenants needs, and lists of tasks.

-- Grows with each change of an agent's description: whoever changes one says which version he has seen.
ALTER TABLE agents ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
CREATE UNIQUE INDEX agents_by_name ON agents (tenant_id, definition ->> '$.name');

-- A key is listed and revoked by an id of its own, since its hash is nobody's to see.
ALTER TABLE keys ADD COLUMN id BLOB;
UPDATE keys SET id = randomblob(16);
CREATE UNIQUE INDEX keys_by_id ON keys (id);
CREATE INDEX keys_by_tenant ON keys (tenant_id);
-- Whether a tenant's key may also manage what the tenant owns.
ALTER TABLE keys ADD COLUMN admin INTEGER NOT NULL DEFAULT FALSE CHECK (admin IN (FALSE, TRUE));

-- Tokens are derived from the generation, so that a new one can be minted and shown again without being
-- stored. A revoked webhook keeps its row: no generation comes twice.
ALTER TABLE webhooks ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE webhooks ADD COLUMN revoked_at INTEGER;

-- Lists of a tenant's tasks, newest first, and of one user's.
ALTER TABLE tasks ADD COLUMN user_id TEXT;
UPDATE tasks SET user_id =
    (SELECT i.user ->> '$.id' FROM inputs i WHERE i.task_sequence = tasks.sequence);
CREATE INDEX tasks_by_tenant ON tasks (tenant_id);
CREATE INDEX tasks_by_user ON tasks (tenant_id, user_id) WHERE user_id IS NOT NULL;

-- The thread before the agent, so that a thread's name alone finds its newest task as well.
DROP INDEX tasks_by_thread;
CREATE INDEX tasks_by_thread ON tasks (tenant_id, thread, agent_id) WHERE thread IS NOT NULL;
