//! The variables of a context, as its kernel tells them, also while a cell runs.
use std::time::Duration;

use kernelbox_proto::{
    Error,
    v1::{Column, ErrorCode, ListVariablesResponse, Variable},
};
use serde::Deserialize;

use crate::jupyter::{Control, Request};

/// The most variables that are told.
const LIMIT: usize = 1_000;
/// The longest repr, in characters.
const REPR_LIMIT: usize = 200;
/// What the kernel may take to describe them.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(2);
/// Until the kernel is taken to be stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    variables: Vec<Described>,
    #[serde(default)]
    incomplete: bool,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    repr: String,
    #[serde(default)]
    shape: Vec<i64>,
    #[serde(default)]
    columns: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    #[serde(default)]
    dtype: String,
}

/// Asks the kernel. What it answers is the code's word: it is bounded, and no more than that.
pub async fn list(control: &Control) -> Result<ListVariablesResponse, Error> {
    let content = serde_json::json!({
        "limit": LIMIT, "repr_limit": REPR_LIMIT, "timeout_ms": u64::try_from(DESCRIBE_LIMIT.as_millis()).unwrap_or(u64::MAX),
    });
    let request = Request::new("kernelbox_variables_request", content);
    let unavailable = |error: String| {
        Error::new(ErrorCode::KernelUnavailable, format!("the kernel cannot tell its variables now: {error}"))
    };
    let content = control.ask(request, ANSWER_LIMIT).await.map_err(|error| unavailable(error.to_string()))?;
    let text = String::from_utf8_lossy(&content);
    let Reply { mut variables, incomplete } = serde_json::from_str(&text).map_err(|e| unavailable(e.to_string()))?;
    let cut = variables.len() > LIMIT;
    variables.truncate(LIMIT);
    variables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(ListVariablesResponse {
        variables: variables.into_iter().map(variable).collect(),
        incomplete: incomplete || cut,
    })
}

fn variable(described: Described) -> Variable {
    let Described { name, kind, size, repr, shape, columns } = described;
    Variable {
        name,
        r#type: kind,
        size,
        repr: repr.chars().take(REPR_LIMIT).collect(),
        shape,
        columns: columns.into_iter().map(|Named { name, dtype }| Column { name, dtype }).collect(),
    }
}
