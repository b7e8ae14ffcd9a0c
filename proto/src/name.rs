//! Resource names: `sessions/{session}`, `sessions/{session}/executions/{execution}`, `.../turns/{turn}`,
//! `.../contexts/{context}`.
use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// The most characters that an id may have.
const MAX_ID: usize = 63;

fn is_id(text: &str, underscore: bool) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (underscore && b == b'_');
    !text.is_empty() && text.len() <= MAX_ID && !text.starts_with('-') && text.bytes().all(allowed)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal, underscore: $underscore:literal, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                if is_id(text, $underscore) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Error::invalid($field, concat!("must be 1 to 63 of ", $allowed, ", and not begin with \"-\"")))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A session's id: 1 to 63 of a-z, 0-9 and "-".
    SessionId, "session", underscore: false, "a-z, 0-9 and \"-\"");
id!(
    /// An execution's id, which is its request id: 1 to 63 of a-z, 0-9 and "-".
    ExecutionId, "request_id", underscore: false, "a-z, 0-9 and \"-\"");
id!(
    /// A turn's id, which is its request id: 1 to 63 of a-z, 0-9 and "-".
    TurnId, "request_id", underscore: false, "a-z, 0-9 and \"-\"");
id!(
    /// A context's id: 1 to 63 of a-z, 0-9, "-" and "_". A context named for its kernel bears the kernel's name.
    ContextId, "context", underscore: true, "a-z, 0-9, \"-\" and \"_\"");

impl SessionId {
    /// Reads `sessions/{session}`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.strip_prefix("sessions/") {
            Some(id) => id.parse(),
            None => Err(Error::invalid("session", "must be sessions/{session}")),
        }
    }

    /// `sessions/{session}`.
    pub fn name(&self) -> String {
        format!("sessions/{self}")
    }
}

macro_rules! child_name {
    ($(#[$doc:meta])* $name:ident, $id:ident, $field:ident, $collection:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name {
            pub session: SessionId,
            pub $field: $id,
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                let shape = || Error::invalid("name", concat!("must be sessions/{session}/", $collection, "/{id}"));
                let rest = name.strip_prefix("sessions/").ok_or_else(shape)?;
                let (session, $field) = rest.split_once(concat!("/", $collection, "/")).ok_or_else(shape)?;
                Ok(Self { session: session.parse()?, $field: $field.parse()? })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("sessions/{}/", $collection, "/{}"), self.session, self.$field)
            }
        }
    };
}

child_name!(
    /// `sessions/{session}/executions/{execution}`.
    ExecutionName, ExecutionId, execution, "executions");
child_name!(
    /// `sessions/{session}/turns/{turn}`.
    TurnName, TurnId, turn, "turns");
child_name!(
    /// `sessions/{session}/contexts/{context}`.
    ContextName, ContextId, context, "contexts");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_read_as_they_are_written() {
        let name: ExecutionName = "sessions/s1/executions/0-a".parse().unwrap();
        assert_eq!((name.session.as_str(), name.execution.as_str()), ("s1", "0-a"));
        assert_eq!(name.to_string(), "sessions/s1/executions/0-a");
    }

    #[test]
    fn odd_names_are_refused() {
        for name in
            ["", "sessions/", "sessions/A", "sessions/a/b", "session/a", "sessions/-a", "sessions/a\n", "sessions/.."]
        {
            assert!(SessionId::from_name(name).is_err(), "{name:?}");
        }
        assert!("sessions/a/executions/".parse::<ExecutionName>().is_err());
        assert!("sessions/a/contexts/b/c".parse::<ContextName>().is_err());
    }

    proptest! {
        #[test]
        fn an_id_is_never_a_path(text in ".{0,80}") {
            if let Ok(id) = text.parse::<SessionId>() {
                prop_assert!(!id.as_str().contains(['/', '.', '\0']));
            }
        }
    }
}
