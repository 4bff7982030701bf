-- What the runs of unfinished tasks have done so far, in order: the next attempt goes on behind the last row. An entry
-- is one row or, if it is long, several, of which the last one is marked. The rows go when their task ends, whose trace
-- is then in `steps`.
CREATE TABLE journal (
    task_sequence INTEGER NOT NULL,
    position      INTEGER NOT NULL,
    part          INTEGER NOT NULL,
    is_last       INTEGER NOT NULL CHECK (is_last IN (FALSE, TRUE)),
    text          TEXT NOT NULL,
    PRIMARY KEY (task_sequence, position, part)
) STRICT, WITHOUT ROWID;
