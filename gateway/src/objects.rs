//! Large things that last, by key: files of this machine, or a bucket. Nothing is held in memory whole.
use std::{path::Path, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    MultipartUpload, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, PutPayload, local::LocalFileSystem,
    path::Path as Key, prefix::PrefixStore,
};
use url::Url;

/// What is sent at once. Buckets take no smaller parts than 5 MiB.
const PART: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    #[error("{url} is no place for objects: give a folder, file://, s3://, gs:// or az://")]
    Address { url: String },
    #[error("cannot make the folder {folder}")]
    Folder { folder: String, source: std::io::Error },
    #[error("the object store failed")]
    Store(#[from] object_store::Error),
}

/// The place. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Objects(Arc<dyn ObjectStore>);

impl Objects {
    /// Opens the place that `url` names, or `objects` in the data directory. What a bucket needs besides, such as credentials, is read
    /// from the environment (`AWS_...`, `GOOGLE_...`, `AZURE_...`).
    pub(crate) fn open(url: Option<&str>, data_dir: &Path) -> Result<Self, ObjectsError> {
        let url = match url {
            None => return Self::folder(&data_dir.join("objects")),
            Some(folder) if !folder.contains("://") => return Self::folder(Path::new(folder)),
            Some(url) => url,
        };
        let no_place = || ObjectsError::Address { url: url.to_owned() };
        let parsed = Url::parse(url).map_err(|_| no_place())?;
        match ObjectStoreScheme::parse(&parsed).map_err(|_| no_place())?.0 {
            ObjectStoreScheme::Local => return Self::folder(&parsed.to_file_path().map_err(|()| no_place())?),
            ObjectStoreScheme::AmazonS3 | ObjectStoreScheme::GoogleCloudStorage | ObjectStoreScheme::MicrosoftAzure => {
            }
            _ => return Err(no_place()),
        }
        let settings = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
        });
        let (store, prefix) = object_store::parse_url_opts(&parsed, settings)?;
        Ok(Self(Arc::new(PrefixStore::new(store, prefix))))
    }

    fn folder(folder: &Path) -> Result<Self, ObjectsError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| ObjectsError::Folder { folder: folder.display().to_string(), source })?;
        Ok(Self(Arc::new(LocalFileSystem::new_with_prefix(folder)?)))
    }

    /// Begins an object. It is there when [`Writer::finish`] returns, and not before.
    pub(crate) fn put(&self, key: &str) -> Writer {
        Writer { objects: self.clone(), key: key.into(), waiting: BytesMut::new(), upload: None }
    }

    /// Its bytes, a chunk at a time.
    pub(crate) async fn get(&self, key: &str) -> Result<BoxStream<'static, Result<Bytes, ObjectsError>>, ObjectsError> {
        let stream = self.0.get(&key.into()).await?.into_stream();
        Ok(stream.map(|bytes| Ok(bytes?)).boxed())
    }

    /// Removes an object; it is no error if it is gone.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), ObjectsError> {
        match self.0.delete(&key.into()).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    /// Removes all objects whose keys begin with the folder.
    pub(crate) async fn delete_all(&self, folder: &str) -> Result<(), ObjectsError> {
        let mut found = self.0.list(Some(&folder.into()));
        while let Some(object) = found.next().await {
            match self.0.delete(&object?.location).await {
                Err(object_store::Error::NotFound { .. }) => {}
                deleted => deleted?,
            }
        }
        Ok(())
    }
}

/// An object that is being written, a part at a time.
#[derive(Debug)]
pub(crate) struct Writer {
    objects: Objects,
    key: Key,
    waiting: BytesMut,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Writer {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectsError> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PART {
            self.part().await?;
        }
        Ok(())
    }

    async fn part(&mut self) -> Result<(), ObjectsError> {
        let part = PutPayload::from(self.waiting.split().freeze());
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => self.upload.insert(self.objects.0.put_multipart(&self.key).await?),
        };
        Ok(upload.put_part(part).await?)
    }

    pub(crate) async fn finish(mut self) -> Result<(), ObjectsError> {
        if self.upload.is_none() {
            self.objects.0.put(&self.key, self.waiting.freeze().into()).await?;
            return Ok(());
        }
        if !self.waiting.is_empty() {
            self.part().await?;
        }
        if let Some(mut upload) = self.upload {
            upload.complete().await?;
        }
        Ok(())
    }

    /// Leaves nothing of it.
    pub(crate) async fn abort(self) {
        if let Some(mut upload) = self.upload
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "parts of an object may be left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(objects: &Objects, key: &str) -> Result<Vec<u8>, ObjectsError> {
        let mut stream = objects.get(key).await?;
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await {
            all.extend(bytes?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn what_is_put_comes_back_and_goes_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(None, dir.path()).unwrap();
        for (key, chunks) in [("s/a/1", 0), ("s/a/2", 3), ("s/ab/1", 90)] {
            let mut writer = objects.put(key);
            for n in 0..chunks {
                writer.write(&vec![n; 250_000]).await.unwrap();
            }
            assert!(read(&objects, key).await.is_err(), "{key} is there before it is whole");
            writer.finish().await.unwrap();
            let expected: Vec<u8> = (0..chunks).flat_map(|n| vec![n; 250_000]).collect();
            assert!(read(&objects, key).await.unwrap() == expected, "{key}");
        }
        objects.delete("s/a/2").await.unwrap();
        objects.delete("s/a/2").await.unwrap();
        objects.delete_all("s/a").await.unwrap();
        assert!(read(&objects, "s/a/1").await.is_err() && read(&objects, "s/ab/1").await.is_ok());

        let mut aborted = objects.put("s/a/3");
        aborted.write(&vec![0; PART]).await.unwrap();
        aborted.abort().await;
        let left: Vec<_> = std::fs::read_dir(dir.path().join("objects/s/a")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn places_are_folders_and_buckets_and_nothing_else() {
        crate::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("b").display().to_string();
        for good in [folder.clone(), format!("file://{folder}"), "s3://bucket/prefix".into(), "gs://bucket".into()] {
            Objects::open(Some(&good), dir.path()).unwrap_or_else(|error| panic!("{good}: {error:?}"));
        }
        for bad in ["memory:///", "http://host/x", "ftp://x", "://"] {
            assert!(matches!(Objects::open(Some(bad), dir.path()), Err(ObjectsError::Address { .. })), "{bad}");
        }
    }
}
