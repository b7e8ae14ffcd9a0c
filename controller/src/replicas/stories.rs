//! What went wrong once, and what would without its guard: each a sequence of few happenings.
use super::{
    check,
    happenings::Happening::{self, *},
    run::Run,
    wire::Fault::AnswerLost,
};

/// A pool of none, and nothing warm.
const NOTHING_WARM: [Happening; 6] = [Scale(0, 2), Later(1000), Look, Look, Finish, Look];

#[test]
fn the_end_of_a_pod_is_not_forgotten_when_the_watch_is_faster_than_the_answer() {
    let slow = Fault(0, super::wire::Fault::Slow);
    check(&[Ask(0, 0), Release(0, 0), WatchAll(0), Plan, slow, CarryOut, Finish, WatchAll(0)]);
}

#[test]
fn a_claim_whose_answer_is_lost_is_not_followed_by_another() {
    // The other replica hears of the first claim alone.
    check(&[Fault(0, AnswerLost), Ask(0, 0), Later(2), Later(2), Watch(1, "sandboxes", 1), Find(0, 1)]);
}

#[test]
fn a_pod_whose_making_is_not_answered_counts() {
    let story = [
        // One session has one of two, and another waits for the second.
        &[Ask(0, 0)][..],
        &NOTHING_WARM,
        &[WatchAll(1), Ask(2, 0), Fault(0, AnswerLost), Plan, CarryOut],
        // A tenant that has none yet is before it.
        &[Ask(1, 1), Watch(0, "sandboxes", 9), Plan, CarryOut],
    ];
    check(&story.concat());
}

#[test]
fn a_new_leader_that_hears_of_the_end_of_a_pod_first_does_not_put_another_in_its_place() {
    let story = [
        // It knows of a sandbox, and not that it was ready.
        &[Scale(3, 4), WatchAll(1), Look, Watch(1, "sandboxes", 1), Look, StartAll, Look][..],
        &[Vanish(0), Vanish(0), Vanish(0), Watch(1, "pods", 20), Lead(1, false), Plan, CarryOut, StartAll],
    ];
    check(&story.concat());
}

#[test]
fn a_lower_generation_ends_though_the_higher_one_has_ended_before() {
    check(&[WatchAll(1), Ask(0, 0), Ask(0, 1), Release(0, 1)]);
}

#[test]
fn what_a_replica_gives_that_was_given_up_does_not_end_what_the_session_has() {
    let story = [
        // The first replica is asked and does nothing yet; the second one gives.
        &[WatchAll(1), Fault(0, super::wire::Fault::Late), Ask(0, 0), AskAgain(0, 1, true), Later(6), Later(6)][..],
        &[WatchAll(0), WatchAll(1), Look, Look, Later(30), Look],
    ];
    check(&story.concat());
}

#[test]
fn one_that_waits_is_waited_for_by_the_next_ask() {
    super::runtime().block_on(async {
        let mut run = Run::new().await;
        for happening in [&NOTHING_WARM[..], &[Ask(0, 0), Look, AskAgain(0, 1, false), WatchAll(1), Look]].concat() {
            run.happens(happening).await;
        }
        let api = run.server.api();
        let whose: Vec<_> = api.all("sandboxes").filter_map(super::holds::whose).collect();
        assert_eq!(whose, [("sessions/s0".to_owned(), 2)], "it keeps its place");
    });
}

#[test]
fn it_is_counted_where_sandboxes_came_from_and_why_they_ended() {
    super::runtime().block_on(async {
        let mut run = Run::new().await;
        let story = [
            &[Ask(0, 0), Find(0, 0), Release(0, 0)][..],
            &NOTHING_WARM,
            &[Ask(1, 0), Look, StartAll, Look],
            // Another generation of the session ends the one of before.
            &[Ask(1, 0), Look, StartAll, Look, Look],
        ];
        for happening in story.concat() {
            run.happens(happening).await;
        }
        let counted = run.replicas[0].leader.metrics.book().text().unwrap();
        for line in [
            "kernelbox_acquire_seconds_count{source=\"warm\"} 1",
            "kernelbox_acquire_seconds_count{source=\"existing\"} 1",
            "kernelbox_acquire_seconds_count{source=\"cold\"} 2",
            "kernelbox_sandboxes_ended_total{reason=\"Released\"} 1",
            "kernelbox_sandboxes_ended_total{reason=\"Superseded\"} 1",
            "kernelbox_sandboxes_ended_total{reason=\"IdleTimeout\"} 0",
            "kernelbox_api_writes_total{outcome=\"ok\",resource=\"sandboxes\",verb=\"patch\"} 1",
            "kernelbox_acquires_waiting 0",
        ] {
            assert!(counted.lines().any(|it| it == line), "{line}\n{counted}");
        }
    });
}

#[test]
fn one_that_does_not_know_all_yet_makes_nothing() {
    let (template, pool) = ("sandboxtemplates", "sandboxpools");
    let story = [
        &[Scale(2, 2), Restart(0), List(0, template), ListToEnd(0, template), List(0, pool), ListToEnd(0, pool)][..],
        &[List(0, "networkpolicies"), ListToEnd(0, "networkpolicies"), Lead(0, false)],
        &[Plan, CarryOut, Plan, CarryOut],
    ];
    check(&story.concat());
}

#[test]
fn what_is_known_late_is_not_made_again() {
    // A claim and its pool's answer to it, of which no watch tells.
    check(&[Ask(0, 0), Plan, CarryOut, Plan, CarryOut, Plan, CarryOut]);
}

#[test]
fn an_old_plan_does_not_bring_back_what_has_ended() {
    let story = [
        // It is ready; that is planned, and told by another who ends it then.
        &NOTHING_WARM[..],
        &[Ask(0, 0), Look, StartAll, WatchAll(0), Plan, Lead(1, true), Look, Ask(0, 1), WatchAll(1), Look],
        &[CarryOutLate(0, true)],
    ];
    check(&story.concat());
}

#[test]
fn a_leader_writes_nothing_more_once_its_lease_ends() {
    let runtime = super::runtime();
    for believes in [false, true] {
        runtime.block_on(async {
            let mut run = Run::new().await;
            let version = |run: &Run| run.server.api().story.log.len();
            for happening in [Scale(3, 4), Plan, Lead(1, true)] {
                run.happens(happening).await;
            }
            let before = version(&run);
            run.happens(CarryOutLate(0, believes)).await;
            assert_eq!(version(&run) > before, believes);
        });
    }
}
