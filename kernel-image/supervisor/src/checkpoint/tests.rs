//! Checkpoints there and back, and what hostile ones come to.
mod hostile;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use cap_std::ambient_authority;
use kernelbox_proto::v1::ErrorCode;
use proptest::{collection::btree_map, prelude::*};
use tempfile::TempDir;

use super::{read::Restored, *};
use crate::workspace::Quota;

/// Folders of a checkpoint, beside a secret that must stay outside.
struct Place {
    folder: TempDir,
    roots: Roots,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            Arc::new(Dir::open_ambient_dir(&path, ambient_authority()).unwrap())
        };
        let roots = Roots { workspace: open("workspace"), packages: open("packages") };
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/secret"), "secret").unwrap();
        Self { folder, roots }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn save(&self) -> (Vec<u8>, Vec<String>) {
        let mut stream = Vec::new();
        let written = write::write(&self.roots, u64::MAX, &mut stream).unwrap();
        (stream, written.notes.into_lines())
    }

    fn restore(&self, stream: &[u8]) -> kernelbox_proto::Result<Restored> {
        let restored = read::restore(&self.roots, &Quota::unlimited(), stream);
        self.assert_nothing_left();
        restored
    }

    fn mark(&self) -> String {
        write::mark(&self.roots, &|| Ok(())).unwrap()
    }

    /// The mark once the clock of files has moved on, after which it stays.
    fn settled_mark(&self) -> String {
        let began = Instant::now();
        loop {
            let mark = self.mark();
            if mark == self.mark() {
                return mark;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "the mark never settles");
        }
    }

    /// All that is in the roots, with kind, mode, time and content.
    fn all(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for root in ["workspace", "packages"] {
            list(&self.at(root), root, &mut all);
        }
        all
    }

    fn assert_nothing_left(&self) {
        let mut names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort_unstable();
        assert_eq!(names, ["outside", "packages", "workspace"]);
        let outside: Vec<_> = fs::read_dir(self.at("outside")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(outside, ["secret"]);
        assert_eq!(fs::read(self.at("outside/secret")).unwrap(), b"secret");
    }
}

fn list(folder: &Path, path: &str, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{path}/{}", entry.file_name().to_str().unwrap());
        let metadata = entry.path().symlink_metadata().unwrap();
        let content = if metadata.is_file() {
            hex::encode(fs::read(entry.path()).unwrap())
        } else if metadata.is_symlink() {
            fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned()
        } else {
            list(&entry.path(), &path, all);
            "folder".to_owned()
        };
        all.insert(path, format!("{:o} {} {content}", metadata.mode(), metadata.mtime()));
    }
}

fn code(restored: kernelbox_proto::Result<Restored>) -> ErrorCode {
    restored.map(|restored| restored.files).unwrap_err().code
}

/// What a test puts at a path.
#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>, u32, u64),
    Folder(u32),
    Link(String),
}

fn thing() -> impl Strategy<Value = Thing> {
    let content = prop_oneof![Just(Vec::new()), any::<Vec<u8>>(), (1..3000_usize).prop_map(|n| vec![b'x'; n])];
    prop_oneof![
        6 => (content, 0o400..=0o777_u32, 0..2_000_000_000_u64).prop_map(|(bytes, mode, time)| Thing::File(bytes, mode, time)),
        2 => (0o700..=0o777_u32).prop_map(Thing::Folder),
        1 => "[a-c]{1,3}(/[a-c]){0,2}".prop_map(Thing::Link),
    ]
}

fn tree() -> impl Strategy<Value = BTreeMap<String, Thing>> {
    btree_map("(workspace|packages)(/([a-c]|long-{0,1}[a-z]{60}|[ü\u{1f4ca}\n -]{1,3})){1,4}", thing(), 0..24)
}

fn put(place: &Place, path: &str, thing: &Thing) {
    let at = place.at(path);
    // Where a file stands in the way of a folder, the later one is left out.
    let Some(parent) = at.parent() else { return };
    if fs::create_dir_all(parent).is_err() || at.symlink_metadata().is_ok() {
        return;
    }
    match thing {
        Thing::File(bytes, mode, time) => {
            let mut file = fs::File::create(&at).unwrap();
            file.write_all(bytes).unwrap();
            file.set_permissions(fs::Permissions::from_mode(*mode)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(*time)).unwrap();
        }
        Thing::Folder(mode) => {
            fs::create_dir(&at).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
        }
        Thing::Link(target) => symlink(target, &at).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_was_there_comes_back_with_modes_and_times(tree in tree()) {
        let place = Place::new();
        for (path, thing) in &tree {
            put(&place, path, thing);
        }
        let (stream, skipped) = place.save();
        prop_assert_eq!(skipped, Vec::<String>::new());
        let other = Place::new();
        let restored = other.restore(&stream).unwrap();
        prop_assert_eq!(restored.notes.into_lines(), Vec::<String>::new());
        prop_assert_eq!(other.all(), place.all());
        // And once more over what is there.
        other.restore(&stream).unwrap();
        prop_assert_eq!(other.all(), place.all());
    }

    #[test]
    fn a_stream_that_was_cut_or_changed_is_damaged(cut in 0.0..1.0_f64, at in 0.0..1.0_f64, bit in 0..8_u8) {
        let place = Place::new();
        fs::write(place.at("workspace/a"), vec![b'a'; 3000]).unwrap();
        let (stream, _) = place.save();
        let index = |part: f64| (part * stream.len() as f64) as usize;
        prop_assert_eq!(code(Place::new().restore(&stream[..index(cut)])), ErrorCode::InvalidArgument);
        let mut changed = stream.clone();
        changed[index(at)] ^= 1 << bit;
        let other = Place::new();
        if let Ok(restored) = other.restore(&changed) {
            // A bit that says nothing.
            prop_assert_eq!((restored.files, other.all()), (1, place.all()));
        }
    }
}

#[test]
fn odd_things_are_listed_and_never_opened() {
    let place = Place::new();
    fs::create_dir(place.at("workspace/d")).unwrap();
    fs::write(place.at("workspace/d/kept"), "kept").unwrap();
    nix::unistd::mkfifo(&place.at("workspace/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.at("workspace/socket")).unwrap();
    for (name, target) in [("out", "../outside/secret"), ("absolute", "/etc/passwd"), ("d/up", "../../outside")] {
        symlink(target, place.at("workspace").join(name)).unwrap();
    }
    symlink("../d/kept", place.at("workspace/d/inside")).unwrap();
    let deep = "x/".repeat(MAX_DEPTH + 1);
    fs::create_dir_all(place.at("workspace").join(&deep)).unwrap();
    fs::create_dir_all(place.at("workspace/.kernelbox/tmp")).unwrap();
    fs::write(place.at("workspace/.kernelbox/tmp/half"), "half").unwrap();

    let (stream, mut skipped) = place.save();
    skipped.sort_unstable();
    let says = |line: &str| line.rsplit_once(": ").map(|(path, why)| (path.to_owned(), why.to_owned())).unwrap();
    let told: Vec<_> = skipped.iter().map(|line| says(line)).collect();
    let out = "a link that leads out";
    let odd = "a FIFO, socket or device";
    for (path, why) in [("absolute", out), ("d/up", out), ("out", out), ("fifo", odd), ("socket", odd)] {
        assert!(told.contains(&(format!("workspace/{path}"), why.to_owned())), "{path}: {told:?}");
    }
    assert_eq!(told.iter().filter(|(_, why)| why == "the folder is too deep").count(), 1);
    assert_eq!(told.len(), 6, "{told:?}");

    let other = Place::new();
    other.restore(&stream).unwrap();
    assert_eq!(fs::read_to_string(other.at("workspace/d/inside")).unwrap(), "kept");
    assert!(!other.at("workspace/.kernelbox/tmp/half").exists(), "half-written files are of no use later");
}

#[test]
fn what_does_not_fit_is_listed() {
    let place = Place::new();
    fs::write(place.at("workspace/small"), "small").unwrap();
    fs::File::create(place.at("workspace/sparse")).unwrap().set_len(1 << 41).unwrap();
    let mut stream = Vec::new();
    let written = write::write(&place.roots, u64::MAX, &mut stream).unwrap();
    assert_eq!((written.files, written.bytes), (1, 5));
    assert_eq!(written.notes.into_lines(), ["workspace/sparse: it is larger than a workspace may be"]);
    for n in 0..150 {
        symlink("/", place.at(&format!("workspace/link-{n}"))).unwrap();
    }
    let (_, skipped) = place.save();
    assert_eq!((skipped.len(), skipped.last().unwrap().as_str()), (100, "and 52 more"));
}

#[test]
fn the_mark_is_another_after_every_change_and_only_then() {
    let place = Place::new();
    fs::write(place.at("workspace/a"), "one").unwrap();
    fs::create_dir(place.at("workspace/.git")).unwrap();
    let mut marks = vec![place.settled_mark()];
    assert_eq!(place.mark(), marks[0]);
    place.save();
    assert_eq!(place.mark(), marks[0], "to save it is no change");
    let changes: [&dyn Fn(); 6] = [
        &|| fs::write(place.at("workspace/a"), "two").unwrap(),
        &|| fs::write(place.at("packages/p.py"), "p").unwrap(),
        &|| fs::write(place.at("workspace/.git/config"), "c").unwrap(),
        &|| fs::set_permissions(place.at("workspace/a"), fs::Permissions::from_mode(0o640)).unwrap(),
        &|| fs::rename(place.at("workspace/a"), place.at("workspace/b")).unwrap(),
        &|| fs::remove_file(place.at("workspace/b")).unwrap(),
    ];
    for change in changes {
        change();
        // At once: no later change can be taken for this one.
        assert_ne!(place.mark(), place.mark());
        let mark = place.settled_mark();
        assert!(!marks.contains(&mark));
        marks.push(mark);
    }
}

#[test]
fn a_file_that_shrinks_or_grows_while_it_is_read_keeps_its_promised_size() {
    let place = Place::new();
    let size = 4 << 20;
    let path = place.at("workspace/a");
    for (change, says) in [(0, "became shorter"), (size * 2, "changed while")] {
        fs::write(&path, vec![7; size]).unwrap();
        let handle = fs::File::options().write(true).open(&path).unwrap();
        let mut stream = Vec::new();
        let mut changed = false;
        let out = Tap(&mut stream, || {
            if !std::mem::replace(&mut changed, true) {
                handle.set_len(change as u64).unwrap();
            }
        });
        let written = write::write(&place.roots, u64::MAX, out).unwrap();
        let notes = written.notes.into_lines();
        assert!(notes.len() == 1 && notes[0].contains(says), "{notes:?}");
        let other = Place::new();
        assert_eq!(other.restore(&stream).unwrap().files, 1);
        assert_eq!(fs::metadata(other.at("workspace/a")).unwrap().len(), size as u64);
    }
}

/// Calls a function before the first bytes leave, which is while the file is read.
struct Tap<'a, F>(&'a mut Vec<u8>, F);

impl<F: FnMut()> std::io::Write for Tap<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.1)();
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn links_stay_inside_by_their_words() {
    for (target, depth, stays) in [
        ("a", 0, true),
        ("./a/../b", 0, true),
        ("..", 1, true),
        ("..", 0, false),
        ("../a", 0, false),
        ("a/../../b", 0, false),
        ("a/../../b", 1, true),
        ("/a", 3, false),
        ("", 3, false),
    ] {
        assert_eq!(stays_inside(target.as_bytes(), depth), stays, "{target} at {depth}");
    }
}
