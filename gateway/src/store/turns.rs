//! Queries on turns. Their events and messages are written by the [`super::Journal`] alone.
use kernelbox_proto::{
    SessionId, TurnName,
    v1::{self, TurnEvent, TurnStatus},
};
use prost::Message as _;
use sqlx::{Row as _, sqlite::SqliteRow};

use super::{Micros, Store, StoreError};
use crate::model::Message;

/// A turn to be begun.
#[derive(Debug)]
pub(crate) struct NewTurn {
    pub name: TurnName,
    /// Of all that the call asked for.
    pub digest: String,
    /// The gateway that runs it.
    pub lease: String,
    pub message: String,
}

/// What became of a beginning.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Its place among the session's turns.
    New(i64, Box<v1::Turn>),
    /// The same call began it before.
    Before,
    /// Another call had the request id.
    RequestReused,
    /// This turn runs.
    Running(TurnName),
}

/// A turn's messages, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TurnMessages {
    pub number: i64,
    /// It runs, or ended with an answer.
    pub status: TurnStatus,
    pub messages: Vec<Message>,
}

/// A page of a turn's events.
#[derive(Debug)]
pub(crate) struct EventPage {
    pub events: Vec<TurnEvent>,
    /// Of the newest event that there was.
    pub last_sequence: i64,
    pub ended: bool,
}

/// Events of a page, at most.
const PAGE: i64 = 256;

impl Store {
    pub(crate) async fn begin_turn(&self, new: &NewTurn) -> Result<Begun, StoreError> {
        self.writing(async {
            let (session, id) = (new.name.session.as_str(), new.name.turn.as_str());
            let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let before: Option<String> = sqlx::query_scalar("SELECT digest FROM turns WHERE session = ? AND id = ?")
                .bind(session)
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(before) = before {
                return Ok(if before == new.digest { Begun::Before } else { Begun::RequestReused });
            }
            let running: Option<String> =
                sqlx::query_scalar("SELECT id FROM turns WHERE session = ? AND lease IS NOT NULL")
                    .bind(session)
                    .fetch_optional(&mut *tx)
                    .await?;
            if let Some(running) = running {
                return Ok(Begun::Running(name(&new.name.session, &running)?));
            }
            let number: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(number), 0) + 1 FROM turns WHERE session = ?")
                .bind(session)
                .fetch_one(&mut *tx)
                .await?;
            let now = Micros::now();
            let turn = v1::Turn {
                name: new.name.to_string(),
                status: TurnStatus::Running.into(),
                message: new.message.clone(),
                create_time: Some(now.timestamp()),
                ..Default::default()
            };
            sqlx::query(
                "INSERT INTO turns (session, id, number, digest, lease, turn, create_time) VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(session)
            .bind(id)
            .bind(number)
            .bind(&new.digest)
            .bind(&new.lease)
            .bind(turn.encode_to_vec())
            .bind(now.0)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Begun::New(number, Box::new(turn)))
        })
        .await
    }

    /// The digest of the call that began a turn, if it has begun.
    pub(crate) async fn turn_digest(&self, name: &TurnName) -> Result<Option<String>, StoreError> {
        self.reading(async {
            let digest = sqlx::query_scalar("SELECT digest FROM turns WHERE session = ? AND id = ?")
                .bind(name.session.as_str())
                .bind(name.turn.as_str())
                .fetch_optional(&self.pool)
                .await?;
            Ok(digest)
        })
        .await
    }

    pub(crate) async fn turn(&self, name: &TurnName) -> Result<Option<v1::Turn>, StoreError> {
        self.reading(async {
            let row = sqlx::query("SELECT session, id, turn, last_sequence FROM turns WHERE session = ? AND id = ?")
                .bind(name.session.as_str())
                .bind(name.turn.as_str())
                .fetch_optional(&self.pool)
                .await?;
            row.as_ref().map(turn).transpose()
        })
        .await
    }

    /// A page of a session's turns, newest first, and the number that the next begins below.
    pub(crate) async fn turns(
        &self,
        session: &SessionId,
        size: u32,
        below: Option<i64>,
    ) -> Result<(Vec<v1::Turn>, Option<i64>), StoreError> {
        self.reading(async {
            let rows = sqlx::query(
                "SELECT session, id, turn, last_sequence, number FROM turns WHERE session = ? AND number < ? \
                 ORDER BY number DESC LIMIT ?",
            )
            .bind(session.as_str())
            .bind(below.unwrap_or(i64::MAX))
            .bind(i64::from(size) + 1)
            .fetch_all(&self.pool)
            .await?;
            let page = &rows[..rows.len().min(size as usize)];
            let next = page.last().filter(|_| rows.len() > page.len()).map(|row| row.get("number"));
            Ok((page.iter().map(turn).collect::<Result<_, _>>()?, next))
        })
        .await
    }

    /// Events of a turn after a sequence number; None if there is no such turn.
    pub(crate) async fn turn_events(&self, name: &TurnName, after: i64) -> Result<Option<EventPage>, StoreError> {
        self.reading(async {
            // One snapshot, so that no event comes between the two answers.
            let mut tx = self.pool.begin().await?;
            let row = sqlx::query("SELECT last_sequence, lease IS NULL AS ended FROM turns WHERE session = ? AND id = ?")
                .bind(name.session.as_str())
                .bind(name.turn.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(row) = row else { return Ok(None) };
            let events: Vec<Vec<u8>> = sqlx::query_scalar(
                "SELECT event FROM turn_events WHERE session = ? AND turn = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            )
            .bind(name.session.as_str())
            .bind(name.turn.as_str())
            .bind(after)
            .bind(PAGE)
            .fetch_all(&mut *tx)
            .await?;
            let events = events.iter().map(|event| TurnEvent::decode(event.as_slice())).collect::<Result<_, _>>();
            Ok(Some(EventPage {
                events: events.map_err(|source| StoreError::Row { id: name.to_string(), source })?,
                last_sequence: row.get("last_sequence"),
                ended: row.get::<i64, _>("ended") != 0,
            }))
        })
        .await
    }

    /// The messages of a session's turns after the number `through`, oldest turn first.
    pub(crate) async fn messages(&self, session: &SessionId, through: i64) -> Result<Vec<TurnMessages>, StoreError> {
        self.reading(async {
            let rows = sqlx::query(
                "SELECT t.number, t.turn AS row, m.message FROM turns t JOIN turn_messages m ON m.session = t.session AND m.turn = t.id \
                 WHERE t.session = ? AND t.number > ? ORDER BY t.number, m.position",
            )
            .bind(session.as_str())
            .bind(through)
            .fetch_all(&self.pool)
            .await?;
            let mut turns: Vec<TurnMessages> = Vec::new();
            for row in &rows {
                let number = row.get("number");
                let message = serde_json::from_str(row.get("message"))
                    .map_err(|error| StoreError::Query(sqlx::Error::Decode(error.into())))?;
                match turns.last_mut().filter(|turn| turn.number == number) {
                    Some(turn) => turn.messages.push(message),
                    None => {
                        let decoded = v1::Turn::decode(row.get::<&[u8], _>("row"))
                            .map_err(|source| StoreError::Row { id: session.to_string(), source })?;
                        turns.push(TurnMessages { number, status: decoded.status(), messages: vec![message] });
                    }
                }
            }
            Ok(turns)
        })
        .await
    }

    /// The summary that stands for the most turns, and the number of its last.
    pub(crate) async fn summary(&self, session: &SessionId) -> Result<Option<(i64, String)>, StoreError> {
        self.reading(async {
            let row =
                sqlx::query("SELECT through, text FROM summaries WHERE session = ? ORDER BY through DESC LIMIT 1")
                    .bind(session.as_str())
                    .fetch_optional(&self.pool)
                    .await?;
            Ok(row.map(|row| (row.get("through"), row.get("text"))))
        })
        .await
    }

    pub(crate) async fn put_summary(&self, session: &SessionId, through: i64, text: &str) -> Result<(), StoreError> {
        self.writing(async {
            sqlx::query("INSERT INTO summaries (session, through, text) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(session.as_str())
                .bind(through)
                .bind(text)
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    /// Turns that a gateway began and did not end. With a database of its own, a gateway that starts finds those of one that died.
    pub(crate) async fn unfinished_turns(&self) -> Result<Vec<(v1::Turn, String)>, StoreError> {
        self.reading(async {
            let rows = sqlx::query("SELECT session, id, turn, last_sequence, lease FROM turns WHERE lease IS NOT NULL")
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(|row| Ok((turn(row)?, row.get("lease")))).collect()
        })
        .await
    }

    /// Removes the events of turns that ended before a time. What the turns came to stays.
    pub(crate) async fn forget_events(&self, before: Micros) -> Result<u64, StoreError> {
        self.writing(async {
            let removed = sqlx::query(
                "DELETE FROM turn_events WHERE (session, turn) IN (SELECT session, id FROM turns WHERE end_time < ?)",
            )
            .bind(before.0)
            .execute(&self.pool)
            .await?;
            Ok(removed.rows_affected())
        })
        .await
    }
}

fn name(session: &SessionId, turn: &str) -> Result<TurnName, StoreError> {
    let turn = turn.parse().map_err(|_| sqlx::Error::Decode(format!("{turn} is not a turn's id").into()))?;
    Ok(TurnName { session: session.clone(), turn })
}

fn turn(row: &SqliteRow) -> Result<v1::Turn, StoreError> {
    let mut turn = v1::Turn::decode(row.get::<&[u8], _>("turn"))
        .map_err(|source| StoreError::Row { id: row.get("session"), source })?;
    turn.last_sequence = row.get("last_sequence");
    Ok(turn)
}
