//! A sandbox' life, one step at a time: what is to be done about it now. Pure, and the same on every leader.
//!
//! All writes of a life: two creations, the status when it is ready, the claim, the status when it ended, two deletions; and, where a
//! session keeps one that was warm for more than a moment, that its pod is not to be moved. One that somebody waits for and that takes
//! long tells so in its status instead; it was not claimed then, but made for its session.
use std::time::Duration;

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::{SignedDuration, Timestamp},
};
use kernelbox_api::{EndReason, Lifecycle, Phase, Sandbox, SandboxStatus, StageTimes};

use crate::pod::{
    moving::may_move,
    observe::{Observed, observe},
};

/// How long the story of one that ended can be read.
pub const KEPT: Duration = Duration::from_secs(600);
/// Who waits longer than this is told in the status, too.
const LONG: Duration = Duration::from_secs(5);
/// A pod that a session has for so long is not to be moved. Claims come in crowds, and this need not be done amid one.
const SETTLED: Duration = Duration::from_secs(5);
/// One that is retired with something unsaved, or does not answer, is asked again after so long; so is the cluster that refuses a pod. The
/// longer it is so, the later.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AT_LAST: Duration = Duration::from_mins(1);
/// One that did not answer for so long is given up.
const SILENT: Duration = Duration::from_secs(120);

/// All that the next step depends on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub sandbox: &'a Sandbox,
    pub pod: Option<&'a Pod>,
    pub lifecycle: &'a Lifecycle,
    /// Without use for so long it is reclaimed.
    pub idle_timeout: Duration,
    /// It is its turn to get a pod.
    pub is_admitted: bool,
    /// The session has another of a higher generation.
    pub is_superseded: bool,
    /// Pods of its template are made otherwise by now.
    pub is_stale: bool,
    /// Its pool has more than it wants, or a session waits for its place.
    pub is_surplus: bool,
    /// So many have ended since that its story is not kept any longer.
    pub is_forgotten: bool,
    /// What its supervisor said when it was asked last.
    pub answer: Option<Answer>,
    /// Its pod was not allowed.
    pub refusal: Option<Refusal>,
    /// So many supervisors do not answer that it may not be their fault: none is given up for it.
    pub is_silence_general: bool,
    pub now: Timestamp,
}

/// A supervisor's answer to the question whether its sandbox is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was used last at this time, or is now.
    Used(Timestamp),
    /// It takes no calls any more. `unsaved`: something in it is kept nowhere else yet.
    Retired { asked: Timestamp, used: Timestamp, unsaved: bool },
    /// None came, since then.
    Silent { since: Timestamp, asked: Timestamp },
}

/// The cluster's own answer to the question for a pod: a quota is used up, a policy is against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub since: Timestamp,
    pub asked: Timestamp,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing, until something changes or so much time has passed.
    Wait(Option<Duration>),
    CreatePod,
    Tell(Box<SandboxStatus>),
    /// A session has settled in it.
    KeepPodInPlace,
    /// To be told in the status; its pod goes next.
    End(EndReason, String),
    DeletePod,
    DeleteSandbox,
    /// Its idle timeout may be over: its supervisor knows.
    AskWhetherIdle,
}

/// The next step.
pub fn next(facts: &Facts<'_>) -> Step {
    let Facts { sandbox, pod, .. } = *facts;
    if sandbox.metadata.deletion_timestamp.is_some() {
        return Step::Wait(None);
    }
    let phase = sandbox.status.as_ref().and_then(|status| status.phase);
    if phase == Some(Phase::Ended) {
        return after_the_end(facts);
    }
    if facts.is_superseded {
        return Step::End(EndReason::Superseded, "the session has a newer sandbox".to_owned());
    }
    // Another of the same name, by one who did not know that it has had its own, is none.
    let own = sandbox.status.as_ref().and_then(|status| status.pod_uid.as_ref());
    let Some(pod) = pod.filter(|pod| own.is_none() || pod.metadata.uid.as_ref() == own) else {
        return without_pod(facts);
    };
    match observe(pod) {
        Observed::Ended(reason, words) => Step::End(reason, words),
        Observed::Ready { address, node } if phase != Some(Phase::Ready) => {
            Step::Tell(Box::new(ready(facts, pod, address, node)))
        }
        _ if phase == Some(Phase::Ready) => while_ready(facts, pod),
        Observed::Scheduling(words) => starting(facts, pod, "waits for a node", &words),
        Observed::Pulling(words) => starting(facts, pod, "waits for its image", &words),
        Observed::Starting | Observed::Ready { .. } => starting(facts, pod, "waits for its first kernel", ""),
    }
}

fn after_the_end(facts: &Facts<'_>) -> Step {
    if let Some(pod) = facts.pod {
        return if pod.metadata.deletion_timestamp.is_none() { Step::DeletePod } else { Step::Wait(None) };
    }
    let ended = facts.sandbox.status.as_ref().and_then(|status| status.stages.ended.as_ref());
    match ended.filter(|_| !facts.is_forgotten).and_then(|ended| rest(facts.now, ended.0, KEPT)) {
        Some(rest) => Step::Wait(Some(rest)),
        None => Step::DeleteSandbox,
    }
}

fn without_pod(facts: &Facts<'_>) -> Step {
    if facts.sandbox.status.as_ref().is_some_and(|status| status.pod_uid.is_some()) {
        return Step::End(EndReason::Deleted, "the pod is gone".to_owned());
    }
    let timeout = Duration::from(facts.lifecycle.start_timeout);
    let rest = rest(facts.now, created(facts.sandbox.metadata.creation_timestamp.as_ref(), facts.now), timeout);
    match rest {
        None => {
            let why = facts.sandbox.status.as_ref().and_then(|status| status.message.as_ref());
            let why = why.map(|words| format!(": {words}")).unwrap_or_default();
            Step::End(EndReason::QueueTimeout, format!("it got no pod within {}{why}", spoken(timeout)))
        }
        Some(_) if facts.is_stale && facts.sandbox.spec.session.is_none() => stale(),
        Some(left) if facts.is_admitted => match facts.refusal.and_then(|it| pause(facts.now, it.since, it.asked)) {
            Some(pause) => Step::Wait(Some(pause.min(left))),
            None => Step::CreatePod,
        },
        Some(rest) => Step::Wait(Some(rest)),
    }
}

fn starting(facts: &Facts<'_>, pod: &Pod, what: &str, words: &str) -> Step {
    let is_warm = facts.sandbox.spec.session.is_none();
    if is_warm && facts.is_stale {
        return stale();
    }
    if is_warm && facts.is_surplus {
        return surplus();
    }
    let told = if words.is_empty() { what.to_owned() } else { format!("{what}: {words}") };
    let begun = created(pod.metadata.creation_timestamp.as_ref(), facts.now);
    let timeout = Duration::from(facts.lifecycle.start_timeout);
    let Some(left) = rest(facts.now, begun, timeout) else {
        return Step::End(EndReason::StartTimeout, format!("not ready within {}: it {told}", spoken(timeout)));
    };
    let is_told = facts.sandbox.status.as_ref().is_some_and(|status| status.message.is_some());
    if is_warm || is_told {
        return Step::Wait(Some(left));
    }
    match rest(facts.now, begun, LONG) {
        Some(soon) => Step::Wait(Some(soon.min(left))),
        None => Step::Tell(Box::new(SandboxStatus {
            phase: Some(Phase::Pending),
            message: Some(told),
            stages: stages(facts.sandbox, Some(pod)),
            ..facts.sandbox.status.clone().unwrap_or_default()
        })),
    }
}

fn while_ready(facts: &Facts<'_>, pod: &Pod) -> Step {
    let lifecycle = facts.lifecycle;
    let (status, spec) = (facts.sandbox.status.clone().unwrap_or_default(), &facts.sandbox.spec);
    let of = |time: &Option<MicroTime>| time.as_ref().map(|it| it.0);
    let begun = of(&status.stages.created).unwrap_or(facts.now);
    let lifetime = Duration::from(lifecycle.max_lifetime);
    let Some(life) = rest(facts.now, begun, lifetime) else {
        return Step::End(EndReason::MaxLifetime, format!("it is older than {}", spoken(lifetime)));
    };
    if spec.session.is_none() {
        return match () {
            () if facts.is_stale => stale(),
            () if facts.is_surplus => surplus(),
            () => Step::Wait(Some(life)),
        };
    }
    let settles = match of(&spec.claim_time).filter(|_| may_move(pod)).map(|claimed| rest(facts.now, claimed, SETTLED))
    {
        Some(None) => return Step::KeepPodInPlace,
        Some(settles) => settles,
        None => None,
    };
    let idle_timeout = facts.idle_timeout;
    match facts.answer {
        Some(Answer::Retired { unsaved: false, .. }) => {
            return Step::End(EndReason::IdleTimeout, format!("it was not used for {}", spoken(idle_timeout)));
        }
        Some(Answer::Retired { asked, used, .. }) => {
            let patience = idle_timeout + Duration::from(lifecycle.unsaved_grace);
            return match rest(facts.now, used, patience) {
                None => {
                    Step::End(EndReason::IdleUnsaved, "it was not used, and nobody came to save its files".to_owned())
                }
                Some(left) => ask_again(facts, used + idle_timeout, asked, left.min(life)),
            };
        }
        Some(Answer::Silent { since, asked }) => {
            return match rest(facts.now, since, SILENT) {
                None if !facts.is_silence_general => {
                    let words = format!("its supervisor did not answer for {}", spoken(SILENT));
                    Step::End(EndReason::Failed, words)
                }
                _ => ask_again(facts, since, asked, life),
            };
        }
        Some(Answer::Used(_)) | None => {}
    }
    let last = last_used(facts.sandbox, facts.answer).unwrap_or(begun);
    match rest(facts.now, last, idle_timeout) {
        Some(idle) => Step::Wait(Some(idle.min(life).min(settles.unwrap_or(idle)))),
        None => Step::AskWhetherIdle,
    }
}

/// When a sandbox was used last, as far as is known. A claim is a use.
pub(crate) fn last_used(sandbox: &Sandbox, answer: Option<Answer>) -> Option<Timestamp> {
    let said = match answer {
        Some(Answer::Used(used) | Answer::Retired { used, .. }) => Some(used),
        Some(Answer::Silent { .. }) | None => None,
    };
    let ready = sandbox.status.as_ref().and_then(|status| status.stages.kernel_ready.as_ref());
    [sandbox.spec.claim_time.as_ref(), ready].into_iter().flatten().map(|time| time.0).chain(said).max()
}

/// `since`: when it began to be so.
fn ask_again(facts: &Facts<'_>, since: Timestamp, asked: Timestamp, at_most: Duration) -> Step {
    match pause(facts.now, since, asked) {
        Some(pause) => Step::Wait(Some(pause.min(at_most))),
        None => Step::AskWhetherIdle,
    }
}

/// How long not to ask again.
fn pause(now: Timestamp, since: Timestamp, asked: Timestamp) -> Option<Duration> {
    let so_far = now.duration_since(since).unsigned_abs() / 8;
    rest(now, asked, so_far.clamp(ASK_AGAIN, ASK_AT_LAST))
}

fn stale() -> Step {
    Step::End(EndReason::Stale, "its template has changed".to_owned())
}

fn surplus() -> Step {
    Step::End(EndReason::ScaledDown, "its pool has more than it wants, or a session waits for its place".to_owned())
}

fn ready(facts: &Facts<'_>, pod: &Pod, address: String, node: String) -> SandboxStatus {
    SandboxStatus {
        phase: Some(Phase::Ready),
        message: None,
        pod_uid: pod.metadata.uid.clone(),
        node: Some(node),
        address: Some(address),
        stages: StageTimes { kernel_ready: Some(MicroTime(facts.now)), ..stages(facts.sandbox, Some(pod)) },
        ..facts.sandbox.status.clone().unwrap_or_default()
    }
}

/// The status of one whose pod may not be made now, in the words of who refuses it; none if nobody waits, or it was told.
pub fn refused(sandbox: &Sandbox, words: &str) -> Option<SandboxStatus> {
    let known = sandbox.status.clone().unwrap_or_default();
    let message = format!("its pod is refused: {words}");
    (sandbox.spec.session.is_some() && known.message.as_ref() != Some(&message)).then(|| SandboxStatus {
        phase: Some(Phase::Pending),
        message: Some(message),
        stages: stages(sandbox, None),
        ..known
    })
}

/// The status of one that ends now.
pub fn ended(
    sandbox: &Sandbox,
    pod: Option<&Pod>,
    reason: EndReason,
    message: String,
    now: Timestamp,
) -> SandboxStatus {
    SandboxStatus {
        phase: Some(Phase::Ended),
        message: Some(message).filter(|it| !it.is_empty()),
        end_reason: Some(reason),
        stages: StageTimes { ended: Some(MicroTime(now)), ..stages(sandbox, pod) },
        ..sandbox.status.clone().unwrap_or_default()
    }
}

/// What the pod's own times tell, beside what was known before.
fn stages(sandbox: &Sandbox, pod: Option<&Pod>) -> StageTimes {
    let before = sandbox.status.as_ref().map(|status| status.stages.clone()).unwrap_or_default();
    let micro = |time: &Time| MicroTime(time.0);
    let status = pod.and_then(|pod| pod.status.as_ref());
    let condition = |type_: &str| {
        let holds = status?.conditions.iter().flatten().find(|it| it.type_ == type_ && it.status == "True")?;
        holds.last_transition_time.as_ref().map(micro)
    };
    let running = status.and_then(|status| {
        let state = status.container_statuses.iter().flatten().find_map(|it| it.state.as_ref())?;
        state.running.as_ref()?.started_at.as_ref().map(micro)
    });
    StageTimes {
        queued: before.queued.or_else(|| sandbox.metadata.creation_timestamp.as_ref().map(micro)),
        created: before.created.or_else(|| pod?.metadata.creation_timestamp.as_ref().map(micro)),
        scheduled: before.scheduled.or_else(|| condition("PodScheduled")),
        // The image is there when the container can be started.
        pulled: before.pulled.or_else(|| running.clone()),
        started: before.started.or(running),
        kernel_ready: before.kernel_ready,
        ended: before.ended,
    }
}

fn created(time: Option<&Time>, now: Timestamp) -> Timestamp {
    time.map_or(now, |time| time.0)
}

/// What is left of a span that began then. None: it is over.
pub(crate) fn rest(now: Timestamp, begun: Timestamp, span: Duration) -> Option<Duration> {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    let left = span.checked_sub(now.duration_since(begun))?;
    if left.is_positive() { Some(left.unsigned_abs()) } else { None }
}

fn spoken(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

#[cfg(test)]
mod tests;
