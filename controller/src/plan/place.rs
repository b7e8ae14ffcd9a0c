//! Sessions that wait for a place while warm sandboxes have some: how many of these have to give way. Pure.
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kernelbox_api::Phase;

use super::{One, World, key, soon};
use crate::{
    life::rest,
    pod::observe::{Observed, observe},
};

/// A session waits for so long before a warm one goes.
const PATIENCE: Duration = Duration::from_secs(5);
/// A place that has become free may be a waiting one's by then.
const TAKEN: Duration = Duration::from_secs(15);

/// `is_full`: the pool's limit alone keeps pods from being made. `look_again`: when there may be more.
pub(super) fn wanted(
    all: &[One<'_>],
    live: &[&One<'_>],
    is_full: bool,
    world: &World,
    now: Timestamp,
    look_again: &mut Option<Duration>,
) -> usize {
    let mut is_over = |since: Timestamp, span: Duration| match rest(now, since, span) {
        Some(rest) => {
            soon(look_again, rest);
            false
        }
        None => true,
    };
    let waiting = live.iter().filter(|it| !it.is_warm).filter_map(|it| waits_since(it, is_full, world));
    let waiting = waiting.filter(|since| is_over(*since, PATIENCE)).count();
    if waiting == 0 {
        return 0;
    }
    let ended = all.iter().filter(|it| it.phase == Some(Phase::Ended));
    let coming = ended.filter(|it| {
        let ended = it.sandbox.status.as_ref().and_then(|status| status.stages.ended.as_ref());
        it.has_pod || ended.is_some_and(|ended| !is_over(ended.0, TAKEN))
    });
    waiting.saturating_sub(coming.count())
}

/// Since when the session has been waiting for what another sandbox may have: a node's room, or a place within the limit.
fn waits_since(it: &One<'_>, is_full: bool, world: &World) -> Option<Timestamp> {
    let time = match world.pods.get(key(it.sandbox)) {
        Some(pod) => match observe(pod) {
            Observed::Scheduling(words) if !words.is_empty() => pod.metadata.creation_timestamp.as_ref(),
            _ => None,
        },
        None if is_full && it.waits() => it.sandbox.metadata.creation_timestamp.as_ref(),
        None => None,
    };
    time.map(|time| time.0)
}
