//! What lasts: sessions and their turns, in SQLite. Secrets are kept in a column of their own and leave it only towards a sandbox.
mod checkpoints;
mod journal;
mod page;
mod sessions;
mod turns;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kernelbox_proto::{Error, SessionId, v1};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub(crate) use self::{
    checkpoints::{Checkpoint, Put},
    journal::{Entry, Journal, JournalError},
    page::PageToken,
    sessions::{Created, NewSession, RequestKey},
    turns::{Begun, NewTurn, TurnMessages},
};

use crate::metrics::{Query, StoreMetrics};

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pool: SqlitePool,
    metrics: StoreMetrics,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {}", path.display())]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("cannot bring the database's tables up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("a query failed")]
    Query(#[from] sqlx::Error),
    #[error("a row of {id} cannot be read")]
    Row { id: String, source: prost::DecodeError },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        crate::services::internal("the database", &error)
    }
}

/// A session's row.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub id: SessionId,
    pub tenant: String,
    /// With its secrets; output-only fields are not kept here.
    settings: v1::Session,
    pub generation: i64,
    /// 0 where it never had a sandbox that was ready.
    pub bound_generation: i64,
    /// The generation whose sandbox has, or took with it, changes that are not saved; 0 for none.
    pub unsaved_generation: i64,
    pub revision: i64,
    pub create_time: Micros,
    pub update_time: Micros,
    pub last_activity: Micros,
    pub deleting: bool,
}

impl Record {
    /// What clients may see: without the values of secrets.
    pub(crate) fn public(&self, state: v1::SandboxState, last_activity: Option<Micros>) -> v1::Session {
        let mut session = without_secrets(self.settings.clone());
        session.name = self.id.name();
        session.create_time = Some(self.create_time.timestamp());
        session.update_time = Some(self.update_time.timestamp());
        session.last_activity_time =
            Some(last_activity.map_or(self.last_activity, |it| it.max(self.last_activity)).timestamp());
        session.generation = self.generation;
        session.sandbox_state = state.into();
        session.etag = self.etag();
        session
    }

    pub(crate) fn etag(&self) -> String {
        format!("{:x}-{:x}", self.create_time.0, self.revision)
    }

    /// The settings with their secrets: for the sandbox, never for a client or a log.
    pub(crate) fn secret_settings(&self) -> &v1::Session {
        &self.settings
    }

    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.settings.idle_timeout.and_then(|it| it.try_into().ok())
    }
}

fn without_secrets(mut session: v1::Session) -> v1::Session {
    session.env.values_mut().for_each(String::clear);
    session.mcp_servers.iter_mut().flat_map(|server| server.headers.values_mut()).for_each(String::clear);
    session
}

/// Microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Micros(pub i64);

impl Micros {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    pub(crate) fn timestamp(self) -> prost_types::Timestamp {
        let nanos = i32::try_from(self.0.rem_euclid(1_000_000) * 1000).unwrap_or(0);
        prost_types::Timestamp { seconds: self.0.div_euclid(1_000_000), nanos }
    }
}

impl Store {
    /// Opens or makes the database and brings its tables up to date.
    pub(crate) async fn open(path: &Path, metrics: StoreMetrics) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            // A file does not go away as a server does.
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        let mut migrator = sqlx::migrate!();
        // What a newer version added does not keep this one from going on: operators go back, too.
        migrator.set_ignore_missing(true);
        migrator.run(&pool).await?;
        Ok(Self { pool, metrics })
    }

    async fn reading<T>(&self, query: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.timed(Query::Read, query).await
    }

    async fn writing<T>(&self, query: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.timed(Query::Write, query).await
    }

    async fn timed<T>(&self, what: Query, query: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let begun = Instant::now();
        let answer = query.await;
        self.metrics.times.took(what, begun.elapsed());
        if answer.is_err() {
            self.metrics.errors.inc(what);
        }
        answer
    }

    /// Writes out what is left to write.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}
