//! Two replicas and one API server: whatever happens to them, sessions are kept apart and nothing is left behind.
//!
//! Real are the caches, the allocator as gateways call it, the leader's plan and how it carries it out, and the client. The API server, the
//! node, the watch and the gateways are models. Time is tokio's, stopped, and the time of day goes with it (`clock`).
//!
//! What holds, always:
//! - A sandbox' session never changes, its generation never falls, it ends once, and only warm ones end as stale or scaled down.
//! - An answer names a sandbox that is the asking session's, of the generation that asked, and the pod that was made for it.
//! - **One writer.** A session writes from the answer that it took for its present generation. Its row fences lower ones, whatever still
//!   lives; so two could write only within one generation. There one asks and takes one answer, and others only look for what it took: they
//!   are told of that one or of none. One ask is never given two sandboxes, however many of its answers are lost. What the session writes
//!   from never ends as superseded.
//!   - Who gets no answer asks again as a later generation, and what became of the earlier ask is that one's. Whatever else may come of it,
//!     from a replica that does not know that it was given up, is out of date.
//!   - A claim that its caller gave up (`WRITE_LIMIT`), and that is done later even so, may be a second one of its ask.
//! - **The limit.** No pod is made while as many are there as the leader's plan may have: those whose sandbox has ended or is superseded do
//!   not count, as their end is written already or is in the same plan. Beyond it are the pods that it cannot know of: of a leader before
//!   it, while the watch is late, and by writes that were done when their caller had given them up, or by one who leads no more and does not
//!   know. No guard keeps these, as no write can be guarded by a count; the lease does: writes end before it.
//! - Nothing that lives is deleted: neither a sandbox that has not ended, nor its pod.
//! - Seven writes a life, and one that keeps the pod in place. One more for each ask that was not answered, and where somebody took the pod
//!   away before it was known to be ready; two where a pod was made, and deleted, by one who did not know that there had been one; and that
//!   it is kept in place may be written again by who does not know of the first time. What failed does not count.
//!
//! Once all is told and done: the leader rests; no session has two that live, nor one of a lower generation than its last; ready ones have
//! their own pods; who waits, waits for something that is there. In the end nothing is there but the pool, and without it nothing at all.
//!
//! Names and picks are random, as they are in the cluster: a failure may have to be tried more than once to be seen again.
mod api;
mod gateway;
mod happenings;
mod holds;
mod replica;
mod run;
mod settle;
mod stories;
mod wire;

use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use self::{
    happenings::{Happening, happenings},
    run::Run,
};

/// Its time passes when nothing else can happen.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn check(happenings: &[Happening]) {
    runtime().block_on(async {
        let mut run = Run::new().await;
        for happening in happenings {
            run.server.api().story.log.push(format!("{happening:?}"));
            run.happens(*happening).await;
            run.expect_all_holds("at any time");
        }
        run.settle().await;
        run.expect_rest("all was told and done");
        run.end().await;
        run.expect_rest("nothing is used any more");
        let pool = run.least();
        run.expect_there([pool, pool, 1], "the pool remains");
        run.delete_all().await;
        run.expect_there([0; 3], "nothing remains");
    });
}

/// So many that it is quick; more where they are asked for.
fn config() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(32),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..config() })]
    #[test]
    fn whatever_happens_sessions_are_kept_apart_and_nothing_is_left_behind(happenings in happenings()) {
        check(&happenings);
    }
}
