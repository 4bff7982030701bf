-- Large texts are kept once, and where nobody reads them who does not ask for them.

-- What of a result is beyond the beginning that lists show: rows of `tasks` stay short, however long
-- results are. A result with a NUL character stays where it is: SQLite would end it there.
CREATE TABLE result_rests (
    task_sequence INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (sequence),
    rest          TEXT NOT NULL
) STRICT;

INSERT INTO result_rests
    SELECT sequence, substr(result, 10001) FROM tasks
    WHERE octet_length(result) > 10000 AND instr(result, char(0)) = 0 AND length(result) > 10000;
UPDATE tasks SET result = substr(result, 1, 10000)
    WHERE sequence IN (SELECT task_sequence FROM result_rests);

-- Whether the body is the payload byte for byte; then it is kept there alone.
ALTER TABLE requests ADD COLUMN is_payload INTEGER NOT NULL DEFAULT FALSE
    CHECK (is_payload IN (FALSE, TRUE));

-- A step's event may hold the payload or the result word for word. Then it is kept without it, and this
-- says what belongs into its text, and behind how many bytes.
ALTER TABLE steps ADD COLUMN quotes TEXT CHECK (quotes IN ('payload', 'result'));
ALTER TABLE steps ADD COLUMN quoted_at INTEGER;

-- A tenant's list of deliveries reads its own only.
CREATE INDEX deliveries_by_tenant ON deliveries (tenant_id);
