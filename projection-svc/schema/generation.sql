-- One generation of the read models. Executed with search_path set to its own, empty schema.

-- What this generation is. One row.
CREATE TABLE meta (
    generation bigint NOT NULL,
    version    integer NOT NULL,
    indexed    boolean NOT NULL DEFAULT false,
    flip       boolean NOT NULL DEFAULT false,
    from_copy  boolean NOT NULL DEFAULT false,
    made_at    timestamptz NOT NULL DEFAULT now(),
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
COMMENT ON COLUMN meta.version IS 'Version of the views, as the program numbers them.';
COMMENT ON COLUMN meta.indexed IS 'Whether the indexes that only readers need are there.';
COMMENT ON COLUMN meta.flip IS 'Whether it shall become the live one as soon as it has caught up.';
COMMENT ON COLUMN meta.from_copy IS 'Whether it is folded from the copy of the log as far as that goes.';

-- How far each lane has got in the log. Rows and checkpoint change in one transaction.
CREATE TABLE checkpoint (
    lane       integer PRIMARY KEY,
    generation bigint NOT NULL,
    seq        bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Commits that could not be projected, and what must not be projected before them: the rest of
-- their commands, and later commits of the same aggregates.
CREATE TABLE parked (
    seq     bigint PRIMARY KEY,
    subject text NOT NULL,
    command uuid,
    reason  text NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX parked_subject ON parked (subject, seq);
CREATE INDEX parked_command ON parked (command);

-- Parked commits that somebody decided to leave out.
CREATE TABLE skipped (
    seq        bigint PRIMARY KEY,
    subject    text NOT NULL,
    command    uuid,
    reason     text NOT NULL,
    parked_at  timestamptz NOT NULL,
    who        text NOT NULL,
    why        text NOT NULL,
    skipped_at timestamptz NOT NULL DEFAULT now()
);

-- What persons have said is in columns of bytea, sealed with the key of the person.
CREATE TABLE accounts (
    account_id        uuid PRIMARY KEY,
    email             bytea NOT NULL,
    name              bytea NOT NULL,
    is_active         boolean NOT NULL,
    subscription_tier text NOT NULL,
    created_at        timestamptz NOT NULL,
    last_seq          bigint NOT NULL
);

CREATE TABLE sessions (
    session_id     uuid PRIMARY KEY,
    account_id     uuid NOT NULL,
    device_id      bytea,
    device_name    bytea,
    created_at     timestamptz NOT NULL,
    last_seen_at   timestamptz NOT NULL,
    generation     bigint NOT NULL,
    revoked_at     timestamptz,
    revoked_reason text,
    last_seq       bigint NOT NULL
);

CREATE TABLE api_keys (
    key_id      uuid PRIMARY KEY,
    account_id  uuid NOT NULL,
    name        bytea NOT NULL,
    secret_hash text NOT NULL,
    scopes      text NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    last_seq    bigint NOT NULL
);
COMMENT ON COLUMN api_keys.scopes IS 'Separated by blanks.';

CREATE TABLE queries (
    query_id          uuid PRIMARY KEY,
    owner             uuid NOT NULL,
    query             bytea NOT NULL,
    operation         text NOT NULL,
    file_ids          jsonb NOT NULL,
    reference         bytea,
    route             jsonb,
    status            text NOT NULL,
    worker            text,
    model             text,
    attempts          bigint NOT NULL,
    response_text     bytea,
    model_used        text,
    confidence        double precision,
    latency_ms        bigint,
    finish_reason     text,
    prompt_tokens     bigint,
    completion_tokens bigint,
    error_code        text,
    error_message     bytea,
    cancelled_by      text,
    created_at        timestamptz NOT NULL,
    started_at        timestamptz,
    completed_at      timestamptz,
    last_seq          bigint NOT NULL
);
