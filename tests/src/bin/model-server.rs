//! A model for benchmarks: without latency, it runs `print(17*23)` and then says 391, to whoever asks in either wire format.
//!
//! Prints its address. Argument: the port; 0, the default, takes any that is free.
use kernelbox_tests::model_server::{ModelServer, Reply, Seen};
use serde_json::json;

fn answer(seen: &Seen) -> Reply {
    if seen.results().is_empty()
        && let Some(tool) = tool(seen)
    {
        return Reply::call(&tool, json!({"code": "print(17*23)"}));
    }
    Reply::text("391")
}

/// The one called python, else the first.
fn tool(seen: &Seen) -> Option<String> {
    let tools = seen.tools();
    tools.iter().find(|name| *name == "python").or(tools.first()).cloned()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).map(|port| port.parse()).transpose()?.unwrap_or(0);
    let server = ModelServer::listen(port).await;
    server.script(answer);
    server.forget();
    println!("{}", server.url());
    std::future::pending().await
}
