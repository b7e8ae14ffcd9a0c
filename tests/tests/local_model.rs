//! Prompts answered by a real model: the small one that runs on this machine, offline. It is not always right: two tries of three must be.
//!
//! Ignored by `cargo test`, because the model has to be got first: `make test` does that and runs [`few`], `make test-model` runs [`all`].
use std::time::Instant;

use kernelbox_proto::v1::{execution_event, turn_event::Kind};
use kernelbox_tests::{
    Client, Given, LocalModel, Prompt, Turned,
    prompt::{ANALYSIS, EXCEL, PI, PRODUCT, SINE, SUMS},
};

const TRIES: usize = 3;
const NEEDED: usize = 2;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the local model: make test"]
async fn few() {
    each_passes(&[PRODUCT, SINE]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the local model, takes minutes: make test-model"]
async fn all() {
    each_passes(&[PRODUCT, SUMS, SINE, PI, EXCEL, ANALYSIS]).await;
}

/// Asks each until it has passed or failed often enough, and says how it went.
async fn each_passes(prompts: &[Prompt]) {
    let model = LocalModel::start().await;
    let stack = model.stack().start().await;
    let mut client = stack.client().await;
    let mut failed = Vec::new();
    for prompt in prompts {
        let (mut tries, mut passed) = (0, 0);
        while passed < NEEDED && tries - passed <= TRIES - NEEDED {
            let begun = Instant::now();
            let tried = attempt(prompt, &mut client).await;
            tries += 1;
            passed += usize::from(tried.is_ok());
            let seconds = begun.elapsed().as_secs_f32();
            println!("{:?}, try {tries}: {seconds:.1} s, {}", prompt.question, tried.err().unwrap_or("passed".into()));
        }
        if passed < NEEDED {
            failed.push(prompt.question);
        }
    }
    stack.stop().await;
    assert!(failed.is_empty(), "failed {} of {TRIES} tries: {failed:#?}", TRIES - NEEDED + 1);
}

/// One try in a session of its own. An error says what is wrong, and what the model did.
async fn attempt(prompt: &Prompt, client: &mut Client) -> Result<(), String> {
    let session = client.session().await;
    let turned = prompt.ask(client, &session).await;
    let given = Given::of(&turned, client, &session).await;
    client.delete(&session).await;
    given.and_then(|given| (prompt.check)(&given)).map_err(|wrong| format!("FAILED: {wrong}\n{}", transcript(&turned)))
}

fn transcript(turned: &Turned) -> String {
    let lines = turned.kinds().filter_map(|kind| match kind {
        Kind::Text(text) => Some(text.text.clone()),
        Kind::CodeProposed(proposed) => Some(format!("\n--- code\n{}\n---\n", proposed.code)),
        Kind::Execution(event) => match event.kind.as_ref()? {
            execution_event::Kind::Stdout(text) | execution_event::Kind::Stderr(text) => Some(text.text.clone()),
            execution_event::Kind::Error(error) => Some(format!("{}: {}\n", error.name, error.value)),
            execution_event::Kind::Display(_) | execution_event::Kind::Result(_) => Some("[display]\n".to_owned()),
            _ => None,
        },
        Kind::PackageInstalled(package) => Some(format!("[{} {}]\n", package.distribution, package.failure)),
        Kind::Artifact(artifact) => Some(format!("[file {}]\n", artifact.path)),
        Kind::LimitReached(limit) => Some(format!("\n[limit: {}]\n", limit.message)),
        Kind::Completed(completed) => Some(format!("\n--- answer\n{}\n", completed.answer)),
        Kind::Failed(failed) => Some(format!("\n[failed: {}]\n", failed.message)),
        _ => None,
    });
    lines.collect()
}
