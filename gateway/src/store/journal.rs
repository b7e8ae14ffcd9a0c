//! Writes what happens in turns. All turns share one writer: what waits together is committed together, so that many turns at once
//! cost few commits. What was acknowledged is in the database.
use kernelbox_proto::{
    TurnName,
    v1::{self, TurnEvent},
};
use prost::Message as _;
use sqlx::{Connection as _, Sqlite, SqliteConnection, pool::PoolConnection};
use tokio::sync::{mpsc, oneshot};

use super::{Micros, Store, StoreError};
use crate::{metrics::Query, model::Message};

/// Entries on their way; a turn has at most one.
const WAITING: usize = 1024;
/// Entries of a commit, at most.
const GROUP: usize = 128;

/// What a turn adds in one step: all of it is written, or nothing.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub name: TurnName,
    /// The gateway that may write; refused if it is not that which has the turn.
    pub lease: String,
    pub events: Vec<TurnEvent>,
    /// The model's messages with their positions.
    pub messages: Vec<(i64, Message)>,
    pub turn: v1::Turn,
    /// It ends: the lease is given back.
    pub ends: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("the turn is not this gateway's any more")]
    Fenced,
    #[error("a turn could not be written")]
    Store(#[source] std::sync::Arc<StoreError>),
    #[error("the database is closed")]
    Closed,
}

/// The way to the writer. Clones share it; it ends with the last.
#[derive(Debug, Clone)]
pub(crate) struct Journal(mpsc::Sender<Waiting>);

type Waiting = (Entry, oneshot::Sender<Result<(), JournalError>>);

impl Journal {
    /// Starts the writer, which ends when nobody can write any more. It keeps a connection of the store's to itself: to take and give back
    /// one for each commit would cost as much as the commit, and the next one had to read again what this one has in memory.
    pub(crate) fn start(store: Store) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, mut entries) = mpsc::channel(WAITING);
        let writer = tokio::spawn(async move {
            let mut group = Vec::new();
            let mut connection = None;
            while entries.recv_many(&mut group, GROUP).await > 0 {
                connection = write_group(&store, connection, std::mem::take(&mut group)).await;
            }
        });
        (Self(sender), writer)
    }

    /// A place for an entry. What is put there is written, whoever gives up waiting.
    pub(crate) async fn place(&self) -> Result<Place<'_>, JournalError> {
        self.0.reserve().await.map(Place).map_err(|_| JournalError::Closed)
    }

    /// Returns when the entry is in the database.
    pub(crate) async fn append(&self, entry: Entry) -> Result<(), JournalError> {
        self.place().await?.put(entry).await
    }
}

/// Where an entry goes.
pub(crate) struct Place<'a>(mpsc::Permit<'a, Waiting>);

impl Place<'_> {
    /// Puts it there at once; the future returns when it is in the database.
    pub(crate) fn put(self, entry: Entry) -> impl Future<Output = Result<(), JournalError>> + use<> {
        let (reply, told) = oneshot::channel();
        self.0.send((entry, reply));
        async move { told.await.map_err(|_| JournalError::Closed)? }
    }
}

/// Returns the connection, if it can be used again.
async fn write_group(
    store: &Store,
    connection: Option<PoolConnection<Sqlite>>,
    group: Vec<Waiting>,
) -> Option<PoolConnection<Sqlite>> {
    let written = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => store.pool.acquire().await?,
        };
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut fenced = Vec::with_capacity(group.len());
        for (entry, _) in &group {
            fenced.push(!write(&mut tx, entry).await?);
        }
        tx.commit().await?;
        Ok::<_, StoreError>((fenced, connection))
    };
    match store.timed(Query::Journal, written).await {
        Ok((fenced, connection)) => {
            for ((_, reply), fenced) in group.into_iter().zip(fenced) {
                // Who asked may have been given up.
                let _ = reply.send(if fenced { Err(JournalError::Fenced) } else { Ok(()) });
            }
            Some(connection)
        }
        Err(error) => {
            let error = std::sync::Arc::new(error);
            for (_, reply) in group {
                let _ = reply.send(Err(JournalError::Store(std::sync::Arc::clone(&error))));
            }
            None
        }
    }
}

/// False if the turn is not the writer's.
async fn write(tx: &mut SqliteConnection, entry: &Entry) -> Result<bool, StoreError> {
    let (session, turn) = (entry.name.session.as_str(), entry.name.turn.as_str());
    let updated = sqlx::query(
        "UPDATE turns SET turn = ?, last_sequence = ?, lease = CASE WHEN ? THEN NULL ELSE lease END, \
         end_time = CASE WHEN ? THEN ? ELSE NULL END WHERE session = ? AND id = ? AND lease = ?",
    )
    .bind(entry.turn.encode_to_vec())
    .bind(entry.turn.last_sequence)
    .bind(entry.ends)
    .bind(entry.ends)
    .bind(Micros::now().0)
    .bind(session)
    .bind(turn)
    .bind(&entry.lease)
    .execute(&mut *tx)
    .await?;
    if updated.rows_affected() == 0 {
        return Ok(false);
    }
    for event in &entry.events {
        sqlx::query("INSERT INTO turn_events (session, turn, sequence, event) VALUES (?, ?, ?, ?)")
            .bind(session)
            .bind(turn)
            .bind(event.sequence)
            .bind(event.encode_to_vec())
            .execute(&mut *tx)
            .await?;
    }
    for (position, message) in &entry.messages {
        let json = serde_json::to_string(message).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query("INSERT INTO turn_messages (session, turn, position, message) VALUES (?, ?, ?, ?)")
            .bind(session)
            .bind(turn)
            .bind(*position)
            .bind(json)
            .execute(&mut *tx)
            .await?;
    }
    Ok(true)
}
