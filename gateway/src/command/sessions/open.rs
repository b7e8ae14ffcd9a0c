//! Sessions that a command opens for its own work: one that ends with the command, or one that lasts.
use std::time::Duration;

use kernelbox_proto::v1::{CreateSessionRequest, DeleteSessionRequest, ErrorCode, GetSessionRequest, Session};

use crate::command::{
    connect::Client,
    failure::{Failure, Result, is},
    progress::Progress,
    request_id, say,
};

/// How long a command that is leaving tries to tidy up.
pub(crate) const TIDY_LIMIT: Duration = Duration::from_secs(3);

/// Opens a session under an id of the server's; answers its name.
pub(crate) async fn new(client: &Client, session: Session) -> Result<String> {
    let request =
        CreateSessionRequest { session: Some(session), request_id: request_id(), ..CreateSessionRequest::default() };
    Ok(client.sessions().create_session(request).await?.into_inner().name)
}

/// Opens a session of this name unless there is one; answers whether it was made.
pub(crate) async fn named(client: &Client, name: &str, session: Session) -> Result<bool> {
    match client.sessions().get_session(GetSessionRequest { name: name.to_owned() }).await {
        Err(status) if is(&status, ErrorCode::SessionNotFound) => {}
        known => return known.map(|_| false).map_err(Failure::from),
    }
    let session_id = name.trim_start_matches("sessions/").to_owned();
    let request = CreateSessionRequest { session: Some(session), session_id, request_id: request_id(), start: false };
    match client.sessions().create_session(request).await {
        // Another command was faster.
        Err(status) if is(&status, ErrorCode::AlreadyExists) => Ok(false),
        made => made.map(|_| true).map_err(Failure::from),
    }
}

/// Removes a session of the command's own. A failure changes nothing of how the command went; it is told, unless the server is `lost` and
/// that has been told already.
pub(crate) async fn remove(client: &Client, name: String, lost: bool, progress: &Progress) {
    progress.say("ending the session");
    let delete = async { client.sessions().delete_session(DeleteSessionRequest { name }).await };
    let deleted = tokio::time::timeout(TIDY_LIMIT, delete).await;
    progress.clear();
    match deleted {
        _ if lost => {}
        Ok(Ok(_)) => {}
        Ok(Err(status)) => say(&format!("the session of this command was not removed: {}", status.message())),
        Err(_) => say("the session of this command was not removed in time"),
    }
}
