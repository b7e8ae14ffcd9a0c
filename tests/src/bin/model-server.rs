//! A model for benchmarks: without latency, it answers whoever asks in either wire format.
//!
//! Asked with a tool for 17*23, it runs `print(17*23)` with it and then says 391. Anything else it answers at once, in words.
//! Prints its address; then, for each line that it reads, how long it has been answering so far, in nanoseconds; ends with its input.
//! Argument: the port; 0, the default, takes any that is free.
use std::io::{self, BufRead as _, Write as _};

use kernelbox_tests::model_server::{ModelServer, Reply, Seen};
use serde_json::json;

const WORDS: &str = "Sunlight meets drops of rain and is bent, mirrored inside them, and bent again, each colour at an angle of its own.";

fn answer(seen: &Seen) -> Reply {
    let last = seen.messages().last();
    if last.is_some_and(|it| it["role"] == "tool" || it["role"] == "function") {
        return Reply::text("391");
    }
    match tool(seen) {
        Some(tool) if seen.last_text().contains("17*23") => Reply::call(&tool, json!({"code": "print(17*23)"})),
        // A client that asks the model which files some code changes.
        None if seen.last_text().contains("\"modifications\"") => Reply::text(r#"{"modifications": []}"#),
        _ => Reply::text(WORDS),
    }
}

/// The one called python, else the first.
fn tool(seen: &Seen) -> Option<String> {
    let tools = seen.tools();
    tools.iter().find(|name| *name == "python").or(tools.first()).cloned()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).map(|port| port.parse()).transpose()?.unwrap_or(0);
    let server = ModelServer::listen(([127, 0, 0, 1], port)).await;
    server.script(answer);
    server.forget();
    let mut out = io::stdout();
    writeln!(out, "{}", server.url())?;
    // Blocks a thread of the runtime's, which has nothing else to do than to serve.
    tokio::task::spawn_blocking(move || {
        for line in io::stdin().lock().lines() {
            line?;
            writeln!(out, "{}", server.answering_time().as_nanos())?;
        }
        Ok(())
    })
    .await?
}
