//! Conditions: what is true of a resource, since when and why.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Like every Kubernetes resource's; `type` is unique in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What this is about, such as Ready.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// One word for programs.
    pub reason: String,
    /// The same for people.
    #[serde(default)]
    pub message: String,
    /// The generation of the resource that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status changed last.
    pub last_transition_time: Time,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Puts a condition in its place. Its time stays where the status does.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|it| it.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64, status: ConditionStatus, reason: &str) -> Condition {
        let time = Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
        Condition {
            type_: "Ready".into(),
            status,
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: time,
        }
    }

    #[test]
    fn a_conditions_time_is_that_of_its_last_change() {
        let mut conditions = vec![at(1, ConditionStatus::False, "Starting")];
        set_condition(&mut conditions, at(2, ConditionStatus::False, "Pulling"));
        assert_eq!(conditions, [at(1, ConditionStatus::False, "Pulling")]);
        set_condition(&mut conditions, at(3, ConditionStatus::True, "Ready"));
        assert_eq!(conditions, [at(3, ConditionStatus::True, "Ready")]);
    }
}
