//! Each step of a sandbox' life, from what is known of it.
use kernelbox_api::{Lifecycle, Sandbox};
use serde_json::{Value, json};

use super::*;
use crate::pod::moving;

const NOW: i64 = 1_000_000;

fn at(second: i64) -> String {
    Timestamp::from_second(second).unwrap().to_string()
}

fn sandbox(spec: Value, status: Value) -> Sandbox {
    let mut whole = json!({"templateRef": {"name": "default"}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let metadata = json!({"name": "default-1", "creationTimestamp": at(NOW - 100)});
    let object = json!({"apiVersion": "kernelbox.dev/v1alpha1", "kind": "Sandbox", "metadata": metadata, "spec": whole, "status": status});
    serde_json::from_value(object).unwrap()
}

/// A warm one, or a session's.
fn warm(status: Value) -> Sandbox {
    sandbox(json!({}), status)
}

fn claimed(second: i64, status: Value) -> Sandbox {
    let time = format!("{}.000000Z", at(second).trim_end_matches('Z'));
    sandbox(json!({"session": "sessions/a", "generation": 1, "tenant": "t", "claimTime": time}), status)
}

fn pod(age: i64, status: Value) -> Pod {
    let metadata = json!({"name": "default-1", "uid": "p1", "creationTimestamp": at(NOW - age)});
    serde_json::from_value(
        json!({"metadata": metadata, "spec": {"containers": [], "nodeName": "node-1"}, "status": status}),
    )
    .unwrap()
}

/// One that is not to be moved any more.
fn ready_pod(age: i64) -> Pod {
    let mut pod = new_pod(age);
    pod.metadata.annotations = Some(moving::annotations(false));
    pod
}

fn new_pod(age: i64) -> Pod {
    pod(
        age,
        json!({"phase": "Running", "podIP": "10.1.2.3", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(NOW - age + 1)}, {"type": "Ready", "status": "True"}]}),
    )
}

fn waiting_pod(age: i64) -> Pod {
    pod(
        age,
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}),
    )
}

fn step(sandbox: &Sandbox, pod: Option<&Pod>, change: impl FnOnce(&mut Facts<'_>)) -> Step {
    let lifecycle = Lifecycle::default();
    let mut facts = Facts {
        sandbox,
        pod,
        lifecycle: &lifecycle,
        idle_timeout: lifecycle.idle_timeout(None),
        is_admitted: false,
        is_superseded: false,
        is_stale: false,
        is_surplus: false,
        is_forgotten: false,
        answer: None,
        refusal: None,
        is_silence_general: false,
        now: Timestamp::from_second(NOW).unwrap(),
    };
    change(&mut facts);
    next(&facts)
}

fn reason(step: Step) -> EndReason {
    match step {
        Step::End(reason, _) => reason,
        other => panic!("{other:?}"),
    }
}

fn ready_status() -> Value {
    json!({"phase": "Ready", "podUid": "p1", "stages": {"created": format!("{}.000000Z", at(NOW - 90).trim_end_matches('Z'))}})
}

#[test]
fn it_waits_for_its_turn_and_not_for_ever() {
    let queued = warm(json!(null));
    assert_eq!(step(&queued, None, |_| {}), Step::Wait(Some(Duration::from_secs(200))));
    assert_eq!(step(&queued, None, |facts| facts.is_admitted = true), Step::CreatePod);
    let late = |facts: &mut Facts<'_>| facts.now = Timestamp::from_second(NOW + 200).unwrap();
    assert_eq!(reason(step(&queued, None, late)), EndReason::QueueTimeout);
}

#[test]
fn whose_pod_is_refused_is_told_why_once() {
    let own = claimed(NOW - 100, json!(null));
    let status = refused(&own, "exceeded quota").unwrap();
    assert_eq!(
        (status.phase, status.message.as_deref()),
        (Some(Phase::Pending), Some("its pod is refused: exceeded quota"))
    );
    let told = claimed(NOW - 100, serde_json::to_value(&status).unwrap());
    assert_eq!(refused(&told, "exceeded quota"), None);
    assert!(refused(&warm(json!(null)), "exceeded quota").is_none(), "nobody waits");
    assert_eq!(step(&told, None, |facts| facts.is_admitted = true), Step::CreatePod, "it is tried again");
    let again = |since: i64, asked: i64| {
        step(&told, None, |facts| {
            facts.is_admitted = true;
            facts.refusal = Some(Refusal { since: second(NOW - since), asked: second(NOW - asked) });
        })
    };
    assert_eq!(again(2, 0), Step::Wait(Some(Duration::from_secs(1))), "but not at once");
    assert_eq!(again(80, 3), Step::Wait(Some(Duration::from_secs(7))), "and ever more seldom");
    assert_eq!(again(80, 10), Step::CreatePod);
    let Step::End(_, words) = step(&told, None, |facts| facts.now = second(NOW + 200)) else { panic!("it waits on") };
    assert_eq!(words, "it got no pod within 5m: its pod is refused: exceeded quota");
}

#[test]
fn a_pod_of_its_name_that_is_not_its_own_is_none() {
    let mut other = ready_pod(30);
    other.metadata.uid = Some("p2".into());
    assert_eq!(reason(step(&warm(ready_status()), Some(&other), |_| {})), EndReason::Deleted);
}

#[test]
fn its_pod_is_ready_and_that_is_told_with_its_times() {
    let Step::Tell(status) = step(&warm(json!(null)), Some(&ready_pod(30)), |_| {}) else { panic!("nothing is told") };
    assert_eq!((status.phase, status.address.as_deref()), (Some(Phase::Ready), Some("10.1.2.3:7090")));
    assert_eq!((status.pod_uid.as_deref(), status.node.as_deref()), (Some("p1"), Some("node-1")));
    let second = |time: &Option<MicroTime>| time.as_ref().unwrap().0.as_second() - NOW;
    let stages = &status.stages;
    assert_eq!((second(&stages.queued), second(&stages.created), second(&stages.scheduled)), (-100, -30, -29));
    assert_eq!(second(&stages.kernel_ready), 0);
    let told = warm(serde_json::to_value(&*status).unwrap());
    assert!(matches!(step(&told, Some(&ready_pod(30)), |_| {}), Step::Wait(Some(_))), "it is told once");
}

#[test]
fn who_waits_long_is_told_why_once() {
    let own = |status: Value| claimed(NOW - 100, status);
    assert_eq!(step(&own(json!(null)), Some(&waiting_pod(2)), |_| {}), Step::Wait(Some(Duration::from_secs(3))));
    let Step::Tell(status) = step(&own(json!(null)), Some(&waiting_pod(6)), |_| {}) else { panic!("nothing is told") };
    assert_eq!((status.phase, status.message.as_deref()), (Some(Phase::Pending), Some("waits for a node: 0/1 nodes")));
    let told = own(serde_json::to_value(&*status).unwrap());
    assert_eq!(step(&told, Some(&waiting_pod(7)), |_| {}), Step::Wait(Some(Duration::from_secs(293))));
    assert_eq!(
        step(&warm(json!(null)), Some(&waiting_pod(6)), |_| {}),
        Step::Wait(Some(Duration::from_secs(294))),
        "nobody waits"
    );
    match step(&told, Some(&waiting_pod(301)), |_| {}) {
        Step::End(EndReason::StartTimeout, words) => {
            assert_eq!(words, "not ready within 5m: it waits for a node: 0/1 nodes");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_warm_one_ends_with_its_template_and_its_pool_and_a_claimed_one_does_not() {
    let pod = ready_pod(90);
    let old = |facts: &mut Facts<'_>| (facts.is_stale, facts.is_surplus) = (true, true);
    assert_eq!(reason(step(&warm(ready_status()), Some(&pod), old)), EndReason::Stale);
    assert_eq!(reason(step(&warm(ready_status()), Some(&pod), |facts| facts.is_surplus = true)), EndReason::ScaledDown);
    assert_eq!(reason(step(&warm(json!(null)), Some(&waiting_pod(1)), old)), EndReason::Stale);
    assert!(matches!(step(&claimed(NOW - 5, ready_status()), Some(&pod), old), Step::Wait(Some(_))));
}

#[test]
fn an_idle_one_is_asked_and_an_old_one_ends() {
    let pod = ready_pod(90);
    let idle = |claim: i64| step(&claimed(claim, ready_status()), Some(&pod), |_| {});
    assert_eq!(idle(NOW - 899), Step::Wait(Some(Duration::from_secs(1))));
    assert_eq!(idle(NOW - 900), Step::AskWhetherIdle);
    let used = |facts: &mut Facts<'_>| facts.answer = Some(Answer::Used(second(NOW - 10)));
    assert_eq!(
        step(&claimed(NOW - 5000, ready_status()), Some(&pod), used),
        Step::Wait(Some(Duration::from_secs(890)))
    );
    let later = |facts: &mut Facts<'_>| facts.now = Timestamp::from_second(NOW + 86_400).unwrap();
    assert_eq!(reason(step(&claimed(NOW + 86_399, ready_status()), Some(&pod), later)), EndReason::MaxLifetime);
    assert_eq!(reason(step(&warm(ready_status()), Some(&pod), later)), EndReason::MaxLifetime);
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_retired_one_goes_when_it_is_saved_or_nobody_comes_to_save_it() {
    let pod = ready_pod(90);
    let answered =
        |answer: Answer| step(&claimed(NOW - 5000, ready_status()), Some(&pod), |it| it.answer = Some(answer));
    let retired = |asked: i64, used: i64, unsaved: bool| {
        answered(Answer::Retired { asked: second(NOW - asked), used: second(NOW - used), unsaved })
    };
    assert_eq!(reason(retired(0, 900, false)), EndReason::IdleTimeout);
    assert_eq!(retired(0, 900, true), Step::Wait(Some(Duration::from_secs(1))));
    assert_eq!(retired(1, 900, true), Step::AskWhetherIdle);
    assert_eq!(retired(1, 900 + 80, true), Step::Wait(Some(Duration::from_secs(9))));
    assert_eq!(retired(60, 900 + 3000, true), Step::AskWhetherIdle);
    assert_eq!(reason(retired(5, 900 + 3600, true)), EndReason::IdleUnsaved);
}

#[test]
fn one_that_does_not_answer_is_given_up_unless_many_do_not() {
    let pod = ready_pod(90);
    let silent = |since: i64, general: bool| {
        step(&claimed(NOW - 5000, ready_status()), Some(&pod), |it| {
            it.answer = Some(Answer::Silent { since: second(NOW - since), asked: second(NOW - 60) });
            it.is_silence_general = general;
        })
    };
    assert_eq!(silent(119, false), Step::AskWhetherIdle);
    assert_eq!(reason(silent(120, false)), EndReason::Failed);
    assert_eq!(silent(100_000, true), Step::AskWhetherIdle);
}

#[test]
fn it_ends_with_its_pod_or_with_its_sessions_next() {
    let own = claimed(NOW - 5, ready_status());
    assert_eq!(reason(step(&own, None, |facts| facts.is_admitted = true)), EndReason::Deleted);
    let failed = pod(9, json!({"phase": "Failed", "reason": "Evicted"}));
    assert_eq!(reason(step(&own, Some(&failed), |_| {})), EndReason::Evicted);
    assert_eq!(reason(step(&own, Some(&ready_pod(9)), |facts| facts.is_superseded = true)), EndReason::Superseded);
}

#[test]
fn after_its_end_its_pod_goes_and_its_story_stays_a_while() {
    let story = |age: i64| {
        let time = format!("{}.000000Z", at(NOW - age).trim_end_matches('Z'));
        warm(json!({"phase": "Ended", "endReason": "IdleTimeout", "stages": {"ended": time}}))
    };
    assert_eq!(step(&story(1), Some(&ready_pod(9)), |_| {}), Step::DeletePod);
    let mut going = ready_pod(9);
    going.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(NOW).unwrap()));
    assert_eq!(step(&story(1), Some(&going), |_| {}), Step::Wait(None));
    assert_eq!(step(&story(1), None, |_| {}), Step::Wait(Some(Duration::from_secs(599))));
    assert_eq!(step(&story(600), None, |_| {}), Step::DeleteSandbox);
    let mut deleted = story(600);
    deleted.metadata.deletion_timestamp = going.metadata.deletion_timestamp;
    assert_eq!(step(&deleted, None, |_| {}), Step::Wait(None));
}

#[test]
fn the_pod_of_a_session_that_stays_is_not_to_be_moved() {
    let since = |claim: i64, pod: &Pod| step(&claimed(claim, ready_status()), Some(pod), |_| {});
    let new = new_pod(90);
    assert_eq!(since(NOW - 4, &new), Step::Wait(Some(Duration::from_secs(1))), "it may be back soon");
    assert_eq!(since(NOW - 5, &new), Step::KeepPodInPlace);
    assert_eq!(since(NOW - 5, &ready_pod(90)), Step::Wait(Some(Duration::from_secs(895))), "it was told once");
    assert!(matches!(step(&warm(ready_status()), Some(&new), |_| {}), Step::Wait(Some(_))), "nobody has it");
}
