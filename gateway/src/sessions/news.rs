//! What a client is told of a new sandbox: what is there again, and what is not.
use std::time::{Duration, UNIX_EPOCH};

use kernelbox_proto::v1::{SandboxStage, Stage};

use crate::store::Micros;

/// Paths that are named.
const NAMED: usize = 5;

/// What became of the files of earlier sandboxes.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// When what was restored had been saved.
    pub(super) saved: Option<Micros>,
    /// Paths that did not come back, with the reasons.
    pub(super) missing: Vec<String>,
    /// The last sandbox was lost with changes that were not saved.
    pub(super) lost: bool,
}

impl Files {
    /// For the session's second sandbox and those after it.
    pub(super) fn news(&self) -> String {
        let mut news = "a new sandbox is ready".to_owned();
        if self.saved.is_some() {
            news.push_str("; the files are there");
        }
        if let Some((first, rest)) = self.missing.split_at_checked(self.missing.len().min(NAMED))
            && !first.is_empty()
        {
            news.push_str(&format!(" but for {}", first.join(", ")));
            if !rest.is_empty() {
                news.push_str(&format!(" and {} more", rest.len()));
            }
        }
        news.push_str(match (self.lost, self.saved) {
            (false, _) => "",
            (true, Some(_)) => "; changed files since the last save at ",
            (true, None) => "; the files of the earlier sandbox were not saved yet and are lost",
        });
        if let (true, Some(saved)) = (self.lost, self.saved) {
            news.push_str(&format!("{} are lost", time(saved)));
        }
        news.push_str(GONE);
        news
    }
}

const GONE: &str = "; the variables of the earlier sandbox are gone";

/// The same where files outlive sandboxes by themselves.
pub(super) fn files_kept() -> String {
    format!("a new sandbox is ready; the files are there{GONE}")
}

fn time(at: Micros) -> String {
    let since = Duration::from_micros(u64::try_from(at.0).unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// The last stage.
pub(crate) fn ready(message: &str) -> SandboxStage {
    SandboxStage { stage: Stage::Ready.into(), position: 0, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told() {
        let saved = Some(Micros(1_000_000_000_000_000));
        let none = Vec::new;
        let missing: Vec<_> = (1..=7).map(|n| format!("{n}: odd")).collect();
        for (files, told) in [
            (Files { saved: None, missing: none(), lost: false }, ""),
            (Files { saved, missing: none(), lost: false }, "; the files are there"),
            (
                Files { saved, missing: missing.clone(), lost: false },
                "; the files are there but for 1: odd, 2: odd, 3: odd, 4: odd, 5: odd and 2 more",
            ),
            (
                Files { saved, missing: missing[..1].to_vec(), lost: true },
                "; the files are there but for 1: odd; changed files since the last save at 2001-09-09T01:46:40Z are lost",
            ),
            (
                Files { saved: None, missing: none(), lost: true },
                "; the files of the earlier sandbox were not saved yet and are lost",
            ),
        ] {
            assert_eq!(
                files.news(),
                format!("a new sandbox is ready{told}; the variables of the earlier sandbox are gone")
            );
        }
    }
}
