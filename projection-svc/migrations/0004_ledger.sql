-- Queries that have left the log, to be found by their ids: what the pages of the ledger say, which
-- lies beside the copy of the log. It belongs to no generation of the read models.
CREATE TABLE projection.purged (
    query_id uuid PRIMARY KEY,
    last_seq bigint NOT NULL
);

-- Of which log the rows above are, and from how many pages of the ledger. One row.
CREATE TABLE projection.ledger (
    epoch    text NOT NULL,
    pages    bigint NOT NULL,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
