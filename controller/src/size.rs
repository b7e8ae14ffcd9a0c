//! How many warm sandboxes a pool should have: as many as are claimed while one starts, with a margin. Pure.
//!
//! All it looks at is written on the sandboxes, so that every leader comes to the same number.
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// Claims of so long ago tell how many are usual.
const USUAL: Duration = Duration::from_secs(600);
/// Claims of so long ago tell of a rush.
const RUSH: Duration = Duration::from_secs(60);
/// A start that nothing is known about yet takes so long.
const UNKNOWN_START: Duration = Duration::from_secs(10);

/// The pool's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
}

/// A number, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub warm: u32,
    pub why: String,
}

/// The number of warm sandboxes that is wanted now. `starts`: how long recent ones took to be ready.
pub fn target(bounds: Bounds, claims: &[Timestamp], starts: &[Duration], now: Timestamp) -> Target {
    let since = |span: Duration| claims.iter().filter(|claim| is_within(**claim, span, now)).count() as f64;
    let rate = (since(USUAL) / USUAL.as_secs_f64()).max(since(RUSH) / RUSH.as_secs_f64());
    let start = slow(starts).unwrap_or(UNKNOWN_START);
    // Little's law: so many are claimed while one starts. Claims come by chance: twice the spread on top.
    let meanwhile = rate * start.as_secs_f64();
    let wanted = if rate == 0.0 { 0.0 } else { (meanwhile + 2.0 * meanwhile.sqrt()).ceil() };
    let wanted = if wanted >= f64::from(bounds.max) { bounds.max } else { wanted as u32 };
    let warm = wanted.clamp(bounds.min, bounds.max.max(bounds.min));
    let claimed = format!("{:.1} claims a minute, a start takes {:.1} s", rate * 60.0, start.as_secs_f64());
    let why = match () {
        () if rate == 0.0 => "no claims lately: the least".to_owned(),
        () if wanted < bounds.min => format!("{claimed}: the least"),
        () if wanted >= bounds.max && bounds.max > bounds.min => format!("{claimed}: the most"),
        () => claimed,
    };
    Target { warm, why }
}

/// When the target may fall next, without a new claim.
pub fn next_look() -> Duration {
    RUSH / 2
}

fn is_within(claim: Timestamp, span: Duration, now: Timestamp) -> bool {
    let age = now.duration_since(claim);
    // A clock that runs ahead makes it a claim of now.
    age.is_negative() || age.unsigned_abs() <= span
}

/// A start that is slower than nine of ten.
fn slow(starts: &[Duration]) -> Option<Duration> {
    let mut sorted = starts.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().saturating_sub(1) * 9 / 10).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { min: 2, max: 50 };

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn every(seconds: i64, count: i64) -> Vec<Timestamp> {
        (1..=count).map(|n| Timestamp::from_second(1_000_000 - n * seconds).unwrap()).collect()
    }

    #[test]
    fn without_claims_it_is_the_least() {
        assert_eq!(target(BOUNDS, &[], &[], now()), Target { warm: 2, why: "no claims lately: the least".into() });
        assert_eq!(target(BOUNDS, &every(700, 100), &[], now()).warm, 2, "claims of long ago");
    }

    #[test]
    fn it_is_what_is_claimed_while_one_starts_and_a_margin() {
        let starts = [Duration::from_secs(20)];
        // One every four seconds: five while one starts.
        let usual = target(BOUNDS, &every(4, 150), &starts, now());
        assert_eq!((usual.warm, usual.why.as_str()), (10, "15.0 claims a minute, a start takes 20.0 s"));
        // The same for the last minute alone.
        assert_eq!(target(BOUNDS, &every(4, 15), &starts, now()).warm, 10);
        let most = target(BOUNDS, &every(1, 600), &[Duration::from_secs(60)], now());
        assert_eq!((most.warm, most.why.ends_with("the most")), (50, true));
    }

    #[test]
    fn one_slow_start_of_many_is_not_the_usual() {
        let mut starts = vec![Duration::from_secs(2); 19];
        starts.push(Duration::from_secs(300));
        assert_eq!(slow(&starts), Some(Duration::from_secs(2)));
        assert_eq!(slow(&[]), None);
    }

    proptest! {
        #[test]
        fn it_keeps_to_its_bounds_and_more_claims_never_make_it_less(
            min in 0u32..20, more in 0u32..50, claims in prop::collection::vec(-100i64..1000, 0..200), start in 0u64..4000,
        ) {
            let bounds = Bounds { min, max: min + more };
            let times: Vec<_> = claims.iter().map(|age| Timestamp::from_second(1_000_000 - age).unwrap()).collect();
            let starts = [Duration::from_secs(start)];
            let all = target(bounds, &times, &starts, now()).warm;
            prop_assert!((bounds.min..=bounds.max).contains(&all));
            let half = target(bounds, &times[..times.len() / 2], &starts, now()).warm;
            prop_assert!(half <= all);
        }
    }
}
