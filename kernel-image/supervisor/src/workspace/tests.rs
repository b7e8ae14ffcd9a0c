//! Files in and out, by every file call; odd things and lists have modules of their own.
mod list;
mod odd;

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

use kernelbox_proto::{
    Error, Result,
    v1::{self, ErrorCode, FileType},
};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::testing::Place;

fn path(text: &str) -> WorkspacePath {
    WorkspacePath::parse("path", text).unwrap()
}

fn open(place: &Place) -> Workspace {
    Workspace::open(&place.workspace, Quota::unlimited()).unwrap()
}

fn header(text: &str) -> UploadHeader {
    UploadHeader { path: path(text), offset: 0, sha256: String::new(), overwrite: false, mode: 0 }
}

fn put(workspace: &Workspace, header: UploadHeader, bytes: &[u8]) -> Result<v1::File> {
    let mut upload = workspace.upload(header)?;
    upload.write(bytes)?;
    upload.finish()
}

fn overwrite(text: &str) -> UploadHeader {
    UploadHeader { overwrite: true, ..header(text) }
}

fn get(workspace: &Workspace, text: &str) -> Result<Vec<u8>> {
    let mut download = workspace.download(&path(text), 0, 0, "")?;
    let mut bytes = Vec::new();
    while let Some(chunk) = download.next_chunk()? {
        bytes.extend(chunk);
    }
    Ok(bytes)
}

fn all(workspace: &Workspace, text: &str, recursive: bool, page_size: i32) -> Vec<v1::File> {
    let mut request = ListRequest { path: path(text), recursive, page_size, page_token: String::new() };
    let mut files = Vec::new();
    loop {
        let page = workspace.list(&request).unwrap();
        assert!(page.files.len() <= usize::try_from(page_size).unwrap().max(1) || page_size == 0);
        files.extend(page.files);
        if page.next_page_token.is_empty() {
            return files;
        }
        request.page_token = page.next_page_token;
    }
}

fn paths(files: &[v1::File]) -> Vec<&str> {
    files.iter().map(|file| file.path.as_str()).collect()
}

fn code<T>(result: Result<T>) -> ErrorCode {
    match result {
        Ok(_) => panic!("it was allowed"),
        Err(Error { code, .. }) => code,
    }
}

#[test]
fn a_file_goes_in_and_comes_out() {
    let place = Place::new();
    let workspace = open(&place);
    let bytes: Vec<u8> = (0..700_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let file = put(&workspace, UploadHeader { mode: 0o600, ..header("data/in/a.csv") }, &bytes).unwrap();
    assert_eq!((file.size, file.mode, file.media_type.as_str()), (700_000, 0o600, "text/csv"));
    assert_eq!(file.sha256, hex::encode(Sha256::digest(&bytes)));
    assert_eq!(get(&workspace, "/workspace/data/in/a.csv").unwrap(), bytes);
    let stat = workspace.stat_with_digest(&path("data/in/a.csv")).unwrap();
    assert_eq!(stat, file);
    let none = put(&workspace, header("empty"), b"").unwrap();
    assert_eq!((none.size, get(&workspace, "empty").unwrap().len()), (0, 0));
}

#[test]
fn an_upload_takes_the_name_when_all_is_there_and_right() {
    let place = Place::new();
    let workspace = open(&place);
    put(&workspace, header("a"), b"old").unwrap();
    assert_eq!(code(put(&workspace, header("a"), b"new")), ErrorCode::AlreadyExists);
    let right = hex::encode(Sha256::digest(b"new")).to_uppercase();
    let wrong = UploadHeader { sha256: right.clone(), ..overwrite("a") };
    assert_eq!(code(put(&workspace, wrong, b"wrong")), ErrorCode::DigestMismatch);
    let mut cut = workspace.upload(overwrite("a")).unwrap();
    cut.write(b"half").unwrap();
    assert_eq!(get(&workspace, "a").unwrap(), b"old");
    drop(cut);
    assert_eq!(fs::read_dir(place.workspace.join(TEMPORARY)).unwrap().count(), 0);
    put(&workspace, UploadHeader { sha256: right, ..overwrite("a") }, b"new").unwrap();
    assert_eq!(get(&workspace, "a").unwrap(), b"new");
    assert_eq!(fs::read_dir(place.workspace.join(TEMPORARY)).unwrap().count(), 0);
    for sha256 in ["abc", &"g".repeat(64)] {
        let header = UploadHeader { sha256: sha256.to_owned(), ..overwrite("a") };
        assert_eq!(code(workspace.upload(header)), ErrorCode::InvalidArgument);
    }
}

#[test]
fn two_uploads_without_overwrite_have_one_winner() {
    let place = Place::new();
    let workspace = open(&place);
    let (first, second) = (workspace.upload(header("a")).unwrap(), workspace.upload(header("a")).unwrap());
    first.finish().unwrap();
    assert_eq!(code(second.finish()), ErrorCode::AlreadyExists);
}

#[test]
fn an_upload_goes_on_where_it_was_cut() {
    let place = Place::new();
    let workspace = open(&place);
    let from = |offset| UploadHeader { offset, ..header("a") };
    assert_eq!(code(workspace.upload(from(1))), ErrorCode::OutOfRange);
    put(&workspace, header("a"), b"0123456789").unwrap();
    let file = put(&workspace, from(10), b"ab").unwrap();
    assert_eq!(file.sha256, hex::encode(Sha256::digest(b"0123456789ab")));
    put(&workspace, from(4), b"XY").unwrap();
    assert_eq!(get(&workspace, "a").unwrap(), b"0123XY", "what stood after is cut off");
    assert_eq!(code(workspace.upload(from(7))), ErrorCode::OutOfRange);
    assert_eq!(code(workspace.upload(from(-1))), ErrorCode::InvalidArgument);
    let upload = workspace.upload(from(6)).unwrap();
    fs::write(place.workspace.join("a"), "other").unwrap();
    assert_eq!(code(upload.finish()), ErrorCode::Conflict, "it changed meanwhile");
}

#[test]
fn a_range_is_read_and_what_lies_beyond_is_refused() {
    let place = Place::new();
    let workspace = open(&place);
    put(&workspace, header("a"), b"0123456789").unwrap();
    let range = |offset, length| -> Result<Vec<u8>> {
        let mut download = workspace.download(&path("a"), offset, length, "")?;
        assert_eq!(download.file.size, 10);
        Ok(download.next_chunk()?.unwrap_or_default().to_vec())
    };
    assert_eq!(range(3, 4).unwrap(), b"3456");
    assert_eq!(range(8, 100).unwrap(), b"89");
    assert_eq!(range(8, i64::MAX).unwrap(), b"89");
    assert_eq!(range(10, 0).unwrap(), b"");
    assert_eq!(code(range(11, 0)), ErrorCode::OutOfRange);
    assert_eq!(code(range(-1, 0)), ErrorCode::InvalidArgument);
    assert_eq!(code(range(0, -1)), ErrorCode::InvalidArgument);
    let digest = hex::encode(Sha256::digest(b"0123456789"));
    assert_eq!(workspace.download(&path("a"), 2, 1, &digest).unwrap().file.sha256, digest);
    let other = hex::encode(Sha256::digest(b""));
    assert_eq!(code(workspace.download(&path("a"), 2, 1, &other)), ErrorCode::DigestMismatch);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_told() {
    let place = Place::new();
    let workspace = open(&place);
    let bytes = vec![1; 600 << 10];
    put(&workspace, header("a"), &bytes).unwrap();
    let file = fs::File::options().write(true).open(place.workspace.join("a")).unwrap();

    let mut cut = workspace.download(&path("a"), 0, 0, "").unwrap();
    cut.next_chunk().unwrap();
    file.set_len(100).unwrap();
    assert_eq!(code(cut.next_chunk()), ErrorCode::Conflict);

    put(&workspace, overwrite("a"), &bytes).unwrap();
    let digest = hex::encode(Sha256::digest(&bytes));
    let mut promised = workspace.download(&path("a"), 0, 10, &digest).unwrap();
    promised.next_chunk().unwrap();
    fs::write(place.workspace.join("a"), "other").unwrap();
    assert_eq!(code(promised.next_chunk()), ErrorCode::Conflict);

    put(&workspace, overwrite("a"), &bytes).unwrap();
    let mut replaced = workspace.download(&path("a"), 0, 0, &digest).unwrap();
    put(&workspace, overwrite("a"), b"new").unwrap();
    replaced.next_chunk().unwrap();
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_range_of_a_huge_file_is_read_in_constant_memory() {
    let place = Place::new();
    let workspace = open(&place);
    let size = 5_000_000_000;
    fs::File::create(place.workspace.join("huge")).unwrap().set_len(size).unwrap();
    let before = resident();
    let mut download = workspace.download(&path("huge"), 4_500_000_000, 0, "").unwrap();
    assert_eq!(download.file.size, i64::try_from(size).unwrap());
    let mut total = 0;
    while let Some(chunk) = download.next_chunk().unwrap() {
        assert!(chunk.len() <= 256 << 10);
        total += chunk.len();
    }
    assert_eq!(total, 500_000_000);
    assert!(resident() < before + (64 << 20), "it grew by {}", resident() - before);
}

#[test]
fn names_may_be_odd_but_not_too_long() {
    let place = Place::new();
    let workspace = open(&place);
    let longest = "\u{e4}".repeat(127);
    for name in ["a\nb", " ", "-rf *", "tab\there", "\u{202e}gnp.exe", &longest] {
        put(&workspace, header(name), name.as_bytes()).unwrap();
        assert_eq!(get(&workspace, name).unwrap(), name.as_bytes());
        assert_eq!(workspace.stat(&path(name)).unwrap().path, name);
        workspace.move_file(&path(name), &path("moved"), false).unwrap();
        workspace.delete(&path("moved"), false).unwrap();
    }
    assert_eq!(WorkspacePath::parse("path", &"n".repeat(300)).unwrap_err().code, ErrorCode::InvalidPath);
    let raw = OsStr::from_bytes(b"caf\xe9.txt");
    fs::write(place.workspace.join(raw), "x").unwrap();
    let files = all(&workspace, "", false, 0);
    assert!(paths(&files).contains(&"caf\u{fffd}.txt"));
    assert_eq!(code(get(&workspace, "caf\u{fffd}.txt")), ErrorCode::FileNotFound);
}

#[test]
fn an_archive_with_paths_that_leave_is_only_bytes() {
    let place = Place::new();
    let workspace = open(&place);
    let archive = b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0e\0\0\0../../outside/x";
    let file = put(&workspace, header("evil"), archive).unwrap();
    assert_eq!(file.media_type, "application/zip");
    assert_eq!(get(&workspace, "evil").unwrap(), archive);
    place.assert_nothing_left();
}

#[test]
fn moving_replaces_only_when_told() {
    let place = Place::new();
    let workspace = open(&place);
    put(&workspace, header("a"), b"a").unwrap();
    put(&workspace, header("b"), b"b").unwrap();
    put(&workspace, header("folder/in"), b"c").unwrap();
    let to = |from: &str, to: &str, overwrite| workspace.move_file(&path(from), &path(to), overwrite);
    assert_eq!(code(to("a", "b", false)), ErrorCode::AlreadyExists);
    assert_eq!(get(&workspace, "b").unwrap(), b"b");
    assert_eq!(to("a", "b", true).unwrap().path, "b");
    assert_eq!(get(&workspace, "b").unwrap(), b"a");
    assert_eq!(code(to("a", "c", false)), ErrorCode::FileNotFound);
    assert_eq!(code(to("b", "no/c", false)), ErrorCode::FileNotFound);
    assert_eq!(code(to("b", "folder", true)), ErrorCode::AlreadyExists);
    assert_eq!(code(to("folder", "folder/in/it", false)), ErrorCode::NotADirectory);
    assert_eq!(code(to("folder", "folder/below", false)), ErrorCode::InvalidArgument);
    to("folder", "renamed", false).unwrap();
    assert_eq!(get(&workspace, "renamed/in").unwrap(), b"c");
}

#[test]
fn folders_are_made_and_deleted() {
    let place = Place::new();
    let workspace = open(&place);
    for _ in 0..2 {
        let folder = workspace.make_directory(&path("a/b/c")).unwrap();
        assert_eq!((folder.path.as_str(), folder.r#type()), ("a/b/c", FileType::Directory));
    }
    assert_eq!(workspace.make_directory(&path("")).unwrap().r#type(), FileType::Directory);
    put(&workspace, header("file"), b"").unwrap();
    assert_eq!(code(workspace.make_directory(&path("file"))), ErrorCode::NotADirectory);
    assert_eq!(code(workspace.make_directory(&path("file/x"))), ErrorCode::NotADirectory);
    assert_eq!(code(put(&workspace, header("file/x"), b"")), ErrorCode::NotADirectory);
    assert_eq!(code(put(&workspace, overwrite("a"), b"")), ErrorCode::NotARegularFile);
    assert_eq!(code(get(&workspace, "a")), ErrorCode::NotARegularFile);
    assert_eq!(code(workspace.delete(&path("a"), false)), ErrorCode::NotADirectory);
    workspace.delete(&path("a"), true).unwrap();
    assert_eq!(code(workspace.delete(&path("a"), true)), ErrorCode::FileNotFound);
}

#[test]
fn the_quota_bounds_what_is_written_and_takes_back_what_is_not_kept() {
    let place = Place::new();
    let quota = Quota::new(10);
    let workspace = Workspace::open(&place.workspace, quota.clone()).unwrap();
    put(&workspace, header("a"), b"123456").unwrap();
    assert_eq!(code(put(&workspace, header("b"), b"12345")), ErrorCode::DiskLimit);
    let mut cut = workspace.upload(header("b")).unwrap();
    cut.write(b"1234").unwrap();
    drop(cut);
    put(&workspace, header("b"), b"1234").unwrap();
    assert_eq!(code(put(&workspace, header("c"), b"1")), ErrorCode::DiskLimit);
    quota.set_left(1);
    put(&workspace, header("c"), b"1").unwrap();
}
