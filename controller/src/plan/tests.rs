//! The plan, carried out again and again on a model of a cluster.
mod model;

use std::collections::BTreeSet;

use kernelbox_api::EndReason;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use model::{Model, NOW, object, policy, time};

#[test]
fn a_pool_is_filled_and_a_claimed_one_is_replaced() {
    let mut model = Model::new(json!({"min": 2}));
    model.settle();
    assert_eq!((model.world.pods.len(), model.status().pending), (2, 2));
    model.start_all();
    model.settle();
    assert_eq!((model.status().ready, model.status().pending, model.status().target), (2, 0, 2));

    let mut claimed = model.sandbox(&model.ready(|_| true)[0]).unwrap();
    claimed.spec.session = Some("sessions/a".into());
    (claimed.spec.generation, claimed.spec.tenant) = (Some(1), Some("x".into()));
    model.put(claimed);
    model.settle();
    assert_eq!((model.status().ready, model.status().pending, model.status().claimed), (1, 1, 1));
}

#[test]
fn sessions_get_pods_before_the_pool_and_wait_for_room() {
    let mut model = Model::new(json!({"min": 5, "maxPending": 2, "limit": 3}));
    let asked: Vec<_> = (0..4).map(|n| model.ask(n, 1, 0)).collect();
    model.settle();
    assert_eq!(model.world.pods.keys().collect::<BTreeSet<_>>(), asked[..2].iter().collect());
    assert_eq!(model.status().queued, 2);
    model.start_all();
    model.settle();
    assert_eq!(model.world.pods.len(), 3, "the limit");
    assert!(model.ready(|it| it.spec.session.is_none()).is_empty());
}

#[test]
fn warm_ones_give_way_to_sessions_that_wait_for_their_place() {
    // Warm ones are made, and take up the limit before they can be claimed.
    let mut model = Model::new(json!({"min": 2, "limit": 2}));
    model.settle();
    let mine = model.ask(1, 1, 0);
    model.settle();
    assert!(!model.world.pods.contains_key(&mine) && model.ends.is_empty());

    model.now += 6;
    model.settle();
    assert!(model.world.pods.contains_key(&mine));
    assert_eq!((model.world.pods.len(), model.ends.as_slice()), (2, &[EndReason::ScaledDown][..]), "no more than one");

    // The nodes have room for no more than that, though the limit does not say so.
    let mut model = Model::new(json!({"min": 2, "limit": 9}));
    model.settle();
    model.start_all();
    model.settle();
    let mine = model.ask(1, 1, 0);
    model.settle();
    let unschedulable = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]});
    let pod = Arc::make_mut(model.world.pods.get_mut(&mine).unwrap());
    pod.status = Some(serde_json::from_value(unschedulable).unwrap());
    model.settle();
    assert_eq!((model.status().ready, model.ends.len()), (2, 0));
    model.now += 6;
    model.settle();
    assert_eq!((model.status().ready, model.ends.as_slice()), (1, &[EndReason::ScaledDown][..]));
    // The scheduler has not come to it yet.
    model.now += 10;
    model.settle();
    assert_eq!(model.status().ready, 1);
    model.start(&mine);
    model.now += 10;
    model.settle();
    assert_eq!((model.status().claimed, model.ends.len()), (1, 1));
    assert!(model.status().pending > 0, "the pool is filled again");
}

#[test]
fn a_template_that_changes_is_followed_bit_by_bit() {
    let mut model = Model::new(json!({"min": 4, "maxPending": 1}));
    for _ in 0..4 {
        model.settle();
        model.start_all();
    }
    model.settle();
    assert_eq!(model.status().ready, 4);
    let mine = model.ask(9, 1, 0);
    model.settle();
    model.start(&mine);
    model.settle();

    model.world.templates.get_mut("t").unwrap().hash = Some("h2".into());
    model.look();
    let stale = |model: &Model| model.world.pods.values().filter(|it| it.labels()[TEMPLATE_HASH_LABEL] == "h1").count();
    assert!(stale(&model) >= 3, "all went at once");
    for _ in 0..8 {
        model.settle();
        model.start_all();
    }
    model.settle();
    assert_eq!((model.status().ready, stale(&model)), (4, 1), "the claimed one stays");
    assert_eq!(model.ready(|it| it.spec.session.is_some()), [mine]);
}

#[test]
fn a_pool_that_shrinks_lets_the_youngest_go() {
    let mut model = Model::new(json!({"min": 3}));
    model.settle();
    model.start_all();
    model.settle();
    let mut pool = SandboxPool::clone(&model.world.pools[0]);
    pool.spec.min = 1;
    model.world.pools[0] = Arc::new(pool);
    model.settle();
    assert_eq!((model.status().ready, model.world.pods.len()), (1, 1));
    assert_eq!(model.ends, [EndReason::ScaledDown; 2]);
}

#[test]
fn a_pool_whose_sandboxes_do_not_start_tries_one_at_a_time_and_ever_more_seldom() {
    let mut model = Model::new(json!({"min": 3}));
    model.settle();
    assert_eq!(model.world.pods.len(), 3);
    model.now += 300;
    model.settle();
    assert_eq!(model.world.pods.len(), 0, "there is a pause after a failure");
    let degraded = |model: &Model| {
        let conditions = model.status().conditions;
        let it = conditions.into_iter().find(|it| it.type_ == "Degraded").unwrap();
        (it.status == kernelbox_api::ConditionStatus::True, it.reason)
    };
    assert_eq!(degraded(&model), (true, "StartTimeout".into()));
    let mut tries = 0;
    for _ in 0..1200 {
        model.now += 1;
        model.settle();
        assert!(model.world.pods.len() <= 1);
        tries = model.next - 3;
    }
    assert!((2..=4).contains(&tries), "{tries} tries in 20 minutes");
    model.start_all();
    model.settle();
    for _ in 0..300 {
        model.now += 1;
        model.settle();
        model.start_all();
    }
    model.settle();
    assert_eq!((model.status().ready, degraded(&model)), (3, (false, "SandboxesStart".into())));
}

#[test]
fn of_a_sessions_sandboxes_only_the_highest_generation_lives() {
    let mut model = Model::new(json!({"min": 0}));
    let one = model.ask(1, 1, 0);
    model.settle();
    model.start_all();
    model.settle();
    let two = model.ask(1, 2, 0);
    let other = model.ask(2, 1, 0);
    model.settle();
    model.start_all();
    model.settle();
    assert_eq!(model.ready(|_| true), [two, other]);
    assert_eq!(model.ends, [EndReason::Superseded]);
    assert!(!model.world.pods.contains_key(&one));
}

#[test]
fn without_a_template_that_makes_pods_nothing_is_made_and_nothing_ends() {
    let mut model = Model::new(json!({"min": 2, "limit": 2}));
    model.settle();
    model.start_all();
    model.settle();
    model.world.templates.get_mut("t").unwrap().hash = None;
    model.ask(1, 1, 0);
    model.settle();
    model.now += 6;
    model.settle();
    assert_eq!((model.world.pods.len(), model.status().ready, model.status().queued), (2, 2, 1));
}

#[test]
fn sandboxes_outlive_their_template_only_while_a_session_has_them() {
    let mut model = Model::new(json!({"min": 2}));
    let mine = model.ask(1, 1, 0);
    for _ in 0..2 {
        model.settle();
        model.start_all();
    }
    model.settle();
    model.world.templates.clear();
    model.settle();
    assert_eq!(model.ready(|_| true), [mine]);
    assert_eq!(model.ends, [EndReason::Stale; 2]);

    assert_eq!(model.world.policies.len(), 1, "what is left of it is enclosed still");

    model.now += 90_000;
    for _ in 0..2 {
        model.settle();
        model.now += 601;
    }
    model.settle();
    assert!(model.world.sandboxes.is_empty() && model.world.pods.is_empty() && model.world.policies.is_empty());
}

#[test]
fn what_others_wait_for_is_left_alone_for_less_and_a_session_may_want_less_still() {
    let mut model = Model::new(json!({"min": 0}));
    let name = model.ask(1, 1, 0);
    let mut of = |accelerator: Value, template: Option<&str>, session: Option<&str>| {
        let spec = json!({"image": "x", "accelerator": accelerator, "lifecycle": {"idleTimeout": template}});
        model.world.templates.get_mut("t").unwrap().template =
            Arc::new(object("SandboxTemplate", "t", spec, json!({})));
        let mut sandbox = model.sandbox(&name).unwrap();
        sandbox.spec.idle_timeout = session.map(|it| it.parse().unwrap());
        model.world.idle_timeout(&sandbox).as_secs() / 60
    };
    let gpu = || json!({"resource": {"name": "nvidia.com/gpu", "count": 1}});
    assert_eq!((of(json!(null), None, None), of(gpu(), None, None)), (15, 5));
    assert_eq!((of(json!(null), Some("1h"), None), of(gpu(), Some("1h"), None)), (60, 60));
    assert_eq!((of(json!(null), None, Some("1m")), of(json!(null), None, Some("1h"))), (1, 15));
}

#[test]
fn no_pod_is_made_before_its_policy_is_there() {
    let mut model = Model::new(json!({"min": 1}));
    model.look();
    let plan = plan(&model.world, time(NOW));
    assert!(plan.steps.iter().any(|(_, step)| *step == Step::CreatePod) && plan.enclose.is_empty());
    model.world.policies.clear();
    let plan = super::plan(&model.world, time(NOW));
    assert_eq!((plan.steps.len(), plan.enclose.len()), (0, 1));
    let changed = NetworkPolicy { spec: None, ..policy() };
    model.world.policies.insert(policy::name("t"), Arc::new(changed));
    assert_eq!(super::plan(&model.world, time(NOW)).enclose.len(), 1, "somebody changed it");
}

#[derive(Debug, Clone)]
enum Happening {
    Ask(usize, usize),
    AskAgain(usize),
    Claim(usize),
    Start(usize),
    StartAll,
    PodDies(usize),
    Template(u8),
    Pool(u32),
    Later(i64),
    Look,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..6usize, 0..3usize).prop_map(|(session, tenant)| Happening::Ask(session, tenant)),
        (0..6usize).prop_map(Happening::AskAgain),
        (0..6usize).prop_map(Happening::Claim),
        (0..8usize).prop_map(Happening::Start),
        (0..8usize).prop_map(Happening::PodDies),
        (0..3u8).prop_map(Happening::Template),
        (0..5u32).prop_map(Happening::Pool),
        (1..400i64).prop_map(Happening::Later),
        Just(Happening::StartAll),
        Just(Happening::Look),
        Just(Happening::Look),
        Just(Happening::Look),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_limits_hold_and_it_comes_to_rest(happenings in prop::collection::vec(happening(), 0..60)) {
        let mut model = Model::new(json!({"min": 2, "max": 4, "maxPending": 3, "limit": 4}));
        let mut generations: HashMap<usize, i64> = HashMap::new();
        let mut died: HashMap<String, usize> = HashMap::new();
        for happening in happenings {
            match happening {
                Happening::Ask(session, tenant) => if let std::collections::hash_map::Entry::Vacant(new) = generations.entry(session) {
                    new.insert(1);
                    model.ask(session, 1, tenant);
                },
                Happening::AskAgain(session) => if let Some(generation) = generations.get_mut(&session) {
                    *generation += 1;
                    let generation = *generation;
                    model.ask(session, generation, 0);
                },
                Happening::Claim(session) => if !generations.contains_key(&session)
                    && let Some(name) = model.ready(|it| it.spec.session.is_none()).first()
                {
                    generations.insert(session, 1);
                    let mut one = model.sandbox(name).unwrap();
                    one.spec.session = Some(format!("sessions/{session}"));
                    (one.spec.generation, one.spec.tenant) = (Some(1), Some("c".into()));
                    one.spec.claim_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(time(model.now)));
                    model.put(one);
                },
                Happening::Start(n) => {
                    let mut names: Vec<_> = model.world.pods.keys().cloned().collect();
                    names.sort();
                    if let Some(name) = names.get(n) { model.start(name) }
                }
                Happening::StartAll => model.start_all(),
                Happening::PodDies(n) => {
                    let mut names: Vec<_> = model.world.pods.keys().cloned().collect();
                    names.sort();
                    if let Some(name) = names.get(n) {
                        model.world.pods.remove(name);
                        *died.entry(name.clone()).or_default() += 1;
                    }
                }
                Happening::Template(n) => model.world.templates.get_mut("t").unwrap().hash = (n > 0).then(|| format!("h{n}")),
                Happening::Pool(min) => {
                    let mut pool = SandboxPool::clone(&model.world.pools[0]);
                    pool.spec.min = min.min(4);
                    model.world.pools[0] = Arc::new(pool);
                }
                Happening::Later(seconds) => model.now += seconds,
                Happening::Look => _ = model.look(),
            }
            let ended = |name: &str| model.sandbox(name).is_none_or(|it| it.status.is_some_and(|it| it.phase == Some(Phase::Ended)));
            prop_assert!(model.world.pods.keys().filter(|name| !ended(name)).count() <= 4, "over the limit");
        }
        model.world.templates.get_mut("t").unwrap().hash = Some("h9".into());
        for _ in 0..12 {
            model.settle();
            model.start_all();
        }
        model.settle();
        // Each session has one that lives at most, and it is its last.
        let mut living: HashMap<String, usize> = HashMap::new();
        for name in model.ready(|it| it.spec.session.is_some()) {
            *living.entry(model.sandbox(&name).unwrap().spec.session.unwrap()).or_default() += 1;
        }
        prop_assert!(living.values().all(|count| *count == 1), "{living:?}");
        // A pod that somebody else deletes before it is ready is made again.
        let most = |name: &String| 7 + died.get(name).copied().unwrap_or(0);
        prop_assert!(model.writes.iter().all(|(name, count)| *count <= most(name)), "{:?}", model.writes);
        // In the end nothing remains but the pool.
        model.now += 200_000;
        model.settle();
        model.now += 601;
        // Those that were starting for so long make it try again with care.
        for _ in 0..12 {
            model.settle();
            model.start_all();
            model.now += 60;
        }
        model.settle();
        let min = model.world.pools[0].spec.min as usize;
        prop_assert_eq!(model.ready(|_| true).len(), min);
        prop_assert_eq!(model.world.pods.len(), min);
        model.now += 601;
        model.settle();
        prop_assert_eq!(model.world.sandboxes.len(), min);
    }
}
