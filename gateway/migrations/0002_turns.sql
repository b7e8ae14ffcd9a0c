-- A turn: its row, what was told of it, and the model's messages, in the order in which they came about.
CREATE TABLE turns (
    session       TEXT   NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id            TEXT   NOT NULL,
    -- Its place among the session's turns, from 1.
    number        BIGINT NOT NULL,
    -- Of all that the call asked for.
    digest        TEXT   NOT NULL,
    -- The gateway that runs it; NULL once it has ended.
    lease         TEXT,
    -- kernelbox.v1.Turn
    turn          BLOB   NOT NULL,
    last_sequence BIGINT NOT NULL DEFAULT 0,
    create_time   BIGINT NOT NULL,
    -- NULL while it runs.
    end_time      BIGINT,
    PRIMARY KEY (session, id)
);

CREATE UNIQUE INDEX turns_number ON turns (session, number);
-- One turn at a time.
CREATE UNIQUE INDEX turns_running ON turns (session) WHERE lease IS NOT NULL;
CREATE INDEX turns_ended ON turns (end_time);

CREATE TABLE turn_events (
    session  TEXT   NOT NULL,
    turn     TEXT   NOT NULL,
    sequence BIGINT NOT NULL,
    -- kernelbox.v1.TurnEvent
    event    BLOB   NOT NULL,
    PRIMARY KEY (session, turn, sequence),
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
);

CREATE TABLE turn_messages (
    session  TEXT   NOT NULL,
    turn     TEXT   NOT NULL,
    position BIGINT NOT NULL,
    -- JSON
    message  TEXT   NOT NULL,
    PRIMARY KEY (session, turn, position),
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
);

-- What a session's first turns came to, in the model's words, so that they need not be told again.
CREATE TABLE summaries (
    session TEXT   NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- The number of the last turn that it stands for.
    through BIGINT NOT NULL,
    text    TEXT   NOT NULL,
    PRIMARY KEY (session, through)
);
