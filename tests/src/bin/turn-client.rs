//! A client for benchmarks, of which little is in what it measures: for each line that it reads, a session's name and a question, it asks for a
//! turn and prints a line of JSON. Times are in seconds: `whole` until the last event, `first_text` until the first text of the answer,
//! `kernel` how long the kernel had it. Ends with its input. Arguments: the server's address and key.
use std::{
    io::{self, BufRead as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kernelbox_proto::v1::{execution_event, turn_event::Kind};
use kernelbox_tests::{Client, ask};

/// One turn, and what is told of it.
async fn turn(client: &mut Client, session: &str, question: &str) -> anyhow::Result<serde_json::Value> {
    let begun = Instant::now();
    let mut events = client.turns.start_turn(ask(session, question)).await?.into_inner();
    let (mut first_text, mut kernel, mut last) = (None, Duration::ZERO, None);
    while let Some(event) = events.message().await? {
        match &event.kind {
            Some(Kind::Text(_)) => _ = first_text.get_or_insert_with(|| begun.elapsed()),
            Some(Kind::Execution(event)) => {
                if let Some(execution_event::Kind::Finished(finished)) = &event.kind {
                    kernel += Duration::try_from(finished.stages["kernel"])?;
                }
            }
            _ => {}
        }
        last = event.kind;
    }
    let whole = begun.elapsed();
    let Some(Kind::Completed(completed)) = last else { anyhow::bail!("the turn ended with {last:?}") };
    Ok(serde_json::json!({
        "answer": completed.answer,
        "whole": whole.as_secs_f64(),
        "first_text": first_text.map(|it| it.as_secs_f64()),
        "kernel": kernel.as_secs_f64(),
    }))
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, key] = &arguments[..] else { anyhow::bail!("turn-client ENDPOINT KEY") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut client = runtime.block_on(Client::connect(endpoint, key));
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (session, question) = line.split_once(' ').context("a line is a session and a question")?;
        println!("{}", runtime.block_on(turn(&mut client, session, question))?);
    }
    Ok(())
}
