//! Which key signs, which are kept, and when a new one is due. Pure.
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::Stored;

/// A key is replaced after so long.
const ROTATE: Duration = Duration::from_hours(24);
/// Sandboxes have a new key by then: a node brings config maps up to date within two minutes.
const PUBLISHED: Duration = Duration::from_mins(10);
/// The last token of a key has ended so long after the next key signs.
const LAST_TOKEN: Duration = Duration::from_mins(10);

/// What becomes of the keys.
pub(super) struct Kept<'a> {
    pub keys: Vec<&'a Stored>,
    pub wants_new: bool,
}

/// The key that signs now: the newest that every sandbox knows, or the oldest while there is none.
pub(super) fn signing(keys: &[Stored], now: Timestamp) -> Option<&Stored> {
    let known = keys.iter().filter(|key| is_past(key.created, PUBLISHED, now)).max_by_key(|key| key.created);
    known.or_else(|| keys.iter().min_by_key(|key| key.created))
}

pub(super) fn kept(keys: &[Stored], now: Timestamp) -> Kept<'_> {
    let newest = keys.iter().map(|key| key.created).max();
    let signs = signing(keys, now).map(|key| key.created);
    let may_go =
        |key: &Stored| signs.is_some_and(|signs| key.created < signs && is_past(signs, PUBLISHED + LAST_TOKEN, now));
    Kept {
        keys: keys.iter().filter(|key| !may_go(key)).collect(),
        wants_new: newest.is_none_or(|newest| is_past(newest, ROTATE, now)),
    }
}

fn is_past(since: Timestamp, span: Duration, now: Timestamp) -> bool {
    SignedDuration::try_from(span).is_ok_and(|span| now.duration_since(since) >= span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str, second: i64) -> Stored {
        let created = Timestamp::from_second(second).unwrap();
        Stored { kid: kid.into(), private: k8s_openapi::ByteString(Vec::new()), created }
    }

    fn look(keys: &[Stored], second: i64) -> (Option<&str>, Vec<&str>, bool) {
        let now = Timestamp::from_second(second).unwrap();
        let kept = kept(keys, now);
        let names = kept.keys.iter().map(|key| key.kid.as_str()).collect();
        (signing(keys, now).map(|key| key.kid.as_str()), names, kept.wants_new)
    }

    #[test]
    fn the_first_key_signs_at_once() {
        assert_eq!(look(&[], 0), (None, vec![], true));
        assert_eq!(look(&[key("a", 0)], 1), (Some("a"), vec!["a"], false));
    }

    #[test]
    fn a_new_key_signs_when_it_is_known_and_the_old_one_goes_when_its_tokens_have_ended() {
        const DAY: i64 = 86_400;
        assert_eq!(look(&[key("a", 0)], DAY), (Some("a"), vec!["a"], true));
        let both = [key("a", 0), key("b", DAY)];
        assert_eq!(look(&both, DAY + 599), (Some("a"), vec!["a", "b"], false));
        assert_eq!(look(&both, DAY + 600), (Some("b"), vec!["a", "b"], false));
        assert_eq!(look(&both, DAY + 1199), (Some("b"), vec!["a", "b"], false));
        assert_eq!(look(&both, DAY + 1200), (Some("b"), vec!["b"], false));
    }
}
