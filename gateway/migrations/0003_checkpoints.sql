-- The newest checkpoint of a session whose files do not outlive its sandbox.
CREATE TABLE checkpoints (
    session     TEXT   NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    -- The object's key.
    object      TEXT   NOT NULL,
    -- The generation whose sandbox it is of, and its place among that sandbox's.
    generation  BIGINT NOT NULL,
    number      BIGINT NOT NULL,
    -- Stands for what it holds, in that sandbox.
    mark        TEXT   NOT NULL,
    bytes       BIGINT NOT NULL,
    -- What it does not hold, a JSON list.
    skipped     TEXT   NOT NULL,
    create_time BIGINT NOT NULL
);

-- The generation whose sandbox has changes that are not saved; 0 for none.
ALTER TABLE sessions ADD COLUMN unsaved_generation BIGINT NOT NULL DEFAULT 0;
