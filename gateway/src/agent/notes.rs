//! Finds out what the model is told beside a message: the files that it is about, and what became of the session meanwhile.
use std::sync::Arc;

use kernelbox_proto::{
    Error,
    v1::{DownloadRequest, File, ListFilesRequest, ListVariablesRequest, StatFileRequest, download_response::Part},
};

use super::prompt;
use crate::{
    sandbox::SandboxClient,
    sessions::{SessionRouter, Slot},
};

/// Files that a note names, at most.
const FILES: i32 = 60;

/// Files whose first lines are told, at most.
const HEADS: usize = 8;
/// Bytes of a text file's beginning that are looked at.
const HEAD: i64 = 1024;

/// A note on the attached files, with the first lines of those that are text. One that is not there is an error.
pub(super) async fn attachments(
    router: &SessionRouter,
    slot: &Arc<Slot>,
    paths: &[String],
) -> Result<Option<String>, Error> {
    let mut files: Vec<File> = Vec::with_capacity(paths.len());
    let mut heads = Vec::new();
    for path in paths {
        let request = StatFileRequest { session: slot.id.name(), path: path.clone(), ..Default::default() };
        let send = |mut client: SandboxClient| {
            let request = request.clone();
            async move { client.stat_file(request).await }
        };
        let file = router.call(slot, send).await?.0;
        if heads.len() < HEADS && is_text(&file) {
            heads.push((file.path.clone(), head(router, slot, &file.path).await?));
        }
        files.push(file);
    }
    Ok(prompt::attachments(&files, &heads))
}

fn is_text(file: &File) -> bool {
    file.size > 0 && (file.media_type.starts_with("text/") || file.media_type == "application/json")
}

async fn head(router: &SessionRouter, slot: &Arc<Slot>, path: &str) -> Result<Vec<u8>, Error> {
    let request =
        DownloadRequest { session: slot.id.name(), path: path.to_owned(), length: HEAD, ..Default::default() };
    let send = |mut client: SandboxClient| {
        let request = request.clone();
        async move { client.download(request).await }
    };
    let (mut parts, _) = router.call(slot, send).await?;
    let mut bytes = Vec::new();
    while let Some(part) = parts.message().await.map_err(|status| Error::from_status(&status))? {
        if let Some(Part::Chunk(chunk)) = part.part {
            bytes.extend_from_slice(&chunk);
        }
    }
    Ok(bytes)
}

/// Notes for a session whose kernel was restarted since the model last used it: variables are gone, these files are there.
pub(super) async fn after_restart(router: &SessionRouter, slot: &Arc<Slot>) -> Result<String, Error> {
    let request = ListFilesRequest { parent: slot.id.name(), page_size: FILES, ..Default::default() };
    let send = |mut client: SandboxClient| {
        let request = request.clone();
        async move { client.list_files(request).await }
    };
    let (listed, _) = router.call(slot, send).await?;
    let files = prompt::workspace(&listed.files).map(|note| format!("\n{note}")).unwrap_or_default();
    Ok(format!("{}{files}", prompt::VARIABLES_GONE))
}

/// A note on the kernel's variables, for a model that is not told any more how they came about.
pub(super) async fn variables(router: &SessionRouter, slot: &Arc<Slot>) -> Result<Option<String>, Error> {
    let request = ListVariablesRequest { parent: format!("{}/contexts/python3", slot.id.name()) };
    let send = |mut client: SandboxClient| {
        let request = request.clone();
        async move { client.list_variables(request).await }
    };
    let (listed, _) = router.call(slot, send).await?;
    Ok(prompt::variables(&listed))
}
