//! Links out, FIFOs, devices, folders that change under a call: each has an answer, nothing hangs, nothing leaves.
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use nix::{
    fcntl::{RenameFlags, renameat2},
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::mkfifo,
};

use super::*;

/// Nothing here takes long; what does, hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs `test`, and fails rather than wait for a FIFO for ever.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let running = std::thread::spawn(move || {
        test();
        sender.send(()).unwrap();
    });
    if receiver.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    running.join().unwrap();
}

/// Links out, links to nowhere, links in a circle, a FIFO, a socket and, as root, a device.
fn odd_things(place: &Place) -> Vec<(&'static str, FileType)> {
    let at = |name: &str| place.workspace.join(name);
    symlink(place.outside.join("secret"), at("out")).unwrap();
    symlink("../outside/secret", at("out-relative")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("circle-b", at("circle-a")).unwrap();
    symlink("circle-a", at("circle-b")).unwrap();
    mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    let mut odd = vec![
        ("out", FileType::Symlink),
        ("out-relative", FileType::Symlink),
        ("dangling", FileType::Symlink),
        ("circle-a", FileType::Symlink),
        ("circle-b", FileType::Symlink),
        ("fifo", FileType::Other),
        ("socket", FileType::Other),
    ];
    if mknod(&at("device"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).is_ok() {
        odd.push(("device", FileType::Other));
    }
    odd
}

#[test]
fn odd_things_are_told_and_never_opened() {
    in_time(|| {
        let place = Place::new();
        let workspace = open(&place);
        let odd = odd_things(&place);
        let listed = all(&workspace, "", true, 0);
        for (name, kind) in odd {
            let stat = workspace.stat_with_digest(&path(name)).unwrap();
            assert_eq!((stat.r#type(), stat.size, stat.sha256.as_str()), (kind, 0, ""), "{name}");
            assert!(listed.contains(&stat), "{name}: {listed:?}");
            let expected = match name {
                "dangling" => ErrorCode::FileNotFound,
                "circle-a" | "circle-b" => ErrorCode::InvalidPath,
                _ => ErrorCode::NotARegularFile,
            };
            assert_eq!(code(get(&workspace, name)), expected, "{name}");
            let refused = code(workspace.list(&ListRequest {
                path: path(name),
                recursive: true,
                page_size: 0,
                page_token: String::new(),
            }));
            let below = code(workspace.stat(&path(&format!("{name}/x"))));
            for code in [refused, below] {
                let fits = matches!(code, ErrorCode::InvalidPath | ErrorCode::NotADirectory | ErrorCode::FileNotFound);
                assert!(fits, "{name}: {code:?}");
            }
            assert!(workspace.make_directory(&path(name)).is_err(), "{name}");
            assert!(put(&workspace, header(&format!("{name}/x")), b"x").is_err(), "{name}");
            assert_eq!(
                code(put(&workspace, header(name), b"x")),
                match kind {
                    FileType::Other => ErrorCode::NotARegularFile,
                    _ => ErrorCode::AlreadyExists,
                }
            );
            let continued = UploadHeader { offset: 1, ..header(name) };
            assert_eq!(code(put(&workspace, continued, b"x")), ErrorCode::NotARegularFile, "{name}");
        }
        assert_eq!(workspace.stat(&path("out-relative")).unwrap().link_target, "../outside/secret");
        place.assert_nothing_left();
    });
}

#[test]
fn odd_things_are_moved_replaced_and_deleted_by_name() {
    in_time(|| {
        let place = Place::new();
        let workspace = open(&place);
        for (name, kind) in odd_things(&place) {
            let moved = workspace.move_file(&path(name), &path("moved"), false).unwrap();
            assert_eq!(moved.r#type(), kind, "{name}");
            if kind == FileType::Symlink {
                put(&workspace, overwrite("moved"), b"mine").unwrap();
                assert_eq!(workspace.stat(&path("moved")).unwrap().r#type(), FileType::File, "{name}");
            } else {
                assert_eq!(code(put(&workspace, overwrite("moved"), b"mine")), ErrorCode::NotARegularFile, "{name}");
            }
            workspace.delete(&path("moved"), true).unwrap();
            assert_eq!(code(workspace.stat(&path("moved"))), ErrorCode::FileNotFound);
        }
        place.assert_nothing_left();
    });
}

#[test]
fn folders_that_are_links_lead_nowhere_outside() {
    let place = Place::new();
    let workspace = open(&place);
    symlink(&place.outside, place.workspace.join("out")).unwrap();
    symlink("/", place.workspace.join("root")).unwrap();
    symlink("..", place.workspace.join("up")).unwrap();
    put(&workspace, header("real/file"), b"1").unwrap();
    put(&workspace, header("other"), b"1").unwrap();
    for (link, file) in [("out", "out/secret"), ("root", "root/etc/passwd"), ("up", "up/outside/secret")] {
        let at = || path(file);
        assert_eq!(code(get(&workspace, file)), ErrorCode::InvalidPath, "{file}");
        assert_eq!(code(workspace.stat(&at())), ErrorCode::InvalidPath, "{file}");
        assert_eq!(code(put(&workspace, overwrite(file), b"x")), ErrorCode::InvalidPath, "{file}");
        assert_eq!(code(workspace.delete(&at(), true)), ErrorCode::InvalidPath, "{file}");
        assert_eq!(code(workspace.make_directory(&path(&format!("{link}/new")))), ErrorCode::InvalidPath, "{file}");
        assert_eq!(code(workspace.move_file(&at(), &path("taken"), true)), ErrorCode::InvalidPath, "{file}");
        assert_eq!(code(workspace.move_file(&path("other"), &at(), true)), ErrorCode::InvalidPath, "{file}");
        let list = ListRequest { path: path(link), recursive: true, page_size: 0, page_token: String::new() };
        assert_eq!(code(workspace.list(&list)), ErrorCode::InvalidPath, "{file}");
    }
    let files = all(&workspace, "", true, 0);
    assert_eq!(paths(&files), [".kernelbox", "other", "out", "real", "real/file", "root", "up"]);
    symlink("real", place.workspace.join("inside")).unwrap();
    assert_eq!(get(&workspace, "inside/file").unwrap(), b"1", "a link inside is followed");
    for link in ["out", "root", "up", "inside"] {
        workspace.delete(&path(link), true).unwrap();
    }
    assert_eq!(get(&workspace, "real/file").unwrap(), b"1");
    place.assert_nothing_left();
}

#[test]
fn the_supervisors_own_folder_may_be_a_trap() {
    let place = Place::new();
    let workspace = open(&place);
    symlink(&place.outside, place.workspace.join(".kernelbox")).unwrap();
    assert_eq!(code(put(&workspace, header("a"), b"x")), ErrorCode::InvalidPath);
    let _ = open(&place);
    place.assert_nothing_left();
    fs::remove_file(place.workspace.join(".kernelbox")).unwrap();
    fs::write(place.workspace.join(".kernelbox"), "").unwrap();
    assert_eq!(code(put(&workspace, header("a"), b"x")), ErrorCode::NotADirectory);
    fs::remove_file(place.workspace.join(".kernelbox")).unwrap();
    put(&workspace, header("a"), b"x").unwrap();
    fs::write(place.workspace.join(TEMPORARY).join("left"), "half").unwrap();
    let _ = open(&place);
    assert!(!place.workspace.join(TEMPORARY).join("left").exists(), "an earlier supervisor left it");
}

#[test]
fn a_folder_swapped_for_a_link_while_in_use_lets_nothing_out() {
    let place = Arc::new(Place::new());
    let workspace = open(&place);
    let stop = Arc::new(AtomicBool::new(false));
    let swap = |one: &'static str, other: &'static str| {
        let (place, stop) = (Arc::clone(&place), Arc::clone(&stop));
        std::thread::spawn(move || {
            let folder = fs::File::open(&place.workspace).unwrap();
            while !stop.load(Relaxed) {
                renameat2(&folder, one, &folder, other, RenameFlags::RENAME_EXCHANGE).ok();
            }
        })
    };
    let make = |name: &str, link: &str| {
        fs::create_dir_all(place.workspace.join(name).join("sub")).ok();
        fs::write(place.workspace.join(name).join("sub/file"), "mine").ok();
        symlink(&place.outside, place.workspace.join(link)).ok();
    };
    make("folder", "link");
    fs::write(place.workspace.join("folder/secret"), "mine").unwrap();
    let swapping = [swap("folder", "link"), swap("victim", "victim-link")];
    let (mut read, mut refused, mut written) = (0, 0, 0);
    let started = Instant::now();
    while read < 200 || refused < 200 || written < 200 {
        assert!(started.elapsed() < DEADLINE, "read {read}, refused {refused}, written {written}");
        match get(&workspace, "folder/secret") {
            Ok(bytes) => {
                assert_eq!(bytes, b"mine");
                read += 1;
            }
            Err(error) => {
                assert_eq!(error.code, ErrorCode::InvalidPath, "{error}");
                refused += 1;
            }
        }
        written += usize::from(put(&workspace, overwrite("folder/new"), b"x").is_ok());
        workspace.make_directory(&path("folder/made")).ok();
        workspace.list(&ListRequest { path: path(""), recursive: true, page_size: 0, page_token: String::new() }).ok();
        workspace.move_file(&path("folder/new"), &path("folder/moved"), true).ok();
        workspace.delete(&path("folder/moved"), true).ok();
        workspace.delete(&path("folder/made"), true).ok();
        // Through the ordinary file system this would now and then write outside, so only where it is certainly not a link.
        if !place.workspace.join("victim").exists() && !place.workspace.join("victim-link").exists() {
            make("victim", "victim-link");
        }
        workspace.delete(&path("victim"), true).ok();
        workspace.delete(&path("victim-link"), true).ok();
    }
    stop.store(true, Relaxed);
    for swapping in swapping {
        swapping.join().unwrap();
    }
    place.assert_nothing_left();
}

/// Makes a folder within a folder, and so on, deeper than any path can name.
fn dig(folder: &Path, depth: usize) {
    let mut at = cap_std::fs::Dir::open_ambient_dir(folder, ambient_authority()).unwrap();
    for _ in 0..depth {
        at.create_dir("d").unwrap();
        at = at.open_dir("d").unwrap();
    }
    at.write("bottom", "").unwrap();
}

#[test]
fn a_bottomless_folder_is_listed_and_deleted() {
    // A test's own thread has 2 MiB of stack, as blocking threads have.
    in_time(|| {
        let place = Place::new();
        let workspace = open(&place);
        fs::create_dir(place.workspace.join("deep")).unwrap();
        dig(&place.workspace.join("deep"), 5_000);
        assert!(all(&workspace, "", true, 10_000).len() < 2_100);
        assert_eq!(code(workspace.delete(&path("deep"), false)), ErrorCode::NotADirectory);
        workspace.delete(&path("deep"), true).unwrap();
        assert_eq!(paths(&all(&workspace, ".kernelbox/tmp", true, 0)), [""; 0]);
        assert_eq!(code(workspace.stat(&path("deep"))), ErrorCode::FileNotFound);
    });
}
