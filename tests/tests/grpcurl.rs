//! A stranger with grpcurl finds the services by reflection and uses them.
use std::{path::PathBuf, process::Command};

use kernelbox_tests::{Stack, root};

fn grpcurl(stack: &Stack, arguments: &[&str]) -> (bool, String) {
    let program: PathBuf = root().join(".tools/bin/grpcurl");
    assert!(program.exists(), "grpcurl is missing; install it with: scripts/tools grpcurl");
    let output = Command::new(program)
        .args(["-plaintext", "-H", &format!("authorization: Bearer {}", stack.key)])
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_lists_the_services_and_runs_code() {
    let stack = Stack::start().await;
    let address = stack.endpoint.strip_prefix("http://").unwrap().to_owned();

    let (_, services) = grpcurl(&stack, &[&address, "list"]);
    for service in ["SessionService", "CodeService", "FileService", "TurnService"] {
        assert!(services.lines().any(|line| line == format!("kernelbox.v1.{service}")), "{services}");
    }
    assert!(services.contains("grpc.health.v1.Health"), "{services}");
    assert!(!services.contains("kernelbox.sandbox"), "an internal service is shown: {services}");
    let (_, described) = grpcurl(&stack, &[&address, "describe", "kernelbox.v1.ExecuteRequest"]);
    assert!(described.contains("string code = 2"), "{described}");
    let (healthy, said) = grpcurl(&stack, &[&address, "grpc.health.v1.Health/Check"]);
    assert!(healthy && said.contains("SERVING"), "{said}");

    let (made, session) =
        grpcurl(&stack, &["-d", r#"{"session_id": "by-hand"}"#, &address, "kernelbox.v1.SessionService/CreateSession"]);
    assert!(made && session.contains("sessions/by-hand"), "{session}");
    let request = r#"{"session": "sessions/by-hand", "code": "print(6 * 7)"}"#;
    let (ran, events) = grpcurl(&stack, &["-d", request, &address, "kernelbox.v1.CodeService/Execute"]);
    assert!(ran && events.contains(r#""text": "42\n""#), "{events}");
    assert!(events.contains("EXECUTION_STATUS_OK"), "{events}");

    // and: an error says its code, and what to do
    let (failed, error) =
        grpcurl(&stack, &["-d", r#"{"name": "sessions/none"}"#, &address, "kernelbox.v1.SessionService/GetSession"]);
    assert!(!failed && error.contains("NotFound") && error.contains("SESSION_NOT_FOUND"), "{error}");
    let (failed, error) = grpcurl(
        &stack,
        &["-d", r#"{"session": "sessions/by-hand", "message": "hi"}"#, &address, "kernelbox.v1.TurnService/StartTurn"],
    );
    assert!(!failed && error.contains("MODEL_UNAVAILABLE") && error.contains("OPENAI_API_KEY"), "{error}");
    stack.stop().await;
}
