//! What can happen, to whom, and how often.
use proptest::prelude::*;

use super::{replica::KINDS, wire::Fault};

pub(super) const SESSIONS: usize = 3;

/// Numbers of pods and sandboxes are places among those that are there, counted around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    /// The session needs a new sandbox and asks the replica.
    Ask(usize, usize),
    /// It got no answer and asks again, as a later generation. True: the first replica does not know that it was given up.
    AskAgain(usize, usize, bool),
    /// Another gateway asks for what the session has.
    Find(usize, usize),
    /// The answer that is on its way is lost.
    Lose(usize),
    HangUp(usize),
    Release(usize, usize),
    /// So many events of a kind reach the replica.
    Watch(usize, &'static str, usize),
    WatchAll(usize),
    /// The replica begins to list a kind anew.
    List(usize, &'static str),
    ListToEnd(usize, &'static str),
    Restart(usize),
    /// The replica leads from now on. True: its watch has shown all that its predecessor wrote.
    Lead(usize, bool),
    Plan,
    CarryOut,
    /// The leader knows all, plans and carries it out, as it mostly does.
    Look,
    /// It leads no more, and carries out what it planned then. True: it does not know.
    CarryOutLate(usize, bool),
    Schedule(usize),
    Start(usize),
    StartAll,
    Die(usize),
    /// Somebody deletes the pod.
    Kill(usize),
    /// It is gone without a word.
    Vanish(usize),
    NodeGone,
    /// What was told to end has ended.
    Finish,
    DeleteSandbox(usize),
    CollectGarbage,
    /// The pool's least, and the limit of all.
    Scale(u32, u32),
    Template(u32),
    Fault(usize, Fault),
    /// Nobody uses the sandbox any more.
    Idle(usize),
    Later(u64),
}

pub(super) fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    prop::collection::vec(happening(), 0..70)
}

fn happening() -> impl Strategy<Value = Happening> {
    let (session, replica, any) = (0..SESSIONS, 0..2usize, 0..6usize);
    let kind = prop::sample::select(KINDS.to_vec());
    prop_oneof![
        8 => (session.clone(), replica.clone()).prop_map(|(session, on)| Happening::Ask(session, on)),
        5 => (session.clone(), replica.clone(), prop::bool::weighted(0.3))
            .prop_map(|(session, on, parted)| Happening::AskAgain(session, on, parted)),
        3 => (session.clone(), replica.clone()).prop_map(|(session, on)| Happening::Find(session, on)),
        2 => session.clone().prop_map(Happening::Lose),
        2 => session.clone().prop_map(Happening::HangUp),
        2 => (session, replica.clone()).prop_map(|(session, on)| Happening::Release(session, on)),
        12 => (replica.clone(), kind.clone(), 1..5usize).prop_map(|(on, kind, many)| Happening::Watch(on, kind, many)),
        8 => replica.clone().prop_map(Happening::WatchAll),
        2 => (replica.clone(), kind.clone()).prop_map(|(on, kind)| Happening::List(on, kind)),
        2 => (replica.clone(), kind).prop_map(|(on, kind)| Happening::ListToEnd(on, kind)),
        1 => replica.clone().prop_map(Happening::Restart),
        3 => (replica.clone(), prop::bool::weighted(0.6)).prop_map(|(on, knows)| Happening::Lead(on, knows)),
        8 => Just(Happening::Plan),
        8 => Just(Happening::CarryOut),
        20 => Just(Happening::Look),
        2 => (replica.clone(), prop::bool::weighted(0.8)).prop_map(|(on, believes)| Happening::CarryOutLate(on, believes)),
        2 => any.clone().prop_map(Happening::Schedule),
        4 => any.clone().prop_map(Happening::Start),
        8 => Just(Happening::StartAll),
        1 => any.clone().prop_map(Happening::Die),
        1 => any.clone().prop_map(Happening::Kill),
        2 => any.clone().prop_map(Happening::Vanish),
        1 => Just(Happening::NodeGone),
        4 => Just(Happening::Finish),
        1 => any.clone().prop_map(Happening::DeleteSandbox),
        2 => Just(Happening::CollectGarbage),
        2 => (0..4u32, 2..6u32).prop_map(|(min, limit)| Happening::Scale(min.min(limit), limit)),
        1 => (0..3u32).prop_map(Happening::Template),
        5 => (replica, fault()).prop_map(|(on, fault)| Happening::Fault(on, fault)),
        2 => any.prop_map(Happening::Idle),
        4 => prop::sample::select(vec![1, 6, 30, 400, 1000]).prop_map(Happening::Later),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    use Fault::*;
    prop::sample::select(vec![Fails, Silence, AnswerLost, SilenceAfter, Slow, Slow, Late, Refused])
}
