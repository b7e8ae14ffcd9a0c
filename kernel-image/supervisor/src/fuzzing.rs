//! What holds for every text that clients send: for fuzzers, and for property tests. No part of the program.
use std::path::{Component, Path};

use crate::{
    packages::Requirement,
    workspace::{MOUNT, WorkspacePath},
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
