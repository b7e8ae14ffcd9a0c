//! Which changes of files are told.
use super::*;
use cap_std::ambient_authority;
use std::{fs, os::unix::fs::symlink, path::Path};

fn open(path: &Path) -> Artifacts {
    Artifacts::new(Arc::new(Dir::open_ambient_dir(path, ambient_authority()).unwrap())).unwrap()
}

fn told(artifacts: &Artifacts) -> Vec<(String, ArtifactChange)> {
    let changes = artifacts.changes().unwrap();
    changes.artifacts.into_iter().map(|artifact| (artifact.path.clone(), artifact.change())).collect()
}

#[test]
fn files_made_changed_and_deleted_are_told_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("input.csv"), "a,b").unwrap();
    fs::write(folder.path().join("old.txt"), "old").unwrap();
    let artifacts = open(folder.path());
    assert_eq!(told(&artifacts), []);

    fs::create_dir(folder.path().join("out")).unwrap();
    fs::write(folder.path().join("out/plot.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    fs::write(folder.path().join("input.csv"), "a,c").unwrap();
    fs::remove_file(folder.path().join("old.txt")).unwrap();
    let changes = artifacts.changes().unwrap().artifacts;
    let shown: Vec<_> = changes.iter().map(|a| (a.path.as_str(), a.change(), a.size, a.media_type.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("input.csv", ArtifactChange::Modified, 3, "text/csv"),
            ("old.txt", ArtifactChange::Deleted, 0, "text/plain"),
            ("out/plot.png", ArtifactChange::Created, 8, "image/png"),
        ]
    );
    assert_eq!(changes.first().unwrap().sha256, hex::encode(Sha256::digest("a,c")));
    assert_eq!(told(&artifacts), []);
}

#[test]
fn a_forged_mtime_hides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, "one").unwrap();
    let artifacts = open(folder.path());
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let ctime = || std::os::unix::fs::MetadataExt::ctime_nsec(&fs::metadata(&path).unwrap());
    let started = ctime();
    while ctime() == started {
        fs::write(&path, "two").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    }
    assert_eq!(told(&artifacts), [("a".to_owned(), ArtifactChange::Modified)]);
}

#[test]
fn only_regular_files_inside_count() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = open(folder.path());
    nix::unistd::mkfifo(&folder.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", folder.path().join("link")).unwrap();
    symlink("/etc", folder.path().join("folder")).unwrap();
    symlink(".", folder.path().join("loop")).unwrap();
    fs::create_dir_all(folder.path().join(".git")).unwrap();
    fs::write(folder.path().join(".git/HEAD"), "").unwrap();
    fs::write(folder.path().join("a\nb"), "").unwrap();
    assert_eq!(told(&artifacts), [("a\nb".to_owned(), ArtifactChange::Created)]);
}

#[test]
fn what_a_client_did_is_no_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = open(folder.path());
    fs::write(folder.path().join("input"), "").unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/x"), "").unwrap();
    fs::write(folder.path().join("made"), "").unwrap();
    artifacts.absorb(&["input", "data", "gone"]).unwrap();
    assert_eq!(told(&artifacts), [("made".to_owned(), ArtifactChange::Created)]);
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    artifacts.absorb(&["data"]).unwrap();
    assert_eq!(told(&artifacts), []);
}

#[test]
fn many_files_are_cut_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = open(folder.path());
    for n in 0..=MAX_ARTIFACTS {
        fs::write(folder.path().join(n.to_string()), "").unwrap();
    }
    let changes = artifacts.changes().unwrap();
    assert_eq!((changes.artifacts.len(), changes.incomplete), (MAX_ARTIFACTS, true));
}

#[test]
fn a_huge_file_is_told_without_a_digest() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = open(folder.path());
    fs::File::create(folder.path().join("big")).unwrap().set_len(MAX_HASHED + 1).unwrap();
    let changes = artifacts.changes().unwrap();
    let big = changes.artifacts.first().unwrap();
    assert_eq!((big.size, big.sha256.as_str()), (i64::try_from(MAX_HASHED).unwrap() + 1, ""));
}

/// Whether the next look would need no list.
fn quiet(artifacts: &Artifacts) -> bool {
    artifacts.seen.lock().unwrap().watch.quiet()
}

#[test]
fn nothing_is_listed_when_nothing_happened() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("a/b")).unwrap();
    fs::write(folder.path().join("a/b/file"), "1").unwrap();
    for n in 0..FEW_FILES {
        fs::write(folder.path().join(n.to_string()), "").unwrap();
    }
    let artifacts = open(folder.path());
    let listed = artifacts.seen.lock().unwrap().listed;
    assert_eq!(told(&artifacts), []);
    assert_eq!(artifacts.seen.lock().unwrap().listed, listed);
    fs::read(folder.path().join("a/b/file")).unwrap();
    assert!(quiet(&artifacts), "reading is no change");
    fs::write(folder.path().join("a/b/file"), "2").unwrap();
    assert_eq!(told(&artifacts), [("a/b/file".to_owned(), ArtifactChange::Modified)]);
    assert!(quiet(&artifacts));
    fs::create_dir_all(folder.path().join("new/er")).unwrap();
    assert_eq!(told(&artifacts), []);
    fs::write(folder.path().join("new/er/file"), "1").unwrap();
    assert_eq!(told(&artifacts), [("new/er/file".to_owned(), ArtifactChange::Created)], "a new folder is watched");
    fs::rename(folder.path().join("new"), folder.path().join("old")).unwrap();
    assert_eq!(
        told(&artifacts),
        [("new/er/file".to_owned(), ArtifactChange::Deleted), ("old/er/file".to_owned(), ArtifactChange::Created)]
    );
    fs::write(folder.path().join("old/er/file"), "2").unwrap();
    assert_eq!(told(&artifacts), [("old/er/file".to_owned(), ArtifactChange::Modified)], "a moved one, too");
    fs::remove_dir_all(folder.path().join("old")).unwrap();
    assert_eq!(told(&artifacts), [("old/er/file".to_owned(), ArtifactChange::Deleted)]);
}

#[test]
fn a_file_that_is_held_open_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mapped"), "1").unwrap();
    let artifacts = open(folder.path());
    let held = fs::File::options().read(true).write(true).open(folder.path().join("mapped")).unwrap();
    assert!(!quiet(&artifacts) && !quiet(&artifacts), "it may be written through a mapping, which no event tells");
    drop(held);
    artifacts.changes().unwrap();
    assert!(quiet(&artifacts));
}

#[test]
fn a_file_with_a_second_name_outside_is_looked_at() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("a"), "1").unwrap();
    let artifacts = open(folder.path());
    fs::hard_link(folder.path().join("a"), outside.path().join("b")).unwrap();
    artifacts.changes().unwrap();
    fs::write(outside.path().join("b"), "22").unwrap();
    assert_eq!(told(&artifacts), [("a".to_owned(), ArtifactChange::Modified)]);
    for n in 0..FEW_FILES {
        fs::write(folder.path().join(n.to_string()), "").unwrap();
    }
    artifacts.changes().unwrap();
    fs::write(outside.path().join("b"), "333").unwrap();
    assert_eq!(told(&artifacts), [("a".to_owned(), ArtifactChange::Modified)], "a second name is known by the count");
}

#[test]
fn a_large_workspace_is_listed_now_and_then_whatever_the_events_say() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for n in 0..=FEW_FILES {
        fs::write(folder.path().join(n.to_string()), "").unwrap();
    }
    let artifacts = open(folder.path());
    fs::hard_link(folder.path().join("7"), outside.path().join("b")).unwrap();
    fs::write(outside.path().join("b"), "22").unwrap();
    artifacts.seen.lock().unwrap().listed -= LIST_EVERY;
    assert_eq!(told(&artifacts), [("7".to_owned(), ArtifactChange::Modified)]);
}

#[test]
fn lost_events_lose_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = open(folder.path());
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let path = folder.path().join("a");
    for n in 0..limit.trim().parse::<usize>().unwrap() {
        fs::write(&path, n.to_string()).unwrap();
        fs::remove_file(&path).unwrap();
    }
    fs::write(folder.path().join("last"), "").unwrap();
    assert_eq!(told(&artifacts), [("last".to_owned(), ArtifactChange::Created)]);
    assert_eq!(told(&artifacts), []);
    assert!(quiet(&artifacts));
}
