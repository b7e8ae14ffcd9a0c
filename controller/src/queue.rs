//! Who is next: sandboxes that wait for a pod, in an order that is fair between tenants. Pure.
use std::collections::{BTreeSet, HashMap, VecDeque};

use k8s_openapi::jiff::Timestamp;

/// A sandbox that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub name: String,
    pub tenant: String,
    pub since: Timestamp,
}

/// The order in which they get pods. The next is always one of the tenant that holds least, counting those that are before it here; of
/// such tenants the one that waits longest.
///
/// `held`: how many sandboxes each tenant has.
pub fn order(waiting: impl IntoIterator<Item = Waiting>, held: &HashMap<String, usize>) -> Vec<Waiting> {
    let mut all: Vec<_> = waiting.into_iter().collect();
    all.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    let mut order = Vec::with_capacity(all.len());
    let mut of_tenant: HashMap<String, VecDeque<Waiting>> = HashMap::new();
    for one in all {
        of_tenant.entry(one.tenant.clone()).or_default().push_back(one);
    }
    let mut tenants: BTreeSet<(usize, Timestamp, String)> = of_tenant
        .iter()
        .filter_map(|(tenant, own)| Some((held.get(tenant).copied().unwrap_or(0), own.front()?.since, tenant.clone())))
        .collect();
    while let Some((count, _, tenant)) = tenants.pop_first() {
        let Some(own) = of_tenant.get_mut(&tenant) else { continue };
        order.extend(own.pop_front());
        if let Some(next) = own.front() {
            tenants.insert((count + 1, next.since, tenant));
        }
    }
    order
}

/// What a template's pods may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Pods that start now, and how many may.
    pub pending: usize,
    pub max_pending: usize,
    /// Sandboxes with pods in all, and how many there may be.
    pub live: usize,
    pub limit: Option<usize>,
}

impl Room {
    pub fn is_full(self) -> bool {
        self.limit.is_some_and(|limit| self.live >= limit)
    }

    /// How many more pods there may be.
    pub fn left(self) -> usize {
        let pending = self.max_pending.saturating_sub(self.pending);
        self.limit.map_or(pending, |limit| pending.min(limit.saturating_sub(self.live)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(name: &str, tenant: &str, second: i64) -> Waiting {
        Waiting { name: name.into(), tenant: tenant.into(), since: Timestamp::from_second(second).unwrap() }
    }

    fn names(order: &[Waiting]) -> Vec<&str> {
        order.iter().map(|it| it.name.as_str()).collect()
    }

    #[test]
    fn a_tenant_that_asks_for_many_does_not_hold_up_one_that_asks_for_one() {
        let many = (0..4).map(|n| waiting(&format!("a{n}"), "a", n));
        let order = order(many.chain([waiting("b0", "b", 9)]), &HashMap::new());
        assert_eq!(names(&order), ["a0", "b0", "a1", "a2", "a3"]);
    }

    #[test]
    fn who_holds_least_is_next() {
        let held = HashMap::from([("a".to_owned(), 2)]);
        let order =
            order([waiting("a0", "a", 0), waiting("b0", "b", 5), waiting("b1", "b", 6), waiting("b2", "b", 7)], &held);
        assert_eq!(names(&order), ["b0", "b1", "a0", "b2"]);
    }

    #[test]
    fn room_is_the_lesser_of_what_may_start_and_what_may_be() {
        let room = Room { pending: 3, max_pending: 10, live: 18, limit: Some(20) };
        assert_eq!(room.left(), 2);
        assert_eq!(Room { limit: None, ..room }.left(), 7);
        assert_eq!(Room { pending: 12, ..room }.left(), 0);
        assert_eq!(Room { live: 25, ..room }.left(), 0);
    }

    proptest! {
        #[test]
        fn all_have_a_place_and_no_tenant_is_two_ahead_of_one_that_waits(
            tenants in prop::collection::vec((0u8..4, 0i64..50), 0..40), held in prop::collection::vec(0usize..5, 4),
        ) {
            let all: Vec<_> = tenants.iter().enumerate()
                .map(|(n, (tenant, second))| waiting(&format!("s{n}"), &tenant.to_string(), *second)).collect();
            let holds: HashMap<_, _> = held.iter().enumerate().map(|(n, count)| (n.to_string(), *count)).collect();
            let order = order(all.clone(), &holds);
            let mut sorted = names(&order);
            sorted.sort_unstable();
            let mut expected = names(&all);
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
            let mut count = holds;
            for (place, one) in order.iter().enumerate() {
                let least = order[place..].iter().map(|it| count.get(&it.tenant).copied().unwrap_or(0)).min().unwrap();
                prop_assert_eq!(count.get(&one.tenant).copied().unwrap_or(0), least);
                *count.entry(one.tenant.clone()).or_default() += 1;
            }
        }
    }
}
