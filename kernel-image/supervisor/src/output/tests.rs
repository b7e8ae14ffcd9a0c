//! What is sent, what is kept and what is said about it.
use cap_std::{ambient_authority, fs::Dir};

use super::*;

fn meter(limit: u64) -> (tempfile::TempDir, Meter) {
    let dir = tempfile::tempdir().unwrap();
    let workspace = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
    let meter = Meter::new(limit, OutputFiles::new(workspace.into(), "e1"));
    (dir, meter)
}

fn limits(kinds: &[Kind]) -> Vec<(OutputLimit, String)> {
    kinds
        .iter()
        .filter_map(|kind| match kind {
            Kind::Truncated(truncated) => Some((truncated.limit(), truncated.path.clone())),
            _ => None,
        })
        .collect()
}

fn stdout(kinds: &[Kind]) -> String {
    kinds
        .iter()
        .filter_map(|kind| if let Kind::Stdout(text) = kind { Some(text.text.as_str()) } else { None })
        .collect()
}

#[test]
fn text_beyond_the_limit_is_marked_once_and_kept_whole() {
    let (dir, mut meter) = meter(10);
    let first = meter.take(Output::Stdout("12345".into()), String::new);
    assert_eq!(stdout(&first), "12345");
    let second = meter.take(Output::Stdout("678\u{e9}\u{e9}\u{e9}".into()), || "12345".into());
    assert_eq!(stdout(&second), "678\u{e9}", "cut between characters, at most at the limit");
    assert_eq!(limits(&second), [(OutputLimit::Execution, ".kernelbox/output/e1.txt".to_owned())]);
    let third = meter.take(Output::Stdout("end".into()), || panic!("the file has begun"));
    assert!(third.is_empty(), "{third:?}");
    meter.finish();
    let whole = std::fs::read_to_string(dir.path().join(".kernelbox/output/e1.txt")).unwrap();
    assert_eq!(whole, "12345678\u{e9}\u{e9}\u{e9}end");
}

#[test]
fn nothing_is_left_of_a_large_output_that_was_sent_whole() {
    let (dir, mut meter) = meter(10 << 20);
    let kinds = meter.take(Output::Stdout("x".repeat(2 << 20)), String::new);
    assert!(kinds.len() >= 4 && limits(&kinds).is_empty());
    assert!(dir.path().join(".kernelbox/output/e1.txt").exists());
    meter.finish();
    assert!(!dir.path().join(".kernelbox/output/e1.txt").exists());
}

#[test]
fn a_large_part_of_a_display_becomes_a_file() {
    let (dir, mut meter) = meter(10 << 20);
    let image = vec![7_u8; 2 << 20];
    let parts = vec![
        ("image/png".to_owned(), Content::Data(image.clone().into())),
        ("text/plain".to_owned(), Content::Text("fig".into())),
    ];
    let kinds = meter.take(Output::Display(Bundle { parts, ..Bundle::default() }), String::new);
    let [Kind::Display(bundle)] = &kinds[..] else { panic!("{kinds:?}") };
    let Some(mime_part::Content::Artifact(artifact)) = &bundle.parts[0].content else { panic!("{bundle:?}") };
    assert_eq!((artifact.path.as_str(), artifact.size), (".kernelbox/display/e1-1.png", 2 << 20));
    assert_eq!(std::fs::read(dir.path().join(&artifact.path)).unwrap(), image);
    assert_eq!(bundle.parts[1].content, Some(mime_part::Content::Text("fig".into())));
}

#[test]
fn a_link_in_the_place_of_the_folder_leads_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let (dir, mut meter) = meter(1);
    std::os::unix::fs::symlink(outside.path(), dir.path().join(".kernelbox")).unwrap();
    let kinds = meter.take(Output::Stdout("long".into()), String::new);
    assert_eq!(limits(&kinds), [(OutputLimit::Execution, String::new())]);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn no_event_is_over_one_mebibyte() {
    let (_dir, mut meter) = meter(100 << 20);
    let big = "y".repeat(700 << 10);
    let parts =
        vec![("text/html".to_owned(), Content::Text(big.clone())), ("text/plain".to_owned(), Content::Text(big))];
    let error = CodeError { name: "E".into(), value: "v".repeat(2 << 20), traceback: vec!["t".repeat(600 << 10); 3] };
    for output in [
        Output::Stderr("\u{1f600}".repeat(1 << 20)),
        Output::Display(Bundle { parts, ..Bundle::default() }),
        Output::Error(error),
    ] {
        let kinds = meter.take(output, String::new);
        assert!(!kinds.is_empty());
        for kind in kinds {
            let event = kernelbox_proto::v1::ExecutionEvent { kind: Some(kind), ..Default::default() };
            assert!(prost::Message::encoded_len(&event) <= 1 << 20);
        }
    }
}
