//! Names of MCP tools as model providers allow them. Pure.
use std::collections::HashSet;

const MAX: usize = 64;

/// `{server}_{tool}`, of A-Z, a-z, 0-9, "_" and "-", at most 64 of them, and none of `taken`, to which it is added.
pub(super) fn unique(server: &str, tool: &str, taken: &mut HashSet<String>) -> String {
    let whole = format!("{server}_{tool}");
    let plain: String = whole.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let mut name = plain[..plain.len().min(MAX)].to_owned();
    let mut number = 1_u32;
    while !taken.insert(name.clone()) {
        number += 1;
        let end = format!("_{number}");
        name = format!("{}{end}", &plain[..plain.len().min(MAX - end.len())]);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_says_its_server_and_tool() {
        let mut taken = HashSet::from(["python".to_owned()]);
        assert_eq!(unique("git", "log", &mut taken), "git_log");
        assert_eq!(unique("my server", "get.it/now é", &mut taken), "my_server_get_it_now__");
        assert_eq!(unique("git", "log", &mut taken), "git_log_2");
        assert_eq!(unique("git_log", "2", &mut taken), "git_log_2_2");
        assert_eq!(unique("s", &"x".repeat(80), &mut taken), format!("s_{}", "x".repeat(62)));
        assert_eq!(unique("s", &"x".repeat(80), &mut taken), format!("s_{}_2", "x".repeat(60)));
    }

    proptest! {
        #[test]
        fn every_name_is_valid_and_there_once(names in prop::collection::vec(("\\PC{0,70}", "[a-c._]{0,3}"), 1..30)) {
            let mut taken = HashSet::new();
            for (server, tool) in &names {
                let name = unique(server, tool, &mut taken);
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                prop_assert!((1..=64).contains(&name.len()) && name.bytes().all(allowed), "{name}");
            }
            prop_assert_eq!(taken.len(), names.len());
        }
    }
}
