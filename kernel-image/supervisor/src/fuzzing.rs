//! What holds for every text that clients send: for fuzzers, and for property tests. No part of the program.
use std::{
    fs,
    path::{Component, Path},
    sync::Arc,
};

use cap_std::{ambient_authority, fs::Dir};

use crate::{
    checkpoint::{Roots, restore, unpack},
    packages::Requirement,
    workspace::{MOUNT, Quota, WorkspacePath},
};

/// No path leaves the workspace, and a path that was read reads as itself.
pub fn path(text: &str) {
    let Ok(path) = WorkspacePath::parse("path", text) else { return };
    assert!(Path::new(path.as_str()).components().all(|part| matches!(part, Component::Normal(_))), "{text:?}");
    assert!(path.as_str().len() <= text.len(), "{text:?}");
    for same in [path.as_str().to_owned(), format!("{MOUNT}/{}", path.as_str())] {
        // With its mount it may be longer than a path can be.
        assert!(same.len() > 4096 || WorkspacePath::parse("path", &same).ok().as_ref() == Some(&path), "{text:?}");
    }
}

/// What is taken for a requirement is one word that no installer can take for an option, a path or an address.
pub fn requirement(text: &str) {
    let Ok(requirement) = text.parse::<Requirement>() else { return };
    let line = requirement.to_string();
    assert!(line.starts_with(|c: char| c.is_ascii_alphanumeric()), "{text:?}");
    assert!(line.is_ascii() && !line.contains(['/', '\n', ' ', '@', ';', ':', '#', '$', '\\']), "{text:?}");
    assert!(line.len() <= 200 && line.parse::<Requirement>().ok().as_ref() == Some(&requirement), "{text:?}");
}

/// A checkpoint, whatever it is, leaves what is outside its folders alone and stays within the quota.
pub fn checkpoint(stream: &[u8]) {
    const QUOTA: u64 = 1 << 20;
    let Ok(place) = tempfile::tempdir() else { return };
    let make = |name: &str| {
        let path = place.path().join(name);
        fs::create_dir(&path).and_then(|()| Dir::open_ambient_dir(&path, ambient_authority())).map(Arc::new)
    };
    let (Ok(workspace), Ok(packages)) = (make("workspace"), make("packages")) else { return };
    let roots = Roots { workspace, packages };
    let secret = place.path().join("secret");
    fs::write(&secret, "secret").ok();
    for restored in [unpack(&roots, &Quota::new(QUOTA), stream), restore(&roots, &Quota::new(QUOTA), stream)] {
        assert!(restored.is_err() || restored.is_ok_and(|restored| restored.bytes <= QUOTA));
    }
    let mut names: Vec<_> =
        fs::read_dir(place.path()).into_iter().flatten().flatten().map(|it| it.file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["packages", "secret", "workspace"]);
    assert_eq!(fs::read(secret).ok().as_deref(), Some(&b"secret"[..]));
}
