//! What pools and templates say of themselves. Pure.
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kernelbox_api::{Condition, SandboxPool, SandboxTemplateStatus, set_condition};

use super::{Template, trouble::Trouble};

fn condition(type_: &str, holds: bool, reason: &str, message: String, now: Timestamp) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: holds.into(),
        reason: reason.to_owned(),
        message,
        observed_generation: None,
        last_transition_time: Time(now),
    }
}

/// Whether it is filled, and whether its sandboxes start.
pub(super) fn of_pool(
    pool: &SandboxPool,
    is_filled: bool,
    trouble: Option<&Trouble>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = pool.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let reason = if is_filled { "Filled" } else { "Filling" };
    set_condition(&mut conditions, condition("Ready", is_filled, reason, String::new(), now));
    let degraded = match trouble {
        None => condition("Degraded", false, "SandboxesStart", String::new(), now),
        Some(trouble) => {
            let times = if trouble.failures == 1 { "the last one" } else { "the last ones" };
            let message = format!("{times} did not start ({}): {}", trouble.reason, trouble.message);
            condition("Degraded", true, &trouble.reason.to_string(), message, now)
        }
    };
    set_condition(&mut conditions, degraded);
    conditions
}

/// Whether pods can be made from it, and which.
pub(super) fn of_template(known: &Template, now: Timestamp) -> SandboxTemplateStatus {
    let template = &known.template;
    let mut conditions = template.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let ready = match &known.problem {
        None => condition("Ready", true, "Valid", String::new(), now),
        Some(problem) => condition("Ready", false, "Invalid", problem.clone(), now),
    };
    set_condition(&mut conditions, ready);
    SandboxTemplateStatus {
        template_hash: known.hash.clone(),
        observed_generation: template.metadata.generation,
        conditions,
    }
}
