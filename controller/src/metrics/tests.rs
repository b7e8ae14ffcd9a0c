//! What is counted, from a look at everything and from what happens.
use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;
use kernelbox_api::{Sandbox, SandboxPool, SandboxTemplate};
use kernelbox_metrics::Label as _;
use serde_json::{Value, json};

use super::*;
use crate::plan::{Template, World};

const NOW: i64 = 1_000_000;

fn object<T: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value, status: Value) -> Arc<T> {
    let whole = json!({"apiVersion": "kernelbox.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "creationTimestamp": at(90)}, "spec": spec, "status": status});
    Arc::new(serde_json::from_value(whole).unwrap())
}

/// So many seconds ago.
fn at(ago: i64) -> String {
    format!("{:.6}", Timestamp::from_second(NOW - ago).unwrap())
}

fn world(template: Value, sandboxes: Vec<Arc<Sandbox>>) -> World {
    let template: Arc<SandboxTemplate> = object("SandboxTemplate", "t", template, Value::Null);
    let template = Template { template, hash: None, policy: None, problem: None };
    let pod = |it: &Arc<Sandbox>| (it.metadata.name.clone().unwrap(), Arc::default());
    World {
        templates: [("t".to_owned(), template)].into(),
        pods: sandboxes.iter().map(pod).collect(),
        sandboxes,
        ..World::default()
    }
}

fn sandbox(name: &str, phase: &str, claimed: Option<i64>) -> Arc<Sandbox> {
    let mut spec = json!({"templateRef": {"name": "t"}});
    if let Some(ago) = claimed {
        spec["session"] = format!("sessions/{name}").into();
        spec["generation"] = 1.into();
        spec["claimTime"] = at(ago).into();
    }
    object("Sandbox", name, spec, json!({"phase": phase}))
}

fn of<const N: usize>(labels: [&str; N]) -> Vec<String> {
    labels.map(str::to_owned).into()
}

#[test]
fn sandboxes_are_counted_by_phase_and_whether_they_are_claimed() {
    let all = [("a", "Pending", None), ("b", "Ready", None), ("c", "Ready", Some(5)), ("d", "Ended", Some(9))];
    let world = world(json!({"image": "x"}), all.map(|(name, phase, claimed)| sandbox(name, phase, claimed)).into());
    let census = Census::of(&world, Timestamp::from_second(NOW).unwrap());
    let metrics = Metrics::new().unwrap();
    metrics.take(&census);
    for (phase, claimed, many) in [
        ("pending", "false", 1),
        ("pending", "true", 0),
        ("ready", "false", 1),
        ("ready", "true", 1),
        ("ended", "true", 1),
    ] {
        assert_eq!(census.sandboxes[&of(["t", phase, claimed])], many, "{phase} {claimed}");
        let line = format!("kernelbox_sandboxes{{claimed=\"{claimed}\",phase=\"{phase}\",template=\"t\"}} {many}\n");
        assert!(metrics.book().text().unwrap().contains(&line), "{line}");
    }
    assert_eq!(census.oldest_pending[&of(["t"])], 90);
    assert!(census.accelerators.is_empty(), "{census:?}");
}

#[test]
fn accelerators_of_pods_are_held_and_those_that_nobody_uses_are_idle() {
    let template = json!({"image": "x", "accelerator": {"resource": {"name": "nvidia.com/gpu", "count": 2}},
        "lifecycle": {"idleTimeout": "60s", "unsavedGrace": "600s"}});
    let all = [
        ("starts", "Pending", None),
        ("warm", "Ready", None),
        ("used", "Ready", Some(10)),
        ("left", "Ready", Some(70)),
        ("gone", "Ended", None),
    ];
    let mut world = world(template, all.map(|(name, phase, claimed)| sandbox(name, phase, claimed)).into());
    let now = Timestamp::from_second(NOW).unwrap();
    let census = Census::of(&world, now);
    assert_eq!(census.accelerators, HashMap::from([(of(["t"]), 8)]));
    assert_eq!(census.accelerators_idle, HashMap::from([(of(["t"]), 4)]));
    assert_eq!(census.overdue[&of(["t"])], 0);

    world.answers.insert("left".into(), Answer::Used(now));
    assert_eq!(Census::of(&world, now).accelerators_idle[&of(["t"])], 2);

    let much_later = Timestamp::from_second(NOW + 3600).unwrap();
    assert_eq!(Census::of(&world, much_later).overdue[&of(["t"])], 2);
}

#[test]
fn a_pool_is_told_as_its_status_says() {
    let status = json!({"ready": 3, "pending": 1, "claimed": 7, "queued": 2, "target": 4,
        "conditions": [{"type": "Degraded", "status": "True", "reason": "x", "message": "", "lastTransitionTime": at(1)}]});
    let mut world = World::default();
    world.pools.push(object::<SandboxPool>(
        "SandboxPool",
        "p",
        json!({"templateRef": {"name": "t"}, "min": 1}),
        status,
    ));
    let census = Census::of(&world, Timestamp::from_second(NOW).unwrap());
    let all = [&census.ready, &census.pending, &census.claimed, &census.queued, &census.target, &census.degraded];
    assert_eq!(all.map(|table| table[&of(["p"])]), [3, 1, 7, 2, 4, 1]);
}

#[test]
fn a_start_is_told_stage_by_stage() {
    let stages = json!({"phase": "Ready", "stages": {"queued": at(60), "created": at(50), "scheduled": at(48),
        "pulled": at(18), "started": at(18), "kernelReady": at(15)}});
    let sandbox: Arc<Sandbox> = object("Sandbox", "s", json!({"templateRef": {"name": "t"}}), stages);
    let metrics = Metrics::new().unwrap();
    metrics.ready("t", sandbox.status.as_ref().unwrap());
    let text = metrics.book().text().unwrap();
    for (stage, seconds) in [("queued", 10), ("scheduled", 2), ("pulled", 30), ("kernel_ready", 3)] {
        let line = format!("kernelbox_sandbox_stage_seconds_sum{{stage=\"{stage}\",template=\"t\"}} {seconds}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(text.contains("kernelbox_sandbox_start_seconds_sum{template=\"t\"} 35\n"), "{text}");
}

#[test]
fn every_reason_has_its_label_and_what_the_leader_tells_ends_with_its_lead() {
    let metrics = Metrics::new().unwrap();
    let leads = metrics.leads();
    for (at, name) in Reason::VALUES.iter().enumerate() {
        let reason: EndReason = serde_json::from_value((*name).into()).unwrap();
        assert_eq!(reason as usize, at, "{name}");
        metrics.ended(reason);
    }
    metrics.take(&Census::of(&world(json!({"image": "x"}), vec![sandbox("a", "Ready", None)]), Timestamp::now()));
    let text = metrics.book().text().unwrap();
    assert_eq!(text.matches("kernelbox_sandboxes_ended_total{").count(), text.matches("\"} 1\n").count() - 2);
    assert!(text.contains("kernelbox_leader 1\n") && text.contains("kernelbox_sandboxes{"), "{text}");
    drop(leads);
    let text = metrics.book().text().unwrap();
    assert!(text.contains("kernelbox_leader 0\n") && !text.contains("kernelbox_sandboxes{"), "{text}");
}

#[test]
fn the_reference_is_kept_in_the_docs_and_follows_the_conventions() {
    let metrics = Metrics::new().unwrap();
    assert_eq!(metrics.book().oddities(), Vec::<String>::new());
    let kept = include_str!("../../../docs/metrics.md");
    assert!(kept.contains(&metrics.book().page("controller")), "docs/metrics.md is stale; run: make metrics");
}
