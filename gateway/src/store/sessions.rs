//! Queries on sessions.
use std::collections::HashMap;

use kernelbox_proto::{SessionId, v1};
use prost::Message as _;
use sqlx::{QueryBuilder, Row as _, Sqlite, sqlite::SqliteRow};

use super::{Micros, PageToken, Record, Store, StoreError, without_secrets};

/// A session to be opened.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub id: SessionId,
    pub tenant: String,
    pub settings: v1::Session,
    pub request: Option<RequestKey>,
    /// How many sessions the tenant may have.
    pub limit: u32,
}

/// The call that opened a session.
#[derive(Debug)]
pub(crate) struct RequestKey {
    pub id: String,
    /// Of all that the call asked for.
    pub digest: String,
}

/// What became of an opening.
#[derive(Debug)]
pub(crate) enum Created {
    New(Record),
    /// The same call opened it before.
    Before(Record),
    /// Another call had the request id.
    RequestReused,
    /// The id is taken.
    Taken,
    OverLimit,
}

const COLUMNS: &str = "SELECT id, tenant, settings, secrets, generation, bound_generation, \
                       unsaved_generation, revision, create_time, update_time, last_activity_time, deleting FROM sessions s WHERE ";

impl Store {
    pub(crate) async fn create(&self, new: NewSession) -> Result<Created, StoreError> {
        self.writing(async {
            // Immediate: what is read here must still hold when the row is written.
            let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            if let Some(request) = &new.request {
                let row = sqlx::query("SELECT id, request_digest FROM sessions WHERE tenant = ? AND request_id = ?")
                    .bind(&new.tenant)
                    .bind(&request.id)
                    .fetch_optional(&mut *tx)
                    .await?;
                if let Some(row) = row {
                    if row.get::<Option<String>, _>("request_digest").as_deref() != Some(&request.digest) {
                        return Ok(Created::RequestReused);
                    }
                    let id: String = row.get("id");
                    tx.rollback().await?;
                    return Ok(self.read(&id).await?.map_or(Created::RequestReused, Created::Before));
                }
            }
            let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sessions WHERE tenant = ?")
                .bind(&new.tenant)
                .fetch_one(&mut *tx)
                .await?;
            if count >= i64::from(new.limit) {
                return Ok(Created::OverLimit);
            }
            let now = Micros::now();
            let inserted = sqlx::query(
                "INSERT INTO sessions (id, tenant, request_id, request_digest, settings, secrets, create_time, update_time, \
                 last_activity_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            )
            .bind(new.id.as_str())
            .bind(&new.tenant)
            .bind(new.request.as_ref().map(|it| &it.id))
            .bind(new.request.as_ref().map(|it| &it.digest))
            .bind(without_secrets(new.settings.clone()).encode_to_vec())
            .bind(secrets(&new.settings).encode_to_vec())
            .bind(now.0)
            .bind(now.0)
            .bind(now.0)
            .execute(&mut *tx)
            .await?;
            if inserted.rows_affected() == 0 {
                return Ok(Created::Taken);
            }
            put_labels(&mut tx, &new.id, &new.settings.labels).await?;
            tx.commit().await?;
            let Some(record) = self.read(new.id.as_str()).await? else { return Ok(Created::Taken) };
            Ok(Created::New(record))
        })
        .await
    }

    pub(crate) async fn get(&self, id: &SessionId) -> Result<Option<Record>, StoreError> {
        self.reading(async { self.read(id.as_str()).await }).await
    }

    async fn read(&self, id: &str) -> Result<Option<Record>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
        let row = query.push("id = ").push_bind(id).build().fetch_optional(&self.pool).await?;
        row.map(record).transpose()
    }

    /// A page of a tenant's sessions, newest first, and where the next begins.
    pub(crate) async fn list(
        &self,
        tenant: &str,
        labels: &HashMap<String, String>,
        size: u32,
        after: Option<PageToken>,
    ) -> Result<(Vec<Record>, Option<PageToken>), StoreError> {
        self.reading(async {
            let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
            query.push("deleting = 0 AND tenant = ").push_bind(tenant);
            if let Some(after) = &after {
                query.push(" AND (create_time < ").push_bind(after.create_time.0);
                query.push(" OR (create_time = ").push_bind(after.create_time.0);
                query.push(" AND id < ").push_bind(after.id.as_str()).push("))");
            }
            for (name, value) in labels {
                query.push(" AND EXISTS (SELECT 1 FROM session_labels l WHERE l.session = s.id AND l.name = ");
                query.push_bind(name).push(" AND l.value = ").push_bind(value).push(")");
            }
            query.push(" ORDER BY create_time DESC, id DESC LIMIT ").push_bind(i64::from(size) + 1);
            let rows = query.build().fetch_all(&self.pool).await?;
            let mut records = rows.into_iter().map(record).collect::<Result<Vec<_>, _>>()?;
            let more = records.len() > size as usize;
            records.truncate(size as usize);
            let next = records.last().filter(|_| more);
            let next = next.map(|last| PageToken { create_time: last.create_time, id: last.id.clone() });
            Ok((records, next))
        })
        .await
    }

    /// Replaces the settings if nobody did since `revision`.
    pub(crate) async fn update(
        &self,
        id: &SessionId,
        revision: i64,
        settings: &v1::Session,
    ) -> Result<Option<Record>, StoreError> {
        self.writing(async {
            let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let updated = sqlx::query(
                "UPDATE sessions SET settings = ?, secrets = ?, update_time = ?, revision = revision + 1 \
                 WHERE id = ? AND revision = ? AND deleting = 0",
            )
            .bind(without_secrets(settings.clone()).encode_to_vec())
            .bind(secrets(settings).encode_to_vec())
            .bind(Micros::now().0)
            .bind(id.as_str())
            .bind(revision)
            .execute(&mut *tx)
            .await?;
            if updated.rows_affected() == 0 {
                return Ok(None);
            }
            sqlx::query("DELETE FROM session_labels WHERE session = ?").bind(id.as_str()).execute(&mut *tx).await?;
            put_labels(&mut tx, id, &settings.labels).await?;
            tx.commit().await?;
            self.read(id.as_str()).await
        })
        .await
    }

    /// Raises the generation from `current` by one; None if another did, or if the session is ending.
    pub(crate) async fn raise_generation(&self, id: &SessionId, current: i64) -> Result<Option<i64>, StoreError> {
        self.writing(async {
            let raised =
                sqlx::query("UPDATE sessions SET generation = ? WHERE id = ? AND generation = ? AND deleting = 0")
                    .bind(current + 1)
                    .bind(id.as_str())
                    .bind(current)
                    .execute(&self.pool)
                    .await?;
            Ok((raised.rows_affected() == 1).then_some(current + 1))
        })
        .await
    }

    /// A generation's sandbox is the session's. What an earlier one lost was told then.
    pub(crate) async fn bound(&self, id: &SessionId, generation: i64) -> Result<(), StoreError> {
        self.writing(async {
            sqlx::query(
                "UPDATE sessions SET bound_generation = ?, unsaved_generation = 0 WHERE id = ? AND bound_generation < ?",
            )
            .bind(generation)
            .bind(id.as_str())
            .bind(generation)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn active(&self, id: &SessionId, at: Micros) -> Result<(), StoreError> {
        self.writing(async {
            sqlx::query("UPDATE sessions SET last_activity_time = ? WHERE id = ? AND last_activity_time < ?")
                .bind(at.0)
                .bind(id.as_str())
                .bind(at.0)
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    /// From now on the session takes no calls, whatever happens before its row is removed.
    pub(crate) async fn begin_delete(&self, id: &SessionId) -> Result<(), StoreError> {
        self.writing(async {
            sqlx::query("UPDATE sessions SET deleting = 1 WHERE id = ?").bind(id.as_str()).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn delete(&self, id: &SessionId) -> Result<(), StoreError> {
        self.writing(async {
            sqlx::query("DELETE FROM sessions WHERE id = ?").bind(id.as_str()).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// Sessions whose end was begun and not finished.
    pub(crate) async fn half_deleted(&self) -> Result<Vec<SessionId>, StoreError> {
        self.reading(async {
            let ids: Vec<String> =
                sqlx::query_scalar("SELECT id FROM sessions WHERE deleting = 1").fetch_all(&self.pool).await?;
            Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
        })
        .await
    }
}

async fn put_labels(
    tx: &mut sqlx::SqliteConnection,
    id: &SessionId,
    labels: &HashMap<String, String>,
) -> Result<(), sqlx::Error> {
    for (name, value) in labels {
        sqlx::query("INSERT INTO session_labels (session, name, value) VALUES (?, ?, ?)")
            .bind(id.as_str())
            .bind(name)
            .bind(value)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

fn secrets(session: &v1::Session) -> v1::Session {
    let servers = session.mcp_servers.iter();
    v1::Session {
        env: session.env.clone(),
        mcp_servers: servers.map(|s| v1::McpServer { headers: s.headers.clone(), ..Default::default() }).collect(),
        ..Default::default()
    }
}

fn record(row: SqliteRow) -> Result<Record, StoreError> {
    let id: String = row.get("id");
    let decode = |bytes: &[u8]| v1::Session::decode(bytes).map_err(|source| StoreError::Row { id: id.clone(), source });
    let mut settings = decode(row.get("settings"))?;
    let secrets = decode(row.get("secrets"))?;
    settings.env = secrets.env;
    for (server, secret) in settings.mcp_servers.iter_mut().zip(secrets.mcp_servers) {
        server.headers = secret.headers;
    }
    let parsed = id.parse().map_err(|_| sqlx::Error::Decode(format!("{id} is not a session id").into()))?;
    Ok(Record {
        id: parsed,
        tenant: row.get("tenant"),
        settings,
        generation: row.get("generation"),
        bound_generation: row.get("bound_generation"),
        unsaved_generation: row.get("unsaved_generation"),
        revision: row.get("revision"),
        create_time: Micros(row.get("create_time")),
        update_time: Micros(row.get("update_time")),
        last_activity: Micros(row.get("last_activity_time")),
        deleting: row.get::<i64, _>("deleting") != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (Store, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Store::open(&dir.path().join("t.db"), crate::metrics::Metrics::new().unwrap().store).await.unwrap(), dir)
    }

    fn new(id: &str, request: Option<(&str, &str)>) -> NewSession {
        NewSession {
            id: id.parse().unwrap(),
            tenant: "t".into(),
            settings: v1::Session {
                labels: HashMap::from([("team".into(), id[..1].to_owned())]),
                env: HashMap::from([("TOKEN".into(), "hush".into())]),
                mcp_servers: vec![v1::McpServer {
                    name: "m".into(),
                    headers: HashMap::from([("authorization".into(), "hush".into())]),
                    ..Default::default()
                }],
                ..Default::default()
            },
            request: request.map(|(id, digest)| RequestKey { id: id.into(), digest: digest.into() }),
            limit: 4,
        }
    }

    #[tokio::test]
    async fn secrets_come_back_for_the_sandbox_and_never_for_a_client() {
        let (store, dir) = store().await;
        let Created::New(record) = store.create(new("a", None)).await.unwrap() else { panic!() };
        assert_eq!(record.secret_settings().env["TOKEN"], "hush");
        assert_eq!(record.secret_settings().mcp_servers[0].headers["authorization"], "hush");
        let public = record.public(v1::SandboxState::None, None);
        assert_eq!(public.env["TOKEN"], "");
        assert!(!format!("{public:?}").contains("hush"));
        let settings: Vec<u8> =
            sqlx::query_scalar("SELECT settings FROM sessions").fetch_one(&store.pool).await.unwrap();
        assert!(!String::from_utf8_lossy(&settings).contains("hush"));
        drop(dir);
    }

    #[tokio::test]
    async fn the_same_request_opens_one_session_and_another_is_refused() {
        let (store, _dir) = store().await;
        assert!(matches!(store.create(new("a", Some(("r", "1")))).await.unwrap(), Created::New(_)));
        match store.create(new("b", Some(("r", "1")))).await.unwrap() {
            Created::Before(record) => assert_eq!(record.id.as_str(), "a"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(store.create(new("b", Some(("r", "2")))).await.unwrap(), Created::RequestReused));
        assert!(matches!(store.create(new("a", None)).await.unwrap(), Created::Taken));
        for id in ["b", "c", "d"] {
            assert!(matches!(store.create(new(id, None)).await.unwrap(), Created::New(_)));
        }
        assert!(matches!(store.create(new("e", None)).await.unwrap(), Created::OverLimit));
    }

    #[tokio::test]
    async fn pages_cover_all_sessions_once_newest_first() {
        let (store, _dir) = store().await;
        for id in ["a1", "b2", "a3"] {
            store.create(new(id, None)).await.unwrap();
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let token = after.take().map(|it: PageToken| PageToken::decode(&it.encode()).unwrap());
            let (page, next) = store.list("t", &HashMap::new(), 2, token).await.unwrap();
            seen.extend(page.into_iter().map(|it| it.id.to_string()));
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["a3", "b2", "a1"]);
        let labelled = HashMap::from([("team".to_owned(), "a".to_owned())]);
        let (page, _) = store.list("t", &labelled, 10, None).await.unwrap();
        assert_eq!(page.len(), 2);
        assert!(store.list("other", &HashMap::new(), 10, None).await.unwrap().0.is_empty());
    }

    #[tokio::test]
    async fn a_generation_is_raised_by_one_caller_only() {
        let (store, _dir) = store().await;
        store.create(new("a", None)).await.unwrap();
        let id = "a".parse().unwrap();
        let raised = futures::future::join_all((0..8).map(|_| store.raise_generation(&id, 0))).await;
        assert_eq!(raised.into_iter().filter_map(Result::unwrap).collect::<Vec<_>>(), [1]);
        store.begin_delete(&id).await.unwrap();
        assert_eq!(store.raise_generation(&id, 1).await.unwrap(), None);
        assert_eq!(store.half_deleted().await.unwrap(), [id]);
    }

    #[tokio::test]
    async fn an_update_that_lost_a_race_changes_nothing() {
        let (store, _dir) = store().await;
        store.create(new("a", None)).await.unwrap();
        let id = "a".parse().unwrap();
        let named = v1::Session { display_name: "x".into(), ..Default::default() };
        assert!(store.update(&id, 1, &named).await.unwrap().is_some());
        assert!(store.update(&id, 1, &v1::Session::default()).await.unwrap().is_none());
        assert_eq!(store.get(&id).await.unwrap().unwrap().revision, 2);
    }
}
