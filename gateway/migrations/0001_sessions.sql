-- Times are microseconds since 1970. Only types that SQLite and PostgreSQL both have (BLOB is BYTEA there).
CREATE TABLE sessions (
    id                 TEXT   NOT NULL PRIMARY KEY,
    tenant             TEXT   NOT NULL,
    -- The call that opened it, so that the same call again finds it.
    request_id         TEXT,
    request_digest     TEXT,
    -- kernelbox.v1.Session without the values of its secrets.
    settings           BLOB   NOT NULL,
    -- kernelbox.v1.Session with its secrets alone.
    secrets            BLOB   NOT NULL,
    -- Raised by compare-and-swap before each sandbox is acquired.
    generation         BIGINT NOT NULL DEFAULT 0,
    -- The newest generation whose sandbox became ready.
    bound_generation   BIGINT NOT NULL DEFAULT 0,
    -- Rises with each change of the settings.
    revision           BIGINT NOT NULL DEFAULT 1,
    create_time        BIGINT NOT NULL,
    update_time        BIGINT NOT NULL,
    last_activity_time BIGINT NOT NULL,
    -- 1 once its end has begun.
    deleting           BIGINT NOT NULL DEFAULT 0
);

CREATE UNIQUE INDEX sessions_request ON sessions (tenant, request_id);
CREATE INDEX sessions_newest ON sessions (tenant, create_time, id);

CREATE TABLE session_labels (
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (session, name)
);

CREATE INDEX session_labels_value ON session_labels (name, value, session);
