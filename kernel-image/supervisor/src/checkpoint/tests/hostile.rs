//! Streams that no checkpoint is.
use tar::{Builder, EntryType, Header};

use super::*;

/// A tar stream of what is named, made with the names as they are.
struct Evil(Builder<Vec<u8>>);

impl Evil {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, target: &str, bytes: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }

    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", bytes)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    /// The whole stream, its last folder included.
    fn stream(self) -> Vec<u8> {
        self.entry(EntryType::Directory, "packages", "", b"").0.into_inner().unwrap()
    }

    fn restore(self, place: &Place, quota: u64) -> kernelbox_proto::Result<Restored> {
        let stream = zstd::encode_all(&*self.stream(), 1).unwrap();
        let restored = read::restore(&place.roots, &Quota::new(quota), &*stream);
        place.assert_nothing_left();
        restored
    }
}

#[test]
fn nothing_leaves_the_folders() {
    let secret = "workspace/../outside/secret";
    for (evil, expected) in [
        (Evil::new().file(secret, b"x"), ErrorCode::InvalidPath),
        (Evil::new().file("../outside/secret", b"x"), ErrorCode::InvalidPath),
        (Evil::new().file("/tmp/x", b"x"), ErrorCode::InvalidPath),
        (Evil::new().file("outside/secret", b"x"), ErrorCode::InvalidPath),
        (Evil::new().file("workspace", b"x"), ErrorCode::InvalidPath),
        (Evil::new().file("", b"x"), ErrorCode::InvalidPath),
        (Evil::new().entry(EntryType::Directory, "workspace/..", "", b""), ErrorCode::InvalidPath),
        (
            Evil::new().entry(EntryType::GNULongName, "x", "", secret.as_bytes()).file("workspace/a", b"x"),
            ErrorCode::InvalidPath,
        ),
        (Evil::new().link("workspace/l", "../outside/secret"), ErrorCode::InvalidPath),
        (Evil::new().link("workspace/l", "/etc/passwd"), ErrorCode::InvalidPath),
        (Evil::new().link("workspace/l", ""), ErrorCode::InvalidPath),
        (Evil::new().link("packages", "outside"), ErrorCode::InvalidPath),
        (Evil::new().link("workspace/l", "d").file("workspace/l/f", b"x"), ErrorCode::InvalidPath),
        (
            Evil::new().link("workspace/l", ".").entry(EntryType::Directory, "workspace/l/d", "", b""),
            ErrorCode::InvalidPath,
        ),
        (Evil::new().file("workspace/f", b"x").file("workspace/f/g", b"x"), ErrorCode::InvalidPath),
        (Evil::new().entry(EntryType::Link, "workspace/h", "outside/secret", b""), ErrorCode::NotARegularFile),
        (Evil::new().entry(EntryType::Char, "workspace/null", "", b""), ErrorCode::NotARegularFile),
        (Evil::new().entry(EntryType::Block, "workspace/disk", "", b""), ErrorCode::NotARegularFile),
        (Evil::new().entry(EntryType::Fifo, "workspace/fifo", "", b""), ErrorCode::NotARegularFile),
        (Evil::new().entry(EntryType::XHeader, "workspace/x", "", b""), ErrorCode::NotARegularFile),
        (Evil::new().entry(EntryType::GNUSparse, "workspace/s", "", b""), ErrorCode::NotARegularFile),
        (Evil::new().entry(EntryType::Directory, "workspace/d", "", b"content"), ErrorCode::InvalidArgument),
        (
            Evil::new().entry(EntryType::GNULongName, "x", "", &[b'a'; 9000]).file("workspace/a", b"x"),
            ErrorCode::InvalidArgument,
        ),
    ] {
        let place = Place::new();
        assert_eq!(code(evil.restore(&place, u64::MAX)), expected);
    }
    let deep = format!("workspace/{}", "d/".repeat(MAX_DEPTH + 2));
    let evil = Evil::new().entry(EntryType::GNULongName, "x", "", deep.as_bytes()).file("x", b"x");
    assert_eq!(code(evil.restore(&Place::new(), u64::MAX)), ErrorCode::InvalidPath);
}

#[test]
fn a_link_that_was_there_before_is_not_followed() {
    let place = Place::new();
    symlink("../outside", place.at("workspace/l")).unwrap();
    symlink("../outside/secret", place.at("workspace/f")).unwrap();
    assert_eq!(code(Evil::new().file("workspace/l/secret", b"x").restore(&place, 100)), ErrorCode::InvalidPath);
    Evil::new().file("workspace/f", b"mine").restore(&place, 100).unwrap();
    assert!(place.at("workspace/f").symlink_metadata().unwrap().is_file(), "the link was replaced");
}

#[test]
fn the_last_of_two_with_one_name_counts_and_what_cannot_be_is_listed() {
    let place = Place::new();
    let long = format!("workspace/{}", "n".repeat(300));
    let evil = Evil::new()
        .file("workspace/a", b"one")
        .file("workspace/a", b"two")
        .link("workspace/l", "a")
        .file("workspace/l", b"three")
        .file("workspace/d/f", b"f")
        .file("workspace/d", b"no folder any more")
        .entry(EntryType::GNULongName, "x", "", long.as_bytes())
        .file("x", b"x");
    let restored = evil.restore(&place, 1000).unwrap();
    assert_eq!(fs::read(place.at("workspace/a")).unwrap(), b"two");
    assert_eq!(fs::read(place.at("workspace/l")).unwrap(), b"three");
    assert_eq!(fs::read(place.at("workspace/d/f")).unwrap(), b"f");
    assert_eq!(restored.notes.into_lines().len(), 2);
}

#[test]
fn no_more_than_the_quota_is_written() {
    let place = Place::new();
    let zeros = vec![0; 1 << 20];
    let many = (0..8).fold(Evil::new(), |evil, n| evil.file(&format!("workspace/{n}"), &zeros));
    assert_eq!(code(many.restore(&place, 3 << 20)), ErrorCode::DiskLimit);
    assert_eq!(place.all().len(), 3);

    // A header may claim what never comes.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path("workspace/huge").unwrap();
    header.set_size(1 << 60);
    header.set_cksum();
    let bomb = header.as_bytes().to_vec();
    let place = Place::new();
    assert_eq!(code(read::unpack(&place.roots, &Quota::new(1000), &*bomb)), ErrorCode::DiskLimit);
    assert_eq!(code(read::unpack(&place.roots, &Quota::unlimited(), &*bomb)), ErrorCode::InvalidArgument);

    // Nor does a stream go on for ever after its end.
    let mut tail = Evil::new().stream();
    tail.extend(vec![0; 4 << 20]);
    assert_eq!(code(read::unpack(&place.roots, &Quota::unlimited(), &*tail)), ErrorCode::InvalidArgument);
    // A window that would take much memory.
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&Evil::new().stream()).unwrap();
    assert_eq!(code(place.restore(&wide.finish().unwrap())), ErrorCode::InvalidArgument);
}

#[test]
fn what_is_no_stream_is_damaged() {
    for garbage in [&b""[..], b"not zstd at all", &[0; 2000], &zstd::encode_all(&b"not tar"[..], 1).unwrap()] {
        assert_eq!(code(Place::new().restore(garbage)), ErrorCode::InvalidArgument, "{garbage:?}");
    }
    // The last bytes are the checksum.
    let (stream, _) = Place::new().save();
    assert_eq!(code(Place::new().restore(&stream[..stream.len() - 1])), ErrorCode::InvalidArgument);
    let no_end = Evil::new().file("workspace/a", b"a").0.into_inner().unwrap();
    let stream = zstd::encode_all(&*no_end, 1).unwrap();
    assert_eq!(code(Place::new().restore(&stream)), ErrorCode::InvalidArgument);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_it_is_nothing_leaves(
        names in proptest::collection::vec(("(workspace|packages|\\.\\.|/|\\.)(/(a|b|\\.\\.|\\.|)){0,4}", "(a|b|\\.\\.|/)(/(a|\\.\\.)){0,2}", 0..4_u8), 0..12),
        noise in any::<Vec<u8>>(),
    ) {
        let evil = names.iter().fold(Evil::new(), |evil, (name, target, kind)| match kind {
            0 => evil.entry(EntryType::Directory, name, "", b""),
            1 => evil.link(name, target),
            2 => evil.entry(EntryType::Link, name, target, b""),
            _ => evil.file(name, b"content"),
        });
        let stream = evil.stream();
        crate::fuzzing::checkpoint(&stream);
        crate::fuzzing::checkpoint(&zstd::encode_all(&*stream, 1).unwrap());
        crate::fuzzing::checkpoint(&noise);
    }
}
