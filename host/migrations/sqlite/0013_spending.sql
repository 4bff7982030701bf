-- What the agents of a tenant have spent on models, by day (UTC; days since 1970-01-01). Budgets of a day are checked
-- against it, and reports are made from it. Tokens by class are those that the providers reported.
CREATE TABLE spending (
    tenant_id       BLOB NOT NULL,
    day             INTEGER NOT NULL,
    agent_id        BLOB NOT NULL,
    turns           INTEGER NOT NULL,
    -- What budgets count: fresh input, cache writes and output; estimated where a provider reports nothing.
    tokens          INTEGER NOT NULL,
    estimated_turns INTEGER NOT NULL,
    cost_micros     INTEGER NOT NULL,
    -- Turns of models without a price: their cost is not known, and not in cost_micros.
    unpriced_turns  INTEGER NOT NULL,
    fresh_input     INTEGER NOT NULL,
    cache_read      INTEGER NOT NULL,
    cache_write     INTEGER NOT NULL,
    output          INTEGER NOT NULL,
    reasoning       INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, day, agent_id)
) STRICT, WITHOUT ROWID;
