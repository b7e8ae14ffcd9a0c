//! The scripted model: what the other suites rely on it for.
use std::time::Duration;

use futures::StreamExt as _;
use kernelbox_tests::{
    eventually,
    model_server::{ModelServer, Reply, StopReason},
};
use reqwest::{Client, Response};
use serde_json::{Value, json};

const OPENAI: &str = "/v1/chat/completions";
const AZURE: &str = "/openai/deployments/d/chat/completions?api-version=1";
const ANTHROPIC: &str = "/v1/messages";

async fn post(server: &ModelServer, path: &str, body: Value) -> reqwest::Result<Response> {
    kernelbox_gateway::install_crypto();
    let client = Client::builder().no_proxy().build().unwrap();
    client.post(format!("{}{path}", server.url())).body(body.to_string()).send().await
}

/// The JSON of the stream's events.
async fn events(response: Response) -> Vec<Value> {
    let text = response.text().await.unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

#[tokio::test]
async fn the_same_reply_comes_in_every_format_streamed_and_whole() {
    let reply = || Reply::text("hello").reasoning("hm").and_call("python", json!({"code": "1"})).pieces_of(3);
    let server = ModelServer::answering(move |_| reply()).await;
    let whole = post(&server, OPENAI, json!({})).await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "hello");
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], r#"{"code":"1"}"#);
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    let whole = post(&server, ANTHROPIC, json!({})).await.unwrap().json::<Value>().await.unwrap();
    let kinds: Vec<_> = whole["content"].as_array().unwrap().iter().map(|block| block["type"].clone()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);

    let all = events(post(&server, OPENAI, json!({"stream": true})).await.unwrap()).await;
    let text: String = all.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str()).collect();
    let arguments = all.iter().map(|it| &it["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]);
    assert_eq!(text, "hello");
    assert_eq!(arguments.filter_map(Value::as_str).collect::<String>(), r#"{"code":"1"}"#);
    let azure = events(post(&server, AZURE, json!({"stream": true})).await.unwrap()).await;
    assert_eq!(azure[0]["choices"], json!([]));
    let all = events(post(&server, ANTHROPIC, json!({"stream": true})).await.unwrap()).await;
    let text: String = all.iter().filter_map(|it| it["delta"]["text"].as_str()).collect();
    assert_eq!((text.as_str(), all.last().unwrap()["type"].as_str()), ("hello", Some("message_stop")));
    // and: every request was kept
    let seen = server.requests();
    assert_eq!(seen.len(), 5);
    assert_eq!(
        (seen[3].path.as_str(), seen[3].query.as_str()),
        ("/openai/deployments/d/chat/completions", "api-version=1")
    );
}

#[tokio::test]
async fn clients_of_before_there_were_tools_are_answered_too() {
    let server = ModelServer::answering(|seen| match seen.results().as_slice() {
        [] => Reply::call(&seen.tools()[0], json!({"code": "print(17*23)"})),
        [result] => Reply::text(result.trim()),
        more => panic!("{more:?}"),
    })
    .await;
    let functions = json!([{"name": "python", "parameters": {"type": "object"}}]);
    let asked = json!({"functions": functions, "messages": [{"role": "user", "content": "17*23"}]});
    let first = post(&server, OPENAI, asked).await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(first["choices"][0]["message"]["function_call"]["name"], "python");
    assert_eq!(first["choices"][0]["finish_reason"], "function_call");
    let told = json!({"functions": functions, "stream": true, "messages": [
        {"role": "user", "content": "17*23"}, {"role": "function", "name": "python", "content": "391\n"},
    ]});
    let second = events(post(&server, OPENAI, told).await.unwrap()).await;
    let text: String = second.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "391");
}

#[tokio::test]
async fn every_fault_reaches_the_client() {
    let stream = json!({"stream": true});
    let server = ModelServer::start([
        Reply::too_many("3"),
        Reply::error(500, "server_error", "boom"),
        Reply::text("cut").cut_after(60),
        Reply::text("end").end_after(60),
        Reply::hang_up(),
        Reply::text("late").then_error("overloaded_error", "Overloaded"),
        Reply::huge(1 << 20),
        Reply::text("by the byte").by_the_byte(),
        Reply::empty().stop(StopReason::Length),
        Reply::bad_json(),
    ])
    .await;
    let ask = |path| post(&server, path, stream.clone());
    let answer = ask(OPENAI).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "3"));
    assert_eq!(ask(ANTHROPIC).await.unwrap().status().as_u16(), 500);
    assert!(ask(OPENAI).await.unwrap().text().await.is_err());
    assert_eq!(ask(OPENAI).await.unwrap().text().await.unwrap().len(), 60);
    assert!(ask(OPENAI).await.is_err());
    let late = events(ask(ANTHROPIC).await.unwrap()).await;
    assert_eq!(late.last().unwrap()["error"]["type"], "overloaded_error");
    assert!(ask(OPENAI).await.unwrap().text().await.unwrap().len() > 1 << 20);
    assert!(ask(OPENAI).await.unwrap().text().await.unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(events(ask(OPENAI).await.unwrap()).await.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert!(ask(OPENAI).await.unwrap().text().await.unwrap().contains("oops"));
    assert_eq!(ask(OPENAI).await.unwrap().status().as_u16(), 400, "nothing is scripted");
}

#[tokio::test]
async fn a_stall_lasts_until_the_client_goes_and_that_is_seen() {
    let server = ModelServer::start([Reply::text("slow").stall_after(40), Reply::silent()]).await;
    let mut body = post(&server, OPENAI, json!({"stream": true})).await.unwrap().bytes_stream();
    let mut read = 0;
    while read < 40 {
        read += body.next().await.unwrap().unwrap().len();
    }
    assert!(tokio::time::timeout(Duration::from_millis(100), body.next()).await.is_err());
    assert_eq!(server.open_answers(), 1);
    drop(body);
    eventually("the answer is given up", || match server.open_answers() {
        0 => Ok(()),
        open => Err(open.to_string()),
    })
    .await;
    let silent = tokio::time::timeout(Duration::from_millis(100), post(&server, OPENAI, json!({}))).await;
    assert!(silent.is_err());
}

#[tokio::test]
async fn it_can_refuse_connections_and_come_back() {
    let server = ModelServer::answering(|_| Reply::text("here")).await;
    server.page("/props", 200, json!({"n": 1}));
    assert_eq!(post(&server, OPENAI, json!({})).await.unwrap().status().as_u16(), 200);
    server.refuse();
    eventually("connections are refused", || {
        match std::net::TcpStream::connect(server.url().trim_start_matches("http://")) {
            Err(_) => Ok(()),
            Ok(_) => Err("accepted".into()),
        }
    })
    .await;
    assert!(post(&server, OPENAI, json!({})).await.unwrap_err().is_connect());
    server.accept().await;
    assert_eq!(post(&server, OPENAI, json!({})).await.unwrap().status().as_u16(), 200);
}
