-- The read models come in generations from here on, each a schema of its own with its checkpoints
-- beside its rows (schema/generation.sql). What was here is folded from the log again.
DROP SCHEMA rm CASCADE;
DROP TABLE checkpoint;
DROP TABLE parked;

-- Numbers generations for good, so that a writer of one never takes another for its own.
CREATE SCHEMA projection;
CREATE SEQUENCE projection.generation;
