//! What must hold of all that the API server has ever been told, checked with each write.
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use axum::http::Method;
use serde_json::Value;

use super::{
    api::{Api, owner_of, text},
    wire::Call,
};

/// Writes of a life, beside that its pod is not to be moved.
const WRITES: usize = 7;

/// What became of all that ever was, and who leads meanwhile.
#[derive(Default)]
pub(super) struct Story {
    pub(super) leader: Option<usize>,
    /// Counts the leaders so far.
    pub(super) term: usize,
    /// The most pods that the leader's plan may have been made for.
    pub(super) limit: usize,
    /// So many pods are there that it could not know of.
    pub(super) unknown: usize,
    /// How often a write may have been made again by somebody who did not know of it.
    pub(super) repeats: usize,
    sandboxes: HashMap<String, Life>,
    pods: HashMap<String, Made>,
    /// The rank of the last sandbox that each session was given.
    last: HashMap<String, Rank>,
    /// The names of those that each session was ever given, by generation.
    names: BTreeMap<(String, i64), BTreeSet<String>>,
    /// The name of the one that was made for it.
    made: HashMap<(String, i64), String>,
    /// The generations that may be given more than once: one was taken away, or a claim was done late.
    pub(super) more_than_once: HashSet<(String, i64)>,
    /// What did not hold.
    pub(super) broken: Vec<String>,
    /// All that was done, for who wants to know why.
    pub(super) log: Vec<String>,
}

/// By the generation, then by when it was given.
type Rank = (i64, String);

#[derive(Debug, Clone, Default)]
struct Life {
    name: String,
    session: Option<String>,
    rank: Rank,
    /// Why it ended.
    ended: Option<String>,
    writes: usize,
    /// So many more than usual are right.
    more: usize,
    kept_in_place: usize,
}

struct Made {
    sandbox: String,
    /// The leader's, whose caches have it then. None: by one that leads no more, or a write that was given up.
    term: Option<usize>,
}

impl Story {
    /// As it is now.
    pub(super) fn sandbox(&mut self, object: &Value) {
        let (uid, session) = (text(object, "/metadata/uid"), text(object, "/spec/session"));
        let generation = object.pointer("/spec/generation").and_then(Value::as_i64).unwrap_or_default();
        let rank = (generation, text(object, "/spec/claimTime").to_owned());
        let is_new = !self.sandboxes.contains_key(uid);
        let life = self.sandboxes.entry(uid.to_owned()).or_default();
        text(object, "/metadata/name").clone_into(&mut life.name);
        let mut broken = Vec::new();
        if life.session.as_deref().is_some_and(|before| before != session) {
            broken.push(format!("was {:?}'s", life.session));
        }
        if generation < life.rank.0 {
            broken.push("has a generation that falls".to_owned());
        }
        if life.session.is_some() && generation > life.rank.0 {
            // It came of an ask that was not answered.
            life.more += 1;
        }
        let reason = text(object, "/status/endReason");
        if life.ended.as_deref().is_some_and(|before| before != reason) {
            broken.push(format!("had ended as {:?}", life.ended));
        }
        if is_ended(object) {
            life.ended = Some(reason.to_owned());
            if !session.is_empty() && ["Stale", "ScaledDown"].contains(&reason) {
                broken.push("ends as if it were warm".to_owned());
            }
        }
        if !session.is_empty() {
            life.session = Some(session.to_owned());
            let last = self.last.entry(session.to_owned()).or_default();
            *last = rank.clone().max(last.clone());
            let names = self.names.entry((session.to_owned(), generation)).or_default();
            names.insert(life.name.clone());
            if is_new {
                let made = self.made.entry((session.to_owned(), generation)).or_insert_with(|| life.name.clone());
                if *made != life.name {
                    broken.push(format!("is made beside {made}"));
                }
            }
        }
        life.rank = rank;
        self.broken.extend(broken.iter().map(|what| format!("{} ({session}, {reason}) {what}", life.name)));
    }

    /// Who was given more than one sandbox of a generation, though nothing went wrong that makes that right.
    pub(super) fn given_twice(&self) -> Vec<String> {
        let given = self.names.iter().filter(|(whose, names)| names.len() > 1 && !self.more_than_once.contains(*whose));
        given.map(|it| format!("given twice: {it:?}")).collect()
    }

    /// An answer names this sandbox and this pod.
    pub(super) fn given(&mut self, session: &str, generation: i64, name: &str, pod: &str) {
        self.log.push(format!("    {session} ({generation}) is given {name}, {pod}"));
        let life = self.pods.get(pod).and_then(|made| self.sandboxes.get(&made.sandbox));
        let is_own = life.is_some_and(|life| {
            life.name == name && life.session.as_deref() == Some(session) && life.rank.0 == generation
        });
        if !is_own {
            self.broken
                .push(format!("{session} ({generation}) was given {name} with the pod {pod}, which is {life:?}"));
        }
    }

    fn is_superseded(&self, uid: &str) -> bool {
        let Some(life) = self.sandboxes.get(uid) else { return false };
        life.session.as_ref().and_then(|session| self.last.get(session)).is_some_and(|last| life.rank < *last)
    }
}

impl Api {
    /// A replica's write was done. `before`: what was there.
    pub(super) fn wrote(&mut self, call: &Call, about: &Value, before: Option<&Value>) {
        let (status, pod) = (&about["status"], text(about, "/status/podUid"));
        self.story.log.push(format!(
            "    {}: {} {} {} {} {}",
            call.replica,
            call.verb,
            call.kind,
            text(about, "/metadata/name"),
            about["spec"]["session"],
            if call.is_status { format!("{} {} {pod}", status["phase"], status["endReason"]) } else { String::new() },
        ));
        if call.kind == "pods" && call.verb == Method::POST {
            self.made(call, about);
        }
        if call.verb == Method::DELETE && self.is_live(call, about) {
            self.story.broken.push(format!("{} {} is deleted, and lives", call.kind, text(about, "/metadata/name")));
        }
        if call.is_late {
            self.story.more_than_once.extend(whose(about));
        }
        let uid = match call.kind.as_str() {
            "sandboxes" => text(about, "/metadata/uid"),
            "pods" => owner_of(about),
            _ => return,
        };
        let story = &mut self.story;
        let life = story.sandboxes.entry(uid.to_owned()).or_default();
        match () {
            () if call.kind == "pods" && call.verb == Method::PATCH => {
                life.kept_in_place += 1;
                if before == Some(about) {
                    match story.repeats.checked_sub(1) {
                        Some(fewer) => story.repeats = fewer,
                        None => story.broken.push(format!("{} is kept in place again", life.name)),
                    }
                }
            }
            () => {
                life.writes += 1;
                if life.writes > WRITES + life.more {
                    story.broken.push(format!("{} writes in the life of {life:?}", life.writes));
                }
            }
        }
    }

    /// A pod is there no more. If its sandbox has not ended, and is not known to have been ready, it is made again.
    pub(super) fn went(&mut self, pod: &Value) {
        let sandbox = self.sandbox_of(pod).filter(|it| !is_ended(it) && it.pointer("/status/podUid").is_none());
        if sandbox.is_some() {
            self.story.sandboxes.entry(owner_of(pod).to_owned()).or_default().more += 1;
        }
    }

    fn is_live(&self, call: &Call, deleted: &Value) -> bool {
        match call.kind.as_str() {
            "sandboxes" => !is_ended(deleted),
            "pods" => self.sandbox_of(deleted).is_some_and(|it| !is_ended(it)),
            _ => false,
        }
    }

    fn made(&mut self, call: &Call, pod: &Value) {
        let owner = owner_of(pod).to_owned();
        let is_leaders = self.story.leader == Some(call.replica) && !call.is_late;
        let term = is_leaders.then_some(self.story.term);
        self.story.pods.insert(text(pod, "/metadata/uid").to_owned(), Made { sandbox: owner.clone(), term });
        let sandbox = self.sandbox_of(pod);
        let has_had_one = sandbox.is_none_or(|it| is_ended(it) || it.pointer("/status/podUid").is_some());
        if has_had_one {
            // Its maker did not know; it is deleted again.
            self.story.sandboxes.entry(owner).or_default().more += 2;
        }
        self.story.unknown += usize::from(!is_leaders);
        let (live, most) = (self.live_pods().count(), self.story.limit + self.story.unknown);
        if live > most {
            self.story.broken.push(format!("there are {live} pods, and may be {most}"));
        }
    }

    /// Of sandboxes that have not ended, nor are about to because their session has a later one.
    fn live_pods(&self) -> impl Iterator<Item = &Value> {
        self.all("pods").filter(|pod| {
            self.sandbox_of(pod).is_some_and(|it| !is_ended(it)) && !self.story.is_superseded(owner_of(pod))
        })
    }

    /// How many pods are there that a new leader does not see, and its predecessors made.
    pub(super) fn unseen_pods(&self, sees: impl Fn(&str) -> bool) -> usize {
        let of_others = |pod: &Value| {
            self.story.pods.get(text(pod, "/metadata/uid")).is_some_and(|made| made.term != Some(self.story.term))
        };
        self.live_pods().filter(|pod| of_others(pod) && !sees(text(pod, "/metadata/name"))).count()
    }

    pub(super) fn sandbox_of(&self, pod: &Value) -> Option<&Value> {
        let sandbox = self.get("sandboxes", text(pod, "/metadata/name"))?;
        (text(sandbox, "/metadata/uid") == owner_of(pod)).then_some(sandbox)
    }
}

/// The session and the generation.
pub(super) fn whose(sandbox: &Value) -> Option<(String, i64)> {
    Some((sandbox["spec"]["session"].as_str()?.to_owned(), sandbox["spec"]["generation"].as_i64()?))
}

pub(super) fn is_ended(sandbox: &Value) -> bool {
    text(sandbox, "/status/phase") == "Ended"
}
