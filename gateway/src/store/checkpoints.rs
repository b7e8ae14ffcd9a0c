//! Queries on checkpoints. Each write carries its generation: once a later sandbox was asked for, an earlier one writes nothing more.
use kernelbox_proto::SessionId;
use sqlx::Row as _;

use super::{Micros, Store, StoreError};

/// Where a session's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub object: String,
    pub generation: i64,
    /// Rises with each checkpoint of one sandbox.
    pub number: i64,
    pub mark: String,
    pub bytes: i64,
    /// What it does not hold, with the reasons.
    pub skipped: Vec<String>,
    pub create_time: Micros,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The session has it; the object of before is not needed any more.
    Done { older: Option<String> },
    /// There is a later generation or checkpoint, or the session is ending.
    Fenced,
}

impl Store {
    /// The session's newest checkpoint.
    pub(crate) async fn checkpoint(&self, id: &SessionId) -> Result<Option<Checkpoint>, StoreError> {
        self.reading(async {
            let row = sqlx::query(
                "SELECT object, generation, number, mark, bytes, skipped, create_time FROM checkpoints WHERE session = ?",
            )
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?;
            Ok(row.map(|row| Checkpoint {
                object: row.get("object"),
                generation: row.get("generation"),
                number: row.get("number"),
                mark: row.get("mark"),
                bytes: row.get("bytes"),
                skipped: serde_json::from_str(row.get("skipped")).unwrap_or_default(),
                create_time: Micros(row.get("create_time")),
            }))
        })
        .await
    }

    /// Makes it the session's newest, unless it is out of date.
    pub(crate) async fn put_checkpoint(&self, id: &SessionId, new: &Checkpoint) -> Result<Put, StoreError> {
        self.writing(async {
            // Immediate: what is read here must still hold when the row is written.
            let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let current: Option<i64> =
                sqlx::query_scalar("SELECT generation FROM sessions WHERE id = ? AND generation = ? AND deleting = 0")
                    .bind(id.as_str())
                    .bind(new.generation)
                    .fetch_optional(&mut *tx)
                    .await?;
            let older = sqlx::query("SELECT object, generation, number FROM checkpoints WHERE session = ?")
                .bind(id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            let place = |row: &sqlx::sqlite::SqliteRow| (row.get::<i64, _>("generation"), row.get::<i64, _>("number"));
            if current.is_none() || older.as_ref().is_some_and(|older| place(older) > (new.generation, new.number)) {
                return Ok(Put::Fenced);
            }
            sqlx::query(
                "INSERT INTO checkpoints (session, object, generation, number, mark, bytes, skipped, create_time) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session) DO UPDATE SET object = excluded.object, \
                 generation = excluded.generation, number = excluded.number, mark = excluded.mark, bytes = excluded.bytes, \
                 skipped = excluded.skipped, create_time = excluded.create_time",
            )
            .bind(id.as_str())
            .bind(&new.object)
            .bind(new.generation)
            .bind(new.number)
            .bind(&new.mark)
            .bind(new.bytes)
            .bind(serde_json::json!(new.skipped).to_string())
            .bind(new.create_time.0)
            .execute(&mut *tx)
            .await?;
            sqlx::query("UPDATE sessions SET unsaved_generation = 0 WHERE id = ?")
                .bind(id.as_str())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(Put::Done { older: older.map(|older| older.get("object")) })
        })
        .await
    }

    /// Notes whether the generation's sandbox has changes that are not saved, so that their loss can be told.
    pub(crate) async fn unsaved(&self, id: &SessionId, generation: i64, unsaved: bool) -> Result<(), StoreError> {
        self.writing(async {
            sqlx::query("UPDATE sessions SET unsaved_generation = ? WHERE id = ? AND generation = ?")
                .bind(if unsaved { generation } else { 0 })
                .bind(id.as_str())
                .bind(generation)
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use kernelbox_proto::v1;

    use super::*;
    use crate::store::NewSession;

    fn checkpoint(object: &str, generation: i64, number: i64) -> Checkpoint {
        Checkpoint {
            object: object.into(),
            generation,
            number,
            mark: "m".into(),
            bytes: 7,
            skipped: vec!["fifo: a FIFO".into()],
            create_time: Micros::now(),
        }
    }

    #[tokio::test]
    async fn only_the_newest_generation_and_its_newest_checkpoint_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("t.db"), crate::metrics::Metrics::new().unwrap().store).await.unwrap();
        let id: SessionId = "a".parse().unwrap();
        let settings = v1::Session::default();
        store
            .create(NewSession { id: id.clone(), tenant: "t".into(), settings, request: None, limit: 1 })
            .await
            .unwrap();
        let put = async |object: &str, generation, number| {
            store.put_checkpoint(&id, &checkpoint(object, generation, number)).await.unwrap()
        };
        store.raise_generation(&id, 0).await.unwrap();
        store.unsaved(&id, 1, true).await.unwrap();
        assert_eq!(store.get(&id).await.unwrap().unwrap().unsaved_generation, 1);
        assert_eq!(put("one", 1, 3).await, Put::Done { older: None });
        assert_eq!(store.get(&id).await.unwrap().unwrap().unsaved_generation, 0);
        assert_eq!(put("two", 1, 5).await, Put::Done { older: Some("one".into()) });
        assert_eq!(put("late", 1, 4).await, Put::Fenced);
        store.raise_generation(&id, 1).await.unwrap();
        assert_eq!(put("older", 1, 9).await, Put::Fenced);
        store.unsaved(&id, 1, true).await.unwrap();
        assert_eq!(store.get(&id).await.unwrap().unwrap().unsaved_generation, 0, "an old generation says nothing");
        assert_eq!(store.checkpoint(&id).await.unwrap().unwrap().skipped, ["fifo: a FIFO"]);
        assert_eq!(put("three", 2, 1).await, Put::Done { older: Some("two".into()) });
        store.begin_delete(&id).await.unwrap();
        assert_eq!(put("four", 2, 2).await, Put::Fenced);
        store.delete(&id).await.unwrap();
        assert_eq!(store.checkpoint(&id).await.unwrap(), None);
    }
}
