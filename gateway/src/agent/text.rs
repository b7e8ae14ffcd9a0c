//! Text for a model, kept within a size: its beginning and its end say the most. Pure.

/// The beginning and the end of a text that comes in pieces, however long it is.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// Bytes of the beginning, and of the end.
    half: usize,
    head: String,
    /// Grows to twice its share before it is cut, so that each byte is moved once at most.
    tail: String,
    left_out: u64,
}

impl Ends {
    /// Keeps about `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { half: limit.div_ceil(2), head: String::new(), tail: String::new(), left_out: 0 }
    }

    pub(super) fn push(&mut self, text: &str) {
        let mut rest = text;
        if self.tail.is_empty() && self.left_out == 0 {
            let (first, more) = text.split_at(text.floor_char_boundary(self.half - self.head.len()));
            self.head.push_str(first);
            rest = more;
        }
        self.tail.push_str(rest);
        if self.tail.len() > self.half.saturating_mul(2) {
            let start = self.tail.ceil_char_boundary(self.tail.len() - self.half);
            self.tail.drain(..start);
            self.left_out += start as u64;
        }
    }

    /// What `other` kept, at the end of this, with what it left out.
    pub(super) fn append(&mut self, other: &Self) {
        self.push(&other.head);
        if other.left_out > 0 {
            self.left_out += self.tail.len() as u64 + other.left_out;
            self.tail.clear();
        }
        self.push(&other.tail);
    }

    pub(super) fn clear(&mut self) {
        self.head.clear();
        self.tail.clear();
        self.left_out = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty() && self.left_out == 0
    }

    /// The text, in at most `limit` bytes; where that is too few, the middle is replaced by a line that says how much is missing.
    pub(super) fn within(&self, limit: usize) -> String {
        let kept = self.head.len() + self.tail.len();
        if self.left_out == 0 && kept <= limit {
            return format!("{}{}", self.head, self.tail);
        }
        let whole = self.left_out + kept as u64;
        let marker = |missing| format!("\n[... {missing} of {whole} bytes left out here ...]\n");
        let Some(room) = limit.checked_sub(marker(whole).len()) else {
            return self.head[..self.head.floor_char_boundary(limit)].to_owned();
        };
        // The tail has nothing while everything fits the head.
        let both = [self.head.as_str(), self.tail.as_str()];
        let (head, tail) = if self.tail.is_empty() { (both[0], both[0]) } else { (both[0], both[1]) };
        let head = &head[..head.floor_char_boundary(room / 2)];
        let tail = &tail[tail.ceil_char_boundary(tail.len().saturating_sub(room - room / 2))..];
        format!("{head}{}{tail}", marker(whole - (head.len() + tail.len()) as u64))
    }
}

/// The text in at most `limit` bytes, cut in the middle.
pub(super) fn middle_cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut ends = Ends::new(limit.max(64));
    ends.push(text);
    ends.within(limit)
}

/// The text in at most `limit` bytes, cut at its end.
pub(super) fn end_cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(limit.saturating_sub(3))])
}

/// A name or a path: on one line, in at most `limit` bytes.
pub(super) fn one_line(text: &str, limit: usize) -> String {
    end_cut(&text.replace(char::is_control, "?"), limit)
}

/// A size in words, for example `9.1 KiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = "bytes";
    let mut tenths = bytes.saturating_mul(10);
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if tenths < 10_240 {
            break;
        }
        unit = larger;
        tenths = tenths.div_ceil(1024);
    }
    match unit {
        "bytes" => format!("{bytes} bytes"),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_words() {
        let sizes = [0, 1023, 1024, 1100, 9318, 1 << 20, (1 << 20) + 1, 5 << 30];
        let words = sizes.map(size);
        assert_eq!(words, ["0 bytes", "1023 bytes", "1.0 KiB", "1.1 KiB", "9.1 KiB", "1.0 MiB", "1.1 MiB", "5.0 GiB"]);
    }

    #[test]
    fn the_marker_says_how_much_is_missing() {
        let text = format!("begin{}end", "x".repeat(10_000));
        let cut = middle_cut(&text, 200);
        assert!(cut.starts_with("beginx") && cut.ends_with("xend") && cut.len() <= 200, "{cut}");
        let missing = 10_008 - cut.replace("of 10008 bytes left out here", "").matches(['x', 'b', 'e']).count();
        assert!(cut.contains("of 10008 bytes left out here"), "{cut}");
        assert!(missing > 9_800);
    }

    #[test]
    fn a_gigabyte_takes_no_memory() {
        let mut ends = Ends::new(1000);
        let piece = "0123456789abcdef\n".repeat(4096);
        for _ in 0..16_384 {
            ends.push(&piece);
        }
        assert!(ends.head.capacity() + ends.tail.capacity() < 1 << 20);
        assert!(ends.within(1000).contains(&format!("of {} bytes", 16_384 * piece.len())));
    }

    proptest! {
        #[test]
        fn pieces_are_one_text(pieces in prop::collection::vec("\\PC{0,40}", 0..20), limit in 0usize..300) {
            let whole = pieces.concat();
            let mut ends = Ends::new(limit);
            pieces.iter().for_each(|piece| ends.push(piece));
            let shown = ends.within(limit);
            prop_assert!(shown.len() <= limit);
            if whole.len() <= limit {
                prop_assert_eq!(shown, whole);
            } else if let Some((head, rest)) = shown.split_once("\n[... ") {
                let (missing, rest) = rest.split_once(" of ").unwrap();
                let (total, tail) = rest.split_once(" bytes left out here ...]\n").unwrap();
                prop_assert!(whole.starts_with(head) && whole.ends_with(tail));
                prop_assert_eq!(missing.parse::<usize>().unwrap(), whole.len() - head.len() - tail.len());
                prop_assert_eq!(total.parse::<usize>().unwrap(), whole.len());
            }
        }

        #[test]
        fn a_text_in_two_is_the_same(one in "\\PC{0,200}", two in "\\PC{0,200}", limit in 100usize..200) {
            let (mut whole, mut first, mut second) = (Ends::new(limit), Ends::new(limit), Ends::new(limit));
            whole.push(&one);
            whole.push(&two);
            first.push(&one);
            second.push(&two);
            first.append(&second);
            prop_assert_eq!(whole.within(limit), first.within(limit));
        }
    }
}
