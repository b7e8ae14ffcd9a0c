//! What a pod's status says about its sandbox, in the words of whoever it waits for. Pure.
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod, PodCondition, PodStatus,
    },
    jiff::Timestamp,
};
use kernelbox_api::EndReason;

use super::{CONTAINER, PORT, inject::INSTALLER};

/// Where a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// No node yet; the scheduler's words.
    Scheduling(String),
    /// A node has it; the image is fetched, or something of that kind fails and is tried again.
    Pulling(String),
    /// Its container runs, its kernel does not answer yet.
    Starting,
    /// It can be called there.
    Ready { address: String, node: String },
    /// Nothing of it runs any more, or will.
    Ended(EndReason, String),
}

/// Reasons of a waiting container that get no better by themselves.
const HOPELESS: [&str; 3] = ["ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"];
/// The most that is told of a container's last words.
const WORDS_LIMIT: usize = 1_000;
const NODE_GONE: [&str; 2] = ["NodeLost", "DeletionByTaintManager"];
const EVICTED: [&str; 4] = ["Evicted", "EvictionByEvictionAPI", "PreemptionByScheduler", "TerminationByKubelet"];

/// What the pod's status says.
pub fn observe(pod: &Pod) -> Observed {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let phase = status.phase.as_deref().unwrap_or_default();
    if phase == "Failed" || phase == "Succeeded" {
        return ended(status);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let (reason, words) = disrupted(status).unwrap_or((EndReason::Deleted, "the pod is being deleted".to_owned()));
        return Observed::Ended(reason, words);
    }
    let state = container(status).and_then(|it| it.state.as_ref());
    if is_true(status, "Ready")
        && let (Some(ip), Some(node)) = (&status.pod_ip, pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()))
    {
        let address = if ip.contains(':') { format!("[{ip}]:{PORT}") } else { format!("{ip}:{PORT}") };
        return Observed::Ready { address, node: node.clone() };
    }
    if state.is_some_and(|it| it.running.is_some()) {
        return Observed::Starting;
    }
    match condition(status, "PodScheduled") {
        // The kernel's own state says nothing while its supervisor's image is fetched.
        Some(scheduled) if scheduled.status == "True" => waiting(waits(installer(status)).or(waits(state))),
        scheduled => Observed::Scheduling(scheduled.and_then(|it| it.message.clone()).unwrap_or_default()),
    }
}

/// Whether something of it may run still, though it may have been told to end: then it has until its deletion's time to save its files.
pub fn may_run(pod: &Pod, now: Timestamp) -> bool {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let is_over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let is_terminated = container(status).and_then(|it| it.state.as_ref()).is_some_and(|it| it.terminated.is_some());
    let is_late = pod.metadata.deletion_timestamp.as_ref().is_some_and(|time| time.0 <= now);
    let is_lost = matches!(disrupted(status), Some((EndReason::NodeLost, _)));
    !(is_over || is_terminated || is_late || is_lost)
}

/// The container that kernels run in.
fn container(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.iter().flatten().find(|it| it.name == CONTAINER)
}

/// What brings the supervisor, if its image does not.
fn installer(status: &PodStatus) -> Option<&ContainerState> {
    status.init_container_statuses.iter().flatten().find(|it| it.name == INSTALLER)?.state.as_ref()
}

fn waits(state: Option<&ContainerState>) -> Option<&ContainerStateWaiting> {
    state?.waiting.as_ref()
}

fn waiting(waiting: Option<&ContainerStateWaiting>) -> Observed {
    let Some(waiting) = waiting else { return Observed::Pulling(String::new()) };
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let words = match waiting.message.as_deref().unwrap_or_default() {
        // It says no more than that the container is being created.
        "" if reason == "ContainerCreating" || reason == "PodInitializing" => String::new(),
        "" => reason.to_owned(),
        message => format!("{reason}: {message}"),
    };
    if HOPELESS.contains(&reason) {
        return Observed::Ended(EndReason::ImageUnavailable, words);
    }
    Observed::Pulling(words)
}

fn ended(status: &PodStatus) -> Observed {
    let terminated = container(status).and_then(|it| it.state.as_ref()?.terminated.as_ref());
    let not_installed = installer(status).and_then(|it| it.terminated.as_ref()).filter(|it| it.exit_code != 0);
    let own = status.reason.as_deref().unwrap_or_default();
    let message = status.message.clone().unwrap_or_default();
    if terminated.is_some_and(|it| it.reason.as_deref() == Some("OOMKilled")) {
        let words = "the sandbox used more memory than its container may have".to_owned();
        return Observed::Ended(EndReason::OOMKilled, words);
    }
    if own == "DeadlineExceeded" {
        return Observed::Ended(EndReason::MaxLifetime, message);
    }
    if let Some((reason, words)) = disrupted(status) {
        return Observed::Ended(reason, words);
    }
    if EVICTED.contains(&own) {
        return Observed::Ended(EndReason::Evicted, message);
    }
    if NODE_GONE.contains(&own) {
        return Observed::Ended(EndReason::NodeLost, message);
    }
    let words = match (not_installed, terminated) {
        (Some(it), _) => format!("the supervisor could not be put into the pod: {}", last_words(it)),
        (None, Some(it)) => format!("the supervisor {}", last_words(it)),
        (None, None) if message.is_empty() => "the pod failed".to_owned(),
        (None, None) => message,
    };
    Observed::Ended(EndReason::Failed, words)
}

/// How it ended, and why: what it left for that, or what the node says of one that could not be started.
fn last_words(terminated: &ContainerStateTerminated) -> String {
    let how = match terminated.signal {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("ended with exit code {}", terminated.exit_code),
    };
    match terminated.message.as_deref().map(str::trim).unwrap_or_default() {
        "" => how,
        words => format!("{how}: {}", &words[..words.floor_char_boundary(WORDS_LIMIT)]),
    }
}

/// Who takes the pod away, if its condition says so.
fn disrupted(status: &PodStatus) -> Option<(EndReason, String)> {
    let target = condition(status, "DisruptionTarget").filter(|it| it.status == "True")?;
    let why = target.reason.as_deref().unwrap_or_default();
    let reason = if NODE_GONE.contains(&why) { EndReason::NodeLost } else { EndReason::Evicted };
    Some((reason, target.message.clone().unwrap_or_else(|| why.to_owned())))
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|it| it.type_ == type_)
}

fn is_true(status: &PodStatus, type_: &str) -> bool {
    condition(status, type_).is_some_and(|it| it.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn observed(status: Value) -> Observed {
        let pod =
            json!({"metadata": {"name": "a"}, "spec": {"containers": [], "nodeName": "node-1"}, "status": status});
        observe(&serde_json::from_value(pod).unwrap())
    }

    fn with_state(conditions: Value, state: Value) -> Observed {
        let container =
            json!({"name": "kernel", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        observed(
            json!({"phase": "Pending", "podIP": "10.1.2.3", "conditions": conditions, "containerStatuses": [container]}),
        )
    }

    #[test]
    fn what_it_waits_for_is_told_in_the_words_of_who_lets_it_wait() {
        let words = "0/12 nodes are available: 12 Insufficient nvidia.com/gpu.";
        let unschedulable =
            json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]);
        assert_eq!(
            observed(json!({"phase": "Pending", "conditions": unschedulable})),
            Observed::Scheduling(words.into())
        );
        assert_eq!(observed(json!({"phase": "Pending"})), Observed::Scheduling(String::new()));
        let scheduled = || json!([{"type": "PodScheduled", "status": "True"}]);
        let creating = json!({"waiting": {"reason": "ContainerCreating"}});
        assert_eq!(with_state(scheduled(), creating), Observed::Pulling(String::new()));
        let backoff = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}});
        assert_eq!(
            with_state(scheduled(), backoff),
            Observed::Pulling("ImagePullBackOff: Back-off pulling image \"x\"".into())
        );
        let never = json!({"waiting": {"reason": "ErrImageNeverPull", "message": "no"}});
        assert_eq!(
            with_state(scheduled(), never),
            Observed::Ended(EndReason::ImageUnavailable, "ErrImageNeverPull: no".into())
        );
        assert_eq!(with_state(scheduled(), json!({"running": {}})), Observed::Starting);
        let ready = json!([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]);
        let there = Observed::Ready { address: "10.1.2.3:7090".into(), node: "node-1".into() };
        assert_eq!(with_state(ready.clone(), json!({"running": {}})), there);
        let six = json!({"phase": "Running", "podIP": "2001:db8::7", "conditions": ready});
        assert_eq!(observed(six), Observed::Ready { address: "[2001:db8::7]:7090".into(), node: "node-1".into() });
    }

    #[test]
    fn the_installer_of_the_supervisor_is_waited_for_and_its_failure_told() {
        let of = |phase: &str, installer: serde_json::Value| {
            let status = |name: &str, state| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            observed(json!({"phase": phase, "conditions": [{"type": "PodScheduled", "status": "True"}],
                "initContainerStatuses": [status("supervisor", installer)],
                "containerStatuses": [status("kernel", json!({"waiting": {"reason": "PodInitializing"}}))]}))
        };
        let backoff = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        assert_eq!(of("Pending", backoff), Observed::Pulling("ImagePullBackOff: no such image".into()));
        assert_eq!(of("Pending", json!({"running": {}})), Observed::Pulling(String::new()));
        let failed = json!({"terminated": {"exitCode": 128, "message": "kernelbox-supervisor: not found"}});
        let words =
            "the supervisor could not be put into the pod: ended with exit code 128: kernelbox-supervisor: not found";
        assert_eq!(of("Failed", failed), Observed::Ended(EndReason::Failed, words.into()));
    }

    #[test]
    fn a_supervisors_last_words_are_told() {
        let of = |message: &str| {
            let state = json!({"terminated": {"exitCode": 1, "message": message}});
            observed(json!({"phase": "Failed", "containerStatuses":
                [{"name": "kernel", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}))
        };
        let ended = |words: &str| Observed::Ended(EndReason::Failed, words.to_owned());
        assert_eq!(of(" no kernel starts\n"), ended("the supervisor ended with exit code 1: no kernel starts"));
        assert_eq!(of(""), ended("the supervisor ended with exit code 1"));
        let Observed::Ended(_, long) = of(&"ä".repeat(4_000)) else { panic!() };
        assert!(long.len() <= 1_100, "{}", long.len());
    }

    #[test]
    fn what_was_told_to_end_may_run_until_its_time_is_over() {
        let now = Timestamp::from_second(1_000).unwrap();
        let runs = |deleted: Option<i64>, status: serde_json::Value| {
            let deleted = deleted.map(|second| Timestamp::from_second(second).unwrap().to_string());
            let pod = json!({"metadata": {"deletionTimestamp": deleted}, "status": status});
            may_run(&serde_json::from_value(pod).unwrap(), now)
        };
        assert!(runs(None, json!({"phase": "Running"})) && runs(Some(1_030), json!({"phase": "Running"})));
        assert!(!runs(Some(1_000), json!({"phase": "Running"})), "its node is silent");
        assert!(!runs(Some(1_030), json!({"phase": "Failed"})));
        let lost = json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]);
        assert!(!runs(Some(1_030), json!({"phase": "Running", "conditions": lost})));
    }

    #[test]
    fn an_end_has_its_reason() {
        let killed = |reason: &str, code: i32| {
            json!({"name": "kernel", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"reason": reason, "exitCode": code}}})
        };
        let cases = [
            (json!({"phase": "Failed", "containerStatuses": [killed("OOMKilled", 137)]}), EndReason::OOMKilled),
            (json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}), EndReason::Evicted),
            (json!({"phase": "Failed", "reason": "DeadlineExceeded"}), EndReason::MaxLifetime),
            (
                json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]}),
                EndReason::NodeLost,
            ),
            (
                json!({"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "False"}]}),
                EndReason::Failed,
            ),
            (json!({"phase": "Succeeded", "containerStatuses": [killed("Completed", 0)]}), EndReason::Failed),
        ];
        for (status, expected) in cases {
            match observed(status.clone()) {
                Observed::Ended(reason, _) => assert_eq!(reason, expected, "{status}"),
                other => assert_eq!(status["phase"], "Running", "{other:?}"),
            }
        }
    }
}
