//! Paths that name something in the workspace, and nothing else.
use std::fmt;

use kernelbox_proto::{Error, Result, v1::ErrorCode};

/// Where code sees the workspace.
pub const MOUNT: &str = "/workspace";
/// The most bytes of one part, as file systems have it.
const MAX_PART: usize = 255;
/// The most bytes of all.
const MAX_PATH: usize = 4096;

/// A path relative to the workspace, its parts separated by one "/", none of them empty, "." or "..". Empty: the workspace itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspacePath(String);

impl WorkspacePath {
    /// Reads the field of a request. `InvalidPath` says what is wrong with it.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let invalid = |problem: &str| {
            let mut error = Error::new(ErrorCode::InvalidPath, format!("{field}: {problem}"));
            error.field = Some(field.to_owned());
            error
        };
        if text.contains('\0') {
            return Err(invalid("must not contain a zero byte"));
        }
        if text.len() > MAX_PATH {
            return Err(invalid("must be at most 4,096 bytes"));
        }
        let relative = match text.strip_prefix('/') {
            None => text,
            Some(_) => match text.trim_start_matches('/').strip_prefix(MOUNT.trim_start_matches('/')) {
                Some(below) if below.is_empty() || below.starts_with('/') => below,
                _ => return Err(invalid("an absolute path must begin with /workspace; better give a relative one")),
            },
        };
        let mut path = String::with_capacity(relative.len());
        for part in relative.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part == ".." {
                return Err(invalid("must not contain \"..\"; name the file from the workspace on"));
            }
            if part.len() > MAX_PART {
                return Err(invalid("each part between \"/\" must be at most 255 bytes"));
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
        }
        Ok(Self(path))
    }

    /// Like [`Self::parse`], but the workspace itself is refused.
    pub fn parse_entry(field: &str, text: &str) -> Result<Self> {
        let path = Self::parse(field, text)?;
        if path.0.is_empty() {
            let mut error =
                Error::new(ErrorCode::InvalidPath, format!("{field}: must name something in the workspace"));
            error.field = Some(field.to_owned());
            return Err(error);
        }
        Ok(path)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For calls on descriptors: the workspace itself is ".".
    pub(super) fn beneath(&self) -> &str {
        if self.0.is_empty() { "." } else { &self.0 }
    }

    /// The folder that it is in, and its name there; the workspace itself is "." in itself.
    pub(super) fn split(&self) -> (Self, &str) {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => (Self(parent.to_owned()), name),
            None => (Self(String::new()), self.beneath()),
        }
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str(MOUNT) } else { write!(f, "{:?}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String> {
        WorkspacePath::parse("path", text).map(|path| path.0)
    }

    #[test]
    fn one_file_has_one_path() {
        for text in ["a/b", "./a/b", "a//b/", "/workspace/a/b", "//workspace//a/./b", "/workspace/./a/b/"] {
            assert_eq!(parse(text).unwrap(), "a/b", "{text}");
        }
        for text in ["", ".", "/workspace", "/workspace/", "./"] {
            assert_eq!(parse(text).unwrap(), "", "{text}");
            assert_eq!(WorkspacePath::parse_entry("path", text).unwrap_err().code, ErrorCode::InvalidPath);
        }
        for text in ["a\nb", "-rf", "~", "..a", "...", " ", "workspace/a", "\u{1f4ca}.png", "a\\..\\b"] {
            assert_eq!(parse(text).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_path_of_the_workspace_is_refused_with_what_to_do() {
        let long = "x".repeat(256);
        let deep = "d/".repeat(2049);
        for (text, says) in [
            ("..", ".."),
            ("a/../../b", ".."),
            ("/workspace/../etc/passwd", ".."),
            ("/etc/passwd", "/workspace"),
            ("/workspaces/a", "/workspace"),
            ("/", "/workspace"),
            ("a\0b", "zero byte"),
            (long.as_str(), "255"),
            (deep.as_str(), "4,096"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.code, error.field.as_deref()), (ErrorCode::InvalidPath, Some("path")), "{text:?}");
            assert!(error.message.contains(says), "{text:?}: {error}");
        }
        assert!(parse(&"x".repeat(255)).is_ok());
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_workspace(text in "(/?workspace)?([a-z./\\\\\n]|\\.\\.|//|\\PC){0,40}") {
            crate::fuzzing::path(&text);
        }
    }
}
