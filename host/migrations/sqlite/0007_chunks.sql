-- A text that would make a commit long is written ahead, in chunks and in commits of their own. The column
-- that it would stand in is empty then. Texts of before stay in their columns.

-- Each text has the chunks from one number to another.
CREATE TABLE chunks (
    number INTEGER NOT NULL PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;

-- The texts of tasks that are in chunks, their bytes counted together.
CREATE TABLE chunked_texts (
    task_sequence INTEGER NOT NULL REFERENCES tasks (sequence),
    part          TEXT NOT NULL CHECK
                    (part IN ('user', 'prompt', 'mapping', 'payload', 'body', 'rest', 'event')),
    -- That of the step whose event it is; otherwise 0.
    position      INTEGER NOT NULL,
    first_chunk   INTEGER NOT NULL,
    last_chunk    INTEGER NOT NULL,
    octets        INTEGER NOT NULL,
    PRIMARY KEY (task_sequence, part, position)
) STRICT, WITHOUT ROWID;

-- Chunks that no task has, yet or any more. Those of a process that has ended are deleted.
CREATE TABLE unclaimed_chunks (
    first_chunk INTEGER NOT NULL PRIMARY KEY,
    last_chunk  INTEGER NOT NULL
) STRICT;
