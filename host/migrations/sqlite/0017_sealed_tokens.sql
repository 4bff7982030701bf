-- Tokens of the users of requests, sealed, while their tasks have not ended.
CREATE TABLE sealed_tokens (
    task_sequence INTEGER NOT NULL PRIMARY KEY,
    sealed        BLOB NOT NULL
) STRICT;
