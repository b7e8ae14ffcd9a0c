//! Finds out what the model is told beside a message: the files that it is about, and what became of the session meanwhile.
use std::sync::Arc;

use kernelbox_proto::{
    Error,
    v1::{File, ListFilesRequest, ListVariablesRequest, StatFileRequest},
};

use super::prompt;
use crate::{
    sandbox::SandboxClient,
    sessions::{SessionRouter, Slot},
};

/// Files that a note names, at most.
const FILES: i32 = 60;

/// A note on the attached files. One that is not there is an error.
pub(super) async fn attachments(
    router: &SessionRouter,
    slot: &Arc<Slot>,
    paths: &[String],
) -> Result<Option<String>, Error> {
    let mut files: Vec<File> = Vec::with_capacity(paths.len());
    for path in paths {
        let request = StatFileRequest { session: slot.id.name(), path: path.clone(), ..Default::default() };
        let send = |mut client: SandboxClient| {
            let request = request.clone();
            async move { client.stat_file(request).await }
        };
        files.push(router.call(slot, send).await?.0);
    }
    Ok(prompt::attachments(&files))
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
    let request = ListVariablesRequest { parent: format!("{}/contexts/python3", slot.id.name()), ..Default::default() };
    let send = |mut client: SandboxClient| {
        let request = request.clone();
        async move { client.list_variables(request).await }
    };
    let (listed, _) = router.call(slot, send).await?;
    Ok(prompt::variables(&listed))
}
