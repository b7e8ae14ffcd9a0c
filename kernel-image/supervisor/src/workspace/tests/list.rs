//! Lists and their pages.
use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

use super::*;

#[test]
fn a_list_is_sorted_by_path_on_any_page_size() {
    let place = Place::new();
    let workspace = open(&place);
    for name in ["a/x", "a/y/z", "a-b", "a.txt", "b/1", "b/2", ".hidden/in", "B", "a\u{e9}/1"] {
        fs::create_dir_all(place.workspace.join(name).parent().unwrap()).unwrap();
        fs::write(place.workspace.join(name), "").unwrap();
    }
    fs::create_dir_all(place.workspace.join("empty/er")).unwrap();
    fs::write(place.workspace.join(OsStr::from_bytes(b"b/\xff")), "").unwrap();
    let whole = all(&workspace, "", true, 0);
    let mut sorted = paths(&whole);
    sorted.sort_unstable();
    assert_eq!(paths(&whole), sorted);
    assert_eq!(whole.len(), 16);
    assert!(!paths(&whole).contains(&".hidden/in"));
    for size in 1..=18 {
        assert_eq!(paths(&all(&workspace, "", true, size)), sorted, "{size}");
    }
    assert_eq!(paths(&all(&workspace, "a", true, 1)), ["a/x", "a/y", "a/y/z"]);
    assert_eq!(paths(&all(&workspace, ".hidden", true, 0)), [".hidden/in"]);
    assert_eq!(paths(&all(&workspace, "", false, 2)), [".hidden", "B", "a", "a-b", "a.txt", "a\u{e9}", "b", "empty"]);
    let first = ListRequest { path: path(""), recursive: true, page_size: 1, page_token: String::new() };
    let token = workspace.list(&first).unwrap().next_page_token;
    let other = ListRequest { recursive: false, page_token: token, ..first.clone() };
    assert_eq!(code(workspace.list(&other)), ErrorCode::InvalidArgument);
    assert_eq!(code(workspace.list(&ListRequest { page_size: -1, ..first.clone() })), ErrorCode::InvalidArgument);
    assert_eq!(code(workspace.list(&ListRequest { path: path("B"), ..first.clone() })), ErrorCode::NotADirectory);
    assert_eq!(code(workspace.list(&ListRequest { path: path("no"), ..first })), ErrorCode::FileNotFound);
}

#[test]
fn a_page_fits_into_a_message() {
    let place = Place::new();
    let workspace = open(&place);
    let folder = format!("{0}/{0}/{0}/{0}", "d".repeat(250));
    fs::create_dir_all(place.workspace.join(&folder)).unwrap();
    for n in 0..2_000 {
        fs::write(place.workspace.join(&folder).join(format!("{n:0>250}.txt")), "").unwrap();
    }
    let request = ListRequest { path: path(&folder), recursive: false, page_size: 10_000, page_token: String::new() };
    let page = workspace.list(&request).unwrap();
    let bytes: usize = page.files.iter().map(prost::Message::encoded_len).sum();
    assert!((400 << 10..1 << 20).contains(&bytes) && !page.next_page_token.is_empty());
    assert_eq!(all(&workspace, &folder, false, 10_000).len(), 2_000);
}
