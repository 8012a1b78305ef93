-- How far each projection has got in the log. Rows and checkpoint change in one transaction.
CREATE TABLE checkpoint (
    projection text PRIMARY KEY,
    seq        bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Commits that could not be projected, and the later ones of the same aggregates.
CREATE TABLE parked (
    seq     bigint PRIMARY KEY,
    subject text NOT NULL,
    reason  text NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX parked_subject ON parked (subject);

CREATE SCHEMA rm;
COMMENT ON SCHEMA rm IS 'Read models: folded from the log, never written by anything but the projection.';

CREATE TABLE rm.accounts (
    account_id        uuid PRIMARY KEY,
    email             text NOT NULL,
    name              text NOT NULL,
    is_active         boolean NOT NULL,
    subscription_tier text NOT NULL,
    created_at        timestamptz NOT NULL,
    last_seq          bigint NOT NULL
);

CREATE TABLE rm.sessions (
    session_id     uuid PRIMARY KEY,
    account_id     uuid NOT NULL,
    device_id      text,
    device_name    text,
    created_at     timestamptz NOT NULL,
    last_seen_at   timestamptz NOT NULL,
    generation     bigint NOT NULL,
    revoked_at     timestamptz,
    revoked_reason text,
    last_seq       bigint NOT NULL
);
CREATE INDEX sessions_live ON rm.sessions (account_id, created_at DESC, session_id DESC)
    WHERE revoked_at IS NULL;

CREATE TABLE rm.queries (
    query_id          uuid PRIMARY KEY,
    owner             uuid NOT NULL,
    query             text NOT NULL,
    operation         text NOT NULL,
    file_ids          jsonb NOT NULL,
    reference         text,
    status            text NOT NULL,
    worker            text,
    model             text,
    attempts          bigint NOT NULL,
    response_text     text,
    model_used        text,
    confidence        double precision,
    latency_ms        bigint,
    finish_reason     text,
    prompt_tokens     bigint,
    completion_tokens bigint,
    error_code        text,
    error_message     text,
    created_at        timestamptz NOT NULL,
    started_at        timestamptz,
    completed_at      timestamptz,
    last_seq          bigint NOT NULL
);
CREATE INDEX queries_newest ON rm.queries (owner, created_at DESC, query_id DESC);

CREATE SCHEMA analytics;
COMMENT ON SCHEMA analytics IS
    'What analysts read: documented views without texts. Members of the role amaima_analyst see this schema and nothing else.';

CREATE VIEW analytics.rm_queries AS
SELECT query_id,
       owner AS user_id,
       operation,
       COALESCE(model_used, model) AS model,
       status,
       latency_ms,
       confidence,
       jsonb_array_length(file_ids) AS file_count,
       created_at,
       started_at,
       completed_at,
       prompt_tokens,
       completion_tokens,
       last_seq
FROM rm.queries;

COMMENT ON VIEW analytics.rm_queries IS 'One row per query, without question and answer.';
COMMENT ON COLUMN analytics.rm_queries.query_id IS 'The query.';
COMMENT ON COLUMN analytics.rm_queries.user_id IS 'The account that asked.';
COMMENT ON COLUMN analytics.rm_queries.operation IS 'general, analysis, or another operation that the client named.';
COMMENT ON COLUMN analytics.rm_queries.model IS 'The model that answered or, before the answer, works on it. Null while the query waits.';
COMMENT ON COLUMN analytics.rm_queries.status IS 'queued, processing, completed, failed or cancelled.';
COMMENT ON COLUMN analytics.rm_queries.latency_ms IS 'Time spent on inference over all attempts, in milliseconds. Null without an answer.';
COMMENT ON COLUMN analytics.rm_queries.confidence IS 'Geometric mean probability of the generated tokens, 0 to 1. Null where it is not known.';
COMMENT ON COLUMN analytics.rm_queries.file_count IS 'Number of files that belong to the question.';
COMMENT ON COLUMN analytics.rm_queries.created_at IS 'When it was asked.';
COMMENT ON COLUMN analytics.rm_queries.started_at IS 'When the first worker took it.';
COMMENT ON COLUMN analytics.rm_queries.completed_at IS 'When it ended: answered, failed or cancelled.';
COMMENT ON COLUMN analytics.rm_queries.prompt_tokens IS 'Tokens of the prompt. Null without an answer.';
COMMENT ON COLUMN analytics.rm_queries.completion_tokens IS 'Tokens of the answer. Null without an answer.';
COMMENT ON COLUMN analytics.rm_queries.last_seq IS 'Sequence in the log of the latest event that the row reflects.';

-- A group without login: an analyst gets a login of his own and membership in it. Roles belong to
-- the whole cluster, so another database may have made it, or may be making it at this moment.
DO $$
BEGIN
    CREATE ROLE amaima_analyst NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE WARNING 'the role amaima_analyst is missing and may not be made here';
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amaima_analyst') THEN
        GRANT USAGE ON SCHEMA analytics TO amaima_analyst;
        GRANT SELECT ON ALL TABLES IN SCHEMA analytics TO amaima_analyst;
        -- Views that later migrations add are readable without a grant of their own.
        ALTER DEFAULT PRIVILEGES IN SCHEMA analytics GRANT SELECT ON TABLES TO amaima_analyst;
    END IF;
END
$$;
