//! Answers as models write them, and as users get them.
use super::*;
use proptest::prelude::*;

fn made(answer: &str) -> String {
    clean(answer, &["plot.png".to_owned(), "out/iris data.xlsx".to_owned(), "a/x.csv".to_owned(), "b/x.csv".to_owned()])
}

#[test]
fn links_into_a_sandbox_become_words() {
    for (answer, cleaned) in [
        ("See [the file](sandbox:/mnt/data/no.csv).", "See the file."),
        ("[Download plot](sandbox:/workspace/plot.png)!", "Download plot (plot.png)!"),
        ("[plot.png](sandbox:/mnt/data/plot.png)", "plot.png"),
        ("[](sandbox:/mnt/data/plot.png) and [ ](sandbox:/x/no.csv)", "plot.png and no.csv"),
        ("[get it](sandbox:/mnt/data/iris%20data.xlsx \"title\")", "get it (out/iris data.xlsx)"),
        ("[a [b] c](</mnt/data/no (1).csv>) d", "a [b] c d"),
        ("[here](file:///workspace/a/x.csv), [there](/workspace/x.csv)", "here (a/x.csv), there"),
        ("It is at sandbox:/mnt/data/plot.png.", "It is at plot.png."),
        ("It is at <sandbox:/mnt/data/no.csv>", "It is at no.csv"),
        ("**[File](sandbox:/x/no.csv)**", "**File**"),
    ] {
        assert_eq!(made(answer), cleaned, "{answer}");
    }
}

#[test]
fn pictures_that_do_not_exist_are_removed() {
    for (answer, cleaned) in [
        ("Look:\n\n![Sine](sine.png)\n\nNice.", "Look:\n\nNice."),
        ("![a](attachment:a.png)\nText", "Text"),
        ("![a](data:image/png;base64,AAAA)", ""),
        ("Before ![a](no.png) after", "Before after"),
        ("![a](x.csv)", ""),
    ] {
        assert_eq!(made(answer), cleaned, "{answer}");
    }
}

#[test]
fn pictures_that_exist_stay_under_their_path() {
    for (answer, cleaned) in [
        ("![Plot](plot.png)", "![Plot](plot.png)"),
        ("![Plot](sandbox:/mnt/data/plot.png)", "![Plot](plot.png)"),
        ("![Plot](./plot.png?raw=1)", "![Plot](plot.png)"),
        ("![x](/workspace/iris data.xlsx)", "![x](<out/iris data.xlsx>)"),
        ("![web](https://x.org/a.png)", "![web](https://x.org/a.png)"),
        ("[![a](no.png) go](https://x.org)", "[go](https://x.org)"),
    ] {
        assert_eq!(made(answer), cleaned, "{answer}");
    }
}

#[test]
fn all_else_is_untouched() {
    for answer in [
        "See [docs](https://x.org/a_(b)?sandbox:/c) and https://x.org/sandbox:/d.",
        "[relative](notes.md), [x][1], a[0](1), sandbox: a word, \"sandboxes\", 5 < 6! [",
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n\n- x  \n  y",
        "```python\nprint('![a](no.png) [b](sandbox:/x)')\n```",
        "~~~~\n![a](no.png)\n~~~\n![a](no.png)\n~~~~",
        "```\n[a](sandbox:/never/closed)",
        "Write `![a](no.png)` or ``[b](sandbox:/x) ` ``.",
        "Ein Stern * ünd [é",
    ] {
        assert_eq!(made(answer), answer);
    }
    assert_eq!(made("```\n![a](b.png)\n```\n![a](b.png)\ntext"), "```\n![a](b.png)\n```\ntext");
}

#[test]
fn no_nesting_costs_the_stack_or_the_day() {
    const LONG: usize = 64 << 10;
    let nested = |n: usize| format!("{}a{}", "[".repeat(n), "](x)".repeat(n));
    assert_eq!(made(&nested(LONG / 5)), nested(LONG / 5));
    for piece in ["[", "[](", "![](", "[](<", "[a]", "`", "`a``b", "<sandbox:/", "[](data:"] {
        made(&piece.repeat(LONG / piece.len()));
    }
    // Where one stands in another, as people write it, it is still read.
    assert_eq!(made("[![a](sandbox:/plot.png)](https://x.org)"), "[![a](plot.png)](https://x.org)");
    let inline = format!("![a](data:image/png;base64,{}) b", "A".repeat(LONG));
    assert_eq!(made(&inline), "b");
}

proptest! {
    #[test]
    fn code_is_untouched(code in "(\\[a\\]|\\(sandbox:/b\\)|!|\n|[a-z ]){0,30}") {
        let answer = format!("x\n```\n{code}\n```\ny");
        prop_assert_eq!(made(&answer), answer);
    }

    #[test]
    fn text_without_links_is_untouched(text in "[a-zA-Z0-9.,:()# é]{0,80}") {
        prop_assert_eq!(made(&text), text.trim_end());
    }

    #[test]
    fn nothing_makes_it_panic(text in "(\\[|\\]|\\(|\\)|!|<|>|sandbox:/|`|~|\n|\\\\|\\PC){0,40}") {
        made(&text);
    }
}
