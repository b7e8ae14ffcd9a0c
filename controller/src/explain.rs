//! The story of one sandbox: its stages with their times, whose it is, and why it ended.
use std::io::{self, Write};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::SignedDuration};
use kernelbox_api::Sandbox;
use kube::{Api, Client, ResourceExt as _};

/// Prints it.
pub async fn explain(namespace: &str, name: &str, to: &mut impl Write) -> anyhow::Result<()> {
    let api: Api<Sandbox> = Api::namespaced(Client::try_default().await?, namespace);
    let Some(sandbox) = api.get_opt(name).await? else {
        anyhow::bail!("there is no sandbox {name} in namespace {namespace}; those that ended are kept for ten minutes")
    };
    Ok(tell(&sandbox, to)?)
}

fn tell(sandbox: &Sandbox, to: &mut impl Write) -> io::Result<()> {
    let status = sandbox.status.clone().unwrap_or_default();
    let spec = &sandbox.spec;
    let phase = status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default();
    writeln!(to, "{} ({}), template {}", sandbox.name_any(), phase, spec.template_ref.name)?;
    match (&spec.session, &spec.tenant, spec.generation) {
        (Some(session), Some(tenant), Some(generation)) => {
            writeln!(to, "{session} of tenant {tenant} has it, as its generation {generation}")?;
        }
        _ => writeln!(to, "no session has it")?,
    }
    if let (Some(node), Some(address)) = (&status.node, &status.address) {
        writeln!(to, "node {node}, address {address}, pod uid {}", status.pod_uid.as_deref().unwrap_or("unknown"))?;
    }
    let stages = &status.stages;
    let ended = match status.end_reason {
        Some(reason) => format!("ended: {reason}"),
        None => "ended".to_owned(),
    };
    let mut story: Vec<(&MicroTime, &str)> = [
        (&stages.queued, "asked for"),
        (&stages.created, "pod created"),
        (&stages.scheduled, "node found"),
        (&stages.pulled, "image there"),
        (&stages.started, "supervisor started"),
        (&stages.kernel_ready, "first kernel answers"),
        (&spec.claim_time, "given to its session"),
        (&stages.ended, &ended),
    ]
    .into_iter()
    .filter_map(|(time, what)| Some((time.as_ref()?, what)))
    .collect();
    // Kubernetes keeps seconds of some and microseconds of others: what is of one second stays in the order of the stages.
    story.sort_by_key(|(time, _)| time.0.as_second());
    let mut before = None;
    for (time, what) in story {
        let since = before.map(|before| time.0.duration_since(before)).filter(|it| *it > SignedDuration::ZERO);
        let since = since.map(|it| format!("  (+{:.1} s)", it.as_secs_f64())).unwrap_or_default();
        writeln!(to, "  {:.3}  {what}{since}", time.0)?;
        before = Some(time.0);
    }
    match status.message {
        Some(message) => writeln!(to, "{message}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_told_in_its_order() {
        let sandbox: Sandbox = serde_json::from_value(serde_json::json!({
            "apiVersion": "kernelbox.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "default-1"},
            "spec": {"templateRef": {"name": "default"}, "session": "sessions/a", "tenant": "local", "generation": 2,
                "claimTime": "2026-01-01T00:00:10.500000Z"},
            "status": {"phase": "Ended", "podUid": "u", "node": "node-1", "address": "10.0.0.1:7090", "endReason": "IdleTimeout",
                "message": "it was not used for 15m", "stages": {
                    "queued": "2026-01-01T00:00:00.000000Z", "created": "2026-01-01T00:00:00.000000Z",
                    "kernelReady": "2026-01-01T00:00:02.250000Z", "ended": "2026-01-01T00:20:10.000000Z"}},
        }))
        .unwrap();
        let mut told = Vec::new();
        tell(&sandbox, &mut told).unwrap();
        insta::assert_snapshot!(String::from_utf8(told).unwrap(), @r"
        default-1 (Ended), template default
        sessions/a of tenant local has it, as its generation 2
        node node-1, address 10.0.0.1:7090, pod uid u
          2026-01-01T00:00:00.000Z  asked for
          2026-01-01T00:00:00.000Z  pod created
          2026-01-01T00:00:02.250Z  first kernel answers  (+2.2 s)
          2026-01-01T00:00:10.500Z  given to its session  (+8.2 s)
          2026-01-01T00:20:10.000Z  ended: IdleTimeout  (+1199.5 s)
        it was not used for 15m
        ");
    }
}
