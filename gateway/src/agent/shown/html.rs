//! The text of HTML, for displays that have nothing better. Pure.
//!
//! It makes no claim to safety: what it gives goes to a model, never to a page.

/// Elements whose content is not text for readers.
const SILENT: [&str; 4] = ["script", "style", "head", "template"];
/// Elements that begin or end a line.
const BLOCKS: [&str; 16] =
    ["br", "p", "div", "tr", "table", "li", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "section"];
const ENTITIES: [(&str, &str); 6] =
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&nbsp;", " "), ("&amp;", "&")];

/// Words and line breaks; table cells are set apart.
pub(super) fn text(html: &str) -> String {
    let mut raw = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once('<') {
        raw.push_str(&words(before));
        if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        // A "<" that opens nothing is text.
        if !after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!') {
            raw.push('<');
            rest = after;
            continue;
        }
        let (tag, after) = after.split_once('>').unwrap_or((after, ""));
        let name = tag.trim_start_matches('/').split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        rest = match SILENT.contains(&name.as_str()) && !tag.starts_with('/') {
            true => after_end(after, &name),
            false => after,
        };
        match name.as_str() {
            "td" | "th" if tag.starts_with('/') => raw.push('\t'),
            name if BLOCKS.contains(&name) => raw.push('\n'),
            _ => {}
        }
    }
    raw.push_str(&words(rest));
    let lines = raw.lines().map(str::trim).filter(|line| !line.is_empty());
    ENTITIES.iter().fold(lines.collect::<Vec<_>>().join("\n"), |text, (name, sign)| text.replace(name, sign))
}

/// Line breaks of the source mean no more than spaces.
fn words(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_whitespace() {
            true if spaced.ends_with(' ') => {}
            true => spaced.push(' '),
            false => spaced.push(c),
        }
    }
    spaced
}

/// What follows the end of an element.
fn after_end<'a>(text: &'a str, name: &str) -> &'a str {
    let mut ends = text.match_indices("</").map(|(at, _)| &text[at + 2..]);
    let end = ends.find(|rest| rest.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name)));
    end.and_then(|rest| rest.split_once('>')).map_or("", |(_, after)| after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_keeps_its_lines_and_cells() {
        let html = "<style>td { color: red }</style>\n<table border=1>\n <tr><th>a</th>\n<th>b</th></tr><tr><td>1</td><td>x &lt; \
                    &amp;y</td></tr></table><SCRIPT>alert('<p>')</SCRIPT> end<!-- no -->";
        assert_eq!(text(html), "a\t b\n1\tx < &y\nend");
    }

    #[test]
    fn what_is_no_tag_is_text() {
        assert_eq!(text("1 < 2 and <b>bold</b>"), "1 < 2 and bold");
        assert_eq!(text("a<br/>b<p>c</p>"), "a\nb\nc");
        assert_eq!(text("<script>never ends"), "");
        assert_eq!(text("open <"), "open <");
        assert_eq!(text("<div class='x"), "");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(html in "(<|>|/|!--|script|td|&amp;|&|\\PC){0,40}") {
            text(&html);
        }
    }
}
