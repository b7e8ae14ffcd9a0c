//! `Range: bytes=...` with one range. Pure.

/// What of a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// All; also where the header is not understood, as HTTP says.
    All,
    /// Bytes from `start`, `length` of them; never empty.
    Part { start: u64, length: u64 },
    /// Outside of the file.
    Outside,
}

pub(super) fn parse(header: Option<&str>, size: u64) -> Range {
    let Some(spec) = header.and_then(|it| it.trim().strip_prefix("bytes=")) else { return Range::All };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else { return Range::All };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(0) => Range::Outside,
            Some(_) if size == 0 => Range::Outside,
            Some(length) => Range::Part { start: size.saturating_sub(length), length: length.min(size) },
            None => Range::All,
        },
        (first, last) => match (number(first), last.is_empty(), number(last)) {
            (Some(first), true, _) if first < size => Range::Part { start: first, length: size - first },
            (Some(first), false, Some(last)) if first <= last && first < size => {
                Range::Part { start: first, length: last.min(size - 1) - first + 1 }
            }
            (Some(_), true, _) => Range::Outside,
            (Some(first), false, Some(last)) if first <= last => Range::Outside,
            _ => Range::All,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let part = |start, length| Range::Part { start, length };
        for (header, expected) in [
            ("bytes=0-3", part(0, 4)),
            ("bytes=8-", part(8, 2)),
            ("bytes=9-99", part(9, 1)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=10-", Range::Outside),
            ("bytes=10-12", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=3-1", Range::All),
            ("bytes=0-1,3-4", Range::All),
            ("bytes=a-b", Range::All),
            ("lines=0-1", Range::All),
        ] {
            assert_eq!(parse(Some(header), 10), expected, "{header}");
        }
        assert_eq!(parse(None, 10), Range::All);
        assert_eq!(parse(Some("bytes=-1"), 0), Range::Outside);
    }
}
