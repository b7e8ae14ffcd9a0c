//! Executions as the supervisor tells them, and what a model reads.
use super::*;
use crate::agent::picture::tests::png_of;
use kernelbox_proto::v1::{
    ArtifactChange, ClearOutput, DisplayUpdate, ExecutionResult, KernelDied, MimePart, OutputLimit, OutputTruncated,
    PackageInstalled, StreamText, mime_part::Content,
};
use proptest::prelude::*;

fn out(text: &str) -> Kind {
    Kind::Stdout(StreamText { text: text.into() })
}

fn err(text: &str) -> Kind {
    Kind::Stderr(StreamText { text: text.into() })
}

fn bundle(media_type: &str, content: Content, id: &str) -> MimeBundle {
    let part = MimePart { media_type: media_type.into(), content: Some(content) };
    MimeBundle { parts: vec![part], metadata: None, display_id: id.into() }
}

fn words(text: &str, id: &str) -> MimeBundle {
    bundle("text/plain", Content::Text(text.into()), id)
}

fn plot(width: u32) -> Kind {
    Kind::Display(bundle("image/png", Content::Data(png_of(width, 4)), ""))
}

fn file(path: &str, size: i64, change: ArtifactChange) -> Kind {
    Kind::Artifact(Artifact { path: path.into(), size, change: change.into(), ..Default::default() })
}

fn ended(status: ExecutionStatus, message: &str) -> Kind {
    Kind::Finished(ExecutionFinished { status: status.into(), message: message.into(), ..Default::default() })
}

fn ok() -> Kind {
    ended(ExecutionStatus::Ok, "")
}

fn fold(kinds: &[Kind], limit: usize, sees_images: bool) -> Outcome {
    let mut shown = Shown::new(limit, sees_images);
    kinds.iter().for_each(|kind| shown.take(kind));
    shown.finish()
}

fn text(outcome: &Outcome) -> &str {
    match &outcome.parts[0] {
        Part::Text(text) => text,
        Part::Image { .. } => panic!("text comes first"),
    }
}

fn read(kinds: &[Kind]) -> String {
    text(&fold(kinds, 4000, false)).to_owned()
}

#[test]
fn output_comes_in_order() {
    let result = Kind::Result(ExecutionResult { bundle: Some(words("42", "")), execution_count: 1 });
    let outcome = fold(&[out("a"), err("warning\n"), out("b"), result, ok()], 4000, true);
    assert_eq!(text(&outcome), "a\nwarning\nb\n42");
    assert_eq!((outcome.failed, outcome.error), (false, None));
}

#[test]
fn empty_output_says_so() {
    assert!(read(&[ok()]).contains("printed nothing"));
    assert!(read(&[out("\n \n"), ok()]).contains("printed nothing"));
}

#[test]
fn long_output_is_cut_in_the_middle_and_the_error_stays() {
    let error = CodeError { name: "E".into(), value: "bad".into(), traceback: vec![] };
    let lines: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    let outcome = fold(&[out(&lines), Kind::Error(error), ended(ExecutionStatus::Error, "")], 1000, false);
    let text = text(&outcome);
    assert!(text.starts_with("line 0\n") && text.ends_with("line 4999\nE: bad") && text.len() <= 1000, "{text}");
    assert!(text.contains(&format!("of {} bytes left out here", lines.len())), "{text}");
    assert_eq!((outcome.failed, outcome.error.as_deref()), (true, Some("E")));
}

#[test]
fn images_are_parts_for_models_that_see_and_words_for_others() {
    let kinds = [out("before\n"), plot(640), out("after\n"), ok()];
    let outcome = fold(&kinds, 4000, true);
    let words = "before\n[image 1, below: PNG, 640 x 4 pixels, ";
    assert!(text(&outcome).starts_with(words) && text(&outcome).ends_with("; the user sees it too]\nafter"));
    let image = Part::Image { media_type: "image/png".into(), data: png_of(640, 4) };
    assert_eq!(outcome.parts[1..], [image]);
    let outcome = fold(&kinds, 4000, false);
    assert_eq!(outcome.parts.len(), 1);
    assert!(text(&outcome).contains("[image: PNG, 640 x 4 pixels, "), "{outcome:?}");
}

#[test]
fn many_images_are_shown_to_a_bound_and_described_beyond() {
    let mut kinds: Vec<Kind> = (1..=6).map(plot).collect();
    kinds.push(ok());
    let outcome = fold(&kinds, 4000, true);
    assert_eq!(outcome.parts.len(), 5);
    assert!(text(&outcome).contains("[image 4, below: ") && text(&outcome).contains("[image: PNG, 6 x 4"));
}

#[test]
fn an_updated_display_is_shown_as_it_is_last() {
    let update = |text| Kind::DisplayUpdate(DisplayUpdate { bundle: Some(words(text, "d1")), ..Default::default() });
    let kinds = [Kind::Display(words("0%", "d1")), out("working\n"), update("50%"), update("100%"), ok()];
    assert_eq!(read(&kinds), "working\n100%");
}

#[test]
fn cleared_output_is_gone() {
    let clear = |wait| Kind::ClearOutput(ClearOutput { wait });
    let outcome = fold(&[out("old"), plot(1), clear(false), out("new"), ok()], 4000, true);
    assert_eq!((text(&outcome), outcome.parts.len()), ("new", 1));
    assert_eq!(read(&[out("old"), clear(true), out("new"), ok()]), "new");
    assert_eq!(read(&[out("old"), clear(true), ok()]), "old");
}

#[test]
fn files_and_packages_are_told() {
    let package = |version: &str, failure: &str| {
        let (version, failure) = (version.into(), failure.into());
        Kind::PackageInstalled(PackageInstalled {
            distribution: "qrcode".into(),
            version,
            failure,
            ..Default::default()
        })
    };
    let kinds = [
        package("8.2", ""),
        file("iris.xlsx", 9318, ArtifactChange::Created),
        file("a/b.csv", 10, ArtifactChange::Modified),
        file("old.txt", 0, ArtifactChange::Deleted),
        file(".kernelbox/output/e1.txt", 5, ArtifactChange::Created),
        ok(),
    ];
    let words =
        "[installed qrcode 8.2]\n[files: created iris.xlsx (9.1 KiB), changed a/b.csv (10 bytes), deleted old.txt]";
    assert_eq!(read(&kinds), words);
    assert!(read(&[package("", "no such package"), ok()]).contains("could not be installed: no such package"));
    let mut many: Vec<Kind> = (0..30).map(|n| file(&format!("{n}.txt"), 1, ArtifactChange::Created)).collect();
    many.push(ok());
    assert!(read(&many).ends_with("created 19.txt (1 bytes), and 10 more]"));
}

#[test]
fn how_it_ended_is_said_in_words() {
    let failed = |kinds: &[Kind], word: &str| {
        let outcome = fold(kinds, 4000, false);
        assert_eq!((outcome.failed, outcome.error.as_deref()), (true, Some(word)));
        text(&outcome).to_owned()
    };
    let timed_out = ended(ExecutionStatus::TimedOut, "the code ran longer than its timeout of 30s");
    assert_eq!(
        failed(&[out("1\n"), timed_out.clone()], "timeout"),
        "1\nStopped: the code ran longer than its timeout of 30s. Variables are kept."
    );
    let interrupt = CodeError { name: "KeyboardInterrupt".into(), value: String::new(), traceback: vec![] };
    let told = failed(&[Kind::Error(interrupt), timed_out], "KeyboardInterrupt");
    assert!(told.starts_with("KeyboardInterrupt\nStopped: the code ran longer"), "{told}");
    let died = Kind::KernelDied(KernelDied { message: "the kernel exited with code 1".into(), ..Default::default() });
    let told =
        failed(&[died.clone(), ended(ExecutionStatus::KernelDied, "the kernel exited with code 1")], "kernel died");
    assert_eq!(told, "Stopped: the kernel exited with code 1. All variables and imports are gone; files are kept.");
    let limit = ended(ExecutionStatus::Limit, "the code uses 980 MiB of the sandbox's 1024 MiB of memory");
    let told = failed(&[died, limit], "limit");
    assert!(
        told.contains("980 MiB of the sandbox's 1024 MiB") && told.contains("variables and imports are gone"),
        "{told}"
    );
    let cancelled = ended(ExecutionStatus::Interrupted, "interrupted");
    assert!(failed(&[cancelled], "interrupted").starts_with("Interrupted (interrupted)."));
    assert!(failed(&[out("1")], "lost").contains("not known how the code ended"));
    let unrun = ended(ExecutionStatus::Failed, "the kernel does not start");
    assert!(failed(&[unrun], "failed").contains("could not be run: the kernel does not start"));
}

#[test]
fn output_that_was_left_out_says_where_it_is() {
    let path = ".kernelbox/output/e1.txt".to_owned();
    let truncated = OutputTruncated { limit: OutputLimit::Execution.into(), limit_bytes: 10 << 20, path };
    let told = read(&[out("1\n"), Kind::Truncated(truncated), ok()]);
    assert_eq!(told, "1\n[output over 10.0 MiB was left out; the whole is in the file .kernelbox/output/e1.txt]");
}

#[test]
fn a_huge_execution_takes_no_memory() {
    let mut shown = Shown::new(8000, true);
    let piece = out(&"0123456789abcde\n".repeat(1 << 12));
    for n in 0..60 {
        shown.take(&piece);
        shown.take(&plot(3));
        shown.take(&file(&format!("{n}.png"), 1, ArtifactChange::Created));
        shown.take(&Kind::Display(words(&"x".repeat(20_000), &n.to_string())));
    }
    let kept = format!("{shown:?}").len();
    assert!(kept < 256 << 10, "{kept}");
    shown.take(&ok());
    let outcome = shown.finish();
    assert!(text(&outcome).len() <= 8000);
    assert!(text(&outcome).contains("and 40 more"));
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let text = "(\u{1b}\\[1m|\r|\n|<|\\PC){0,40}";
    prop_oneof![
        text.prop_map(|text| out(&text)),
        text.prop_map(|text| err(&text)),
        (text, 0..3).prop_map(|(text, id)| Kind::Display(words(&text, ["", "a", "b"][id as usize]))),
        (text, text).prop_map(|(name, line)| {
            Kind::Error(CodeError { name, value: line.clone(), traceback: vec![line.clone(), line] })
        }),
        any::<bool>().prop_map(|wait| Kind::ClearOutput(ClearOutput { wait })),
        text.prop_map(|path| file(&path, 7, ArtifactChange::Modified)),
        (0..12).prop_map(|status| ended(ExecutionStatus::try_from(status).unwrap_or_default(), "why")),
        Just(plot(2)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_execution_keeps_the_limit(kinds in prop::collection::vec(any_kind(), 0..30), limit in 200usize..1000) {
        let outcome = fold(&kinds, limit, true);
        let text = text(&outcome);
        prop_assert!(text.len() <= limit, "{} of {limit}", text.len());
        prop_assert!(!text.trim().is_empty());
        let is_plain = !text.contains('\u{1b}');
        prop_assert!(is_plain);
        prop_assert_eq!(outcome.failed, outcome.error.is_some());
    }
}

#[test]
fn a_forgotten_import_is_named() {
    let shown = |value: &str| {
        let mut shown = Shown::new(4000, false);
        shown.take(&Kind::Error(CodeError { name: "NameError".into(), value: value.into(), traceback: Vec::new() }));
        text(&shown.finish()).to_owned()
    };
    assert!(shown("name 'plt' is not defined").contains("[put this line first: import matplotlib.pyplot as plt]"));
    assert!(!shown("name 'answer' is not defined").contains("put this line first"));
}
