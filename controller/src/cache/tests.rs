//! A cache beside a model that is told everything at once.
use k8s_openapi::api::core::v1::ConfigMap;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(name: &str, uid: u64, version: u64) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "uid": uid.to_string(), "resourceVersion": version.to_string()}}),
    )
    .unwrap()
}

fn cache() -> Cache<ConfigMap> {
    let cache = Cache::new(Changes::default());
    assert!(!cache.is_complete());
    cache.apply(Event::Init);
    cache.apply(Event::InitDone);
    assert!(cache.is_complete());
    cache
}

fn shown(cache: &Cache<ConfigMap>, name: &str) -> Option<u64> {
    let one = cache.get(name).map(|it| version(it.as_ref()));
    let all = cache.all();
    assert_eq!(all.iter().find(|it| it.name_any() == name).map(|it| version(it.as_ref())), one);
    one
}

#[test]
fn an_own_write_is_known_at_once_and_an_older_event_does_not_undo_it() {
    let cache = cache();
    cache.wrote(&object("a", 1, 5));
    assert_eq!(shown(&cache, "a"), Some(5));
    cache.wrote(&object("a", 1, 7));
    cache.apply(Event::Apply(object("a", 1, 5)));
    assert_eq!(shown(&cache, "a"), Some(7));
    cache.apply(Event::Apply(object("a", 1, 9)));
    assert_eq!(shown(&cache, "a"), Some(9));
    cache.wrote(&object("a", 1, 8));
    assert_eq!(shown(&cache, "a"), Some(9), "the watch was faster");
}

#[test]
fn what_was_deleted_is_gone_at_once_and_its_successor_is_not() {
    let cache = cache();
    cache.apply(Event::Apply(object("a", 1, 5)));
    cache.deleted(&object("a", 1, 5));
    cache.apply(Event::Apply(object("a", 1, 6)));
    assert_eq!(shown(&cache, "a"), None);
    cache.apply(Event::Delete(object("a", 1, 7)));
    cache.apply(Event::Apply(object("a", 2, 8)));
    assert_eq!(shown(&cache, "a"), Some(8));
    cache.deleted(&object("a", 1, 5));
    assert_eq!(shown(&cache, "a"), Some(8), "it was another's end");
}

#[test]
fn a_write_that_is_answered_after_its_end_was_shown_is_not_known_for_ever() {
    let cache = cache();
    cache.apply(Event::Apply(object("a", 1, 5)));
    cache.apply(Event::Delete(object("a", 1, 6)));
    cache.wrote(&object("a", 1, 5));
    assert_eq!(shown(&cache, "a"), None);

    // The list that did not have it any more tells no version; the next event does.
    cache.apply(Event::Init);
    cache.apply(Event::InitDone);
    cache.wrote(&object("b", 2, 7));
    assert_eq!(shown(&cache, "b"), Some(7));
    cache.apply(Event::Apply(object("c", 3, 9)));
    assert_eq!(shown(&cache, "b"), None);
}

#[test]
fn a_list_begun_after_a_write_knows_better_and_one_begun_before_does_not() {
    let cache = cache();
    cache.apply(Event::Init);
    cache.wrote(&object("new", 1, 5));
    cache.apply(Event::InitDone);
    assert_eq!(shown(&cache, "new"), Some(5), "the list may be older");
    cache.apply(Event::Init);
    cache.apply(Event::InitDone);
    assert_eq!(shown(&cache, "new"), None, "it was deleted meanwhile, and no event told");
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// By this process.
    Write(usize),
    Delete(usize),
    /// By others.
    Elsewhere(usize),
    DeleteElsewhere(usize),
    /// So many events arrive.
    Watch(usize),
    Relist,
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        (0..3usize).prop_map(Doing::Write),
        (0..3usize).prop_map(Doing::Delete),
        (0..3usize).prop_map(Doing::Elsewhere),
        (0..3usize).prop_map(Doing::DeleteElsewhere),
        (1..4usize).prop_map(Doing::Watch),
        Just(Doing::Relist),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #[test]
    fn own_writes_are_never_forgotten_and_all_is_known_in_the_end(doings in prop::collection::vec(doing(), 0..60)) {
        let cache = cache();
        let (mut truth, mut events, mut version) = (HashMap::<&str, ConfigMap>::new(), std::collections::VecDeque::new(), 1);
        for doing in doings {
            version += 1;
            match doing {
                Doing::Write(n) | Doing::Elsewhere(n) => {
                    let uid = truth.get(NAMES[n]).map_or(version, |it| it.uid().unwrap().parse().unwrap());
                    let new = object(NAMES[n], uid, version);
                    truth.insert(NAMES[n], new.clone());
                    events.push_back(Event::Apply(new.clone()));
                    if matches!(doing, Doing::Write(_)) {
                        cache.wrote(&new);
                        prop_assert_eq!(shown(&cache, NAMES[n]), Some(version));
                    }
                }
                Doing::Delete(n) | Doing::DeleteElsewhere(n) => if let Some(old) = truth.remove(NAMES[n]) {
                    events.push_back(Event::Delete(object(NAMES[n], old.uid().unwrap().parse().unwrap(), version)));
                    if matches!(doing, Doing::Delete(_)) {
                        cache.deleted(&old);
                        prop_assert!(cache.get(NAMES[n]).is_none_or(|it| it.uid() != old.uid()));
                    }
                },
                Doing::Watch(many) => for _ in 0..many {
                    if let Some(event) = events.pop_front() { cache.apply(event) }
                },
                Doing::Relist => {
                    events.clear();
                    cache.apply(Event::Init);
                    for object in truth.values() { cache.apply(Event::InitApply(object.clone())) }
                    cache.apply(Event::InitDone);
                }
            }
        }
        for event in events { cache.apply(event) }
        for name in NAMES {
            prop_assert_eq!(shown(&cache, name), truth.get(name).map(super::version));
        }
    }
}
