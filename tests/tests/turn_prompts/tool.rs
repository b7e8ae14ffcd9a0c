//! A tool of the client's own: a database that only the client reaches.
use kernelbox_proto::v1::{CreateSessionRequest, Session, Tool, ToolCallRequested, turn_event::Kind};
use kernelbox_tests::Reply;
use prost_types::{Struct, Value, value};
use serde_json::json;

use super::talk::Talk;

/// Department, person, salary.
const SALARIES: [(&str, &str, u32); 4] =
    [("engineering", "Ada", 120), ("engineering", "Grace", 130), ("sales", "Bob", 90), ("engineering", "Lin", 110)];

fn lookup(call: &ToolCallRequested) -> String {
    let department = match &call.arguments.as_ref().unwrap().fields["department"].kind {
        Some(value::Kind::StringValue(department)) => department,
        other => panic!("{other:?}"),
    };
    let rows = SALARIES.iter().filter(|row| row.0 == department);
    json!(rows.map(|(_, name, salary)| json!({"name": name, "salary": salary})).collect::<Vec<_>>()).to_string()
}

/// JSON as the contract has it.
fn value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::String(text) => value::Kind::StringValue(text.clone()),
        serde_json::Value::Array(list) => {
            value::Kind::ListValue(prost_types::ListValue { values: list.iter().map(value).collect() })
        }
        serde_json::Value::Object(_) => value::Kind::StructValue(object(json)),
        other => panic!("not in a schema of these tests: {other}"),
    };
    Value { kind: Some(kind) }
}

fn object(json: &serde_json::Value) -> Struct {
    let fields = json.as_object().unwrap();
    Struct { fields: fields.iter().map(|(name, json)| (name.clone(), value(json))).collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_salary_database_of_the_clients_own_is_asked() {
    let mut talk = Talk::with([]).await;
    let schema = json!({
        "type": "object",
        "properties": {"department": {"type": "string", "description": "Such as sales"}},
        "required": ["department"],
    });
    let tool = Tool {
        name: "salaries".into(),
        description: "All salaries of a department, in thousands.".into(),
        parameters: Some(object(&schema)),
        ..Default::default()
    };
    let session = Session { tools: vec![tool], ..Default::default() };
    let request = CreateSessionRequest { session: Some(session), ..Default::default() };
    talk.session = talk.client.sessions.create_session(request).await.unwrap().into_inner().name;
    // The model works on what the tool tells.
    talk.model.script(|seen| match &seen.results()[..] {
        [] => Reply::call("salaries", json!({"department": "engineering"})),
        [rows] => Reply::python(&format!("rows = {rows}\nsum(row['salary'] for row in rows) / len(rows)")),
        [_, mean, ..] => Reply::text(format!("Engineers earn {mean} thousand on average.")),
    });

    let (turned, given) = talk.ask_with_tools("What do the engineers earn on average?", lookup).await;

    assert_eq!(given.answer, "Engineers earn 120.0 thousand on average.");
    assert!(turned.has(|kind| matches!(kind, Kind::ToolResult(result) if result.tool == "salaries" && !result.failed)));
    // and: the model saw the tool as it was declared
    let request = &talk.model.requests()[0];
    let declared = request.body["tools"].as_array().unwrap().iter().find(|it| it["function"]["name"] == "salaries");
    assert_eq!(declared.unwrap()["function"]["parameters"], schema);
    assert_eq!(request.tools(), ["python", "salaries"]);
    talk.stack.stop().await;
}
