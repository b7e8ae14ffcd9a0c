//! Kubernetes Events, for who asks `kubectl describe`: waits, failures, and ends that nobody asked for. Told beside the work: no step waits
//! for them, and one that cannot be told is none the less done.
use std::sync::Arc;

use kernelbox_api::{EndReason, Phase, Sandbox, SandboxPool, SandboxPoolStatus, SandboxStatus};
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::Semaphore;

/// Bytes of an event's note, at most: the API server takes no more.
const NOTE: usize = 1024;
/// On their way at once; when an API server is slow, what is beyond is not told.
const TELLING: usize = 16;

/// Tells events. Clones share what is on its way.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    telling: Arc<Semaphore>,
}

impl Events {
    /// `identity`: the replica's name.
    pub fn new(client: Client, identity: String) -> Self {
        let reporter = Reporter { controller: "kernelbox-controller".to_owned(), instance: Some(identity) };
        Self { recorder: Recorder::new(client, reporter), telling: Arc::new(Semaphore::new(TELLING)) }
    }

    /// What a sandbox' new status has to tell.
    pub fn of_sandbox(&self, sandbox: &Sandbox, status: &SandboxStatus) {
        if let Some((type_, reason)) = worth_telling(status) {
            self.tell(sandbox, type_, reason, status.message.clone());
        }
    }

    /// The API server takes no pod for it: quota, admission, rights.
    pub fn pod_refused(&self, sandbox: &Sandbox, words: &str) {
        self.tell(sandbox, EventType::Warning, "PodRefused".to_owned(), Some(words.to_owned()));
    }

    /// That a pool has come to be degraded.
    pub fn of_pool(&self, pool: &SandboxPool, status: &SandboxPoolStatus) {
        if let (None, Some(words)) = (pool.status.as_ref().and_then(degraded), degraded(status)) {
            self.tell(pool, EventType::Warning, "Degraded".to_owned(), Some(words));
        }
    }

    fn tell<K: Resource<DynamicType = ()>>(&self, about: &K, type_: EventType, reason: String, note: Option<String>) {
        let Ok(permit) = Arc::clone(&self.telling).try_acquire_owned() else { return };
        let note = note.map(|mut note| {
            note.truncate(note.floor_char_boundary(NOTE));
            note
        });
        let event = Event { type_, reason, note, action: "Reconcile".to_owned(), secondary: None };
        let (recorder, about) = (self.recorder.clone(), about.object_ref(&()));
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::debug!(error = &error as &dyn std::error::Error, event = event.reason, "an event is not told");
            }
            drop(permit);
        });
    }
}

/// None for what was asked for, and for what goes well.
fn worth_telling(status: &SandboxStatus) -> Option<(EventType, String)> {
    use EndReason as Of;
    let reason = match (status.phase, status.end_reason) {
        (Some(Phase::Pending), _) if status.message.is_some() => {
            return Some((EventType::Normal, "Waiting".to_owned()));
        }
        (Some(Phase::Ended), Some(reason)) => reason,
        _ => return None,
    };
    let type_ = match reason {
        Of::Released | Of::Superseded | Of::Stale | Of::ScaledDown => return None,
        Of::IdleTimeout | Of::MaxLifetime => EventType::Normal,
        Of::IdleUnsaved
        | Of::StartTimeout
        | Of::QueueTimeout
        | Of::OOMKilled
        | Of::Evicted
        | Of::Deleted
        | Of::NodeLost
        | Of::Failed
        | Of::ImageUnavailable => EventType::Warning,
    };
    Some((type_, reason.to_string()))
}

fn degraded(status: &SandboxPoolStatus) -> Option<String> {
    let holds =
        |it: &&kernelbox_api::Condition| it.type_ == "Degraded" && it.status == kernelbox_api::ConditionStatus::True;
    status.conditions.iter().find(holds).map(|it| it.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: serde_json::Value) -> Option<(EventType, String)> {
        worth_telling(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn waits_failures_and_unasked_ends_are_told_and_nothing_else() {
        let ended = |reason: &str| serde_json::json!({"phase": "Ended", "endReason": reason, "message": "m"});
        assert_eq!(told(ended("OOMKilled")), Some((EventType::Warning, "OOMKilled".into())));
        assert_eq!(told(ended("IdleTimeout")), Some((EventType::Normal, "IdleTimeout".into())));
        assert_eq!(told(ended("Released")), None);
        assert_eq!(told(serde_json::json!({"phase": "Ready"})), None);
        let waiting = serde_json::json!({"phase": "Pending", "message": "waits for a node: 0/1 nodes"});
        assert_eq!(told(waiting), Some((EventType::Normal, "Waiting".into())));
    }
}
