//! Prints the resource definitions as YAML. They are kept in deploy/crds, and checked to be the same.
use std::io::Write;

use anyhow::Context as _;

/// Writes each definition as a document of its own.
pub fn print(to: &mut impl Write) -> anyhow::Result<()> {
    for definition in kernelbox_api::definitions() {
        let yaml = serde_saphyr::to_string(&definition).context("a definition is not YAML")?;
        write!(to, "---\n{yaml}").context("cannot write")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kept_definitions_are_those_of_the_code() {
        let mut now = Vec::new();
        super::print(&mut now).unwrap();
        let kept = include_str!("../../deploy/crds/kernelbox.dev.yaml");
        assert!(kept.as_bytes() == now, "deploy/crds is stale; run: make crds");
    }
}
