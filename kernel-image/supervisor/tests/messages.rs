//! Everything that a kernel says reaches the caller: in order, whole, as what it is.
mod common;

use common::*;
use kernelbox_proto::v1::{ExecutionStatus, SendInputRequest, execution_event::Kind, mime_part::Content};

#[tokio::test]
async fn text_results_and_errors_come_in_order() {
    let sandbox = Sandbox::start().await;
    let code = "import sys\nprint('out \u{1f600}')\nprint('err', file=sys.stderr)\nx = 20 * 2 + 2\nx";
    let events = sandbox.run(code).await;
    let sequence: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequence, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    let kinds = kinds(events);
    let [Kind::Started(started), Kind::Stdout(out), Kind::Stderr(err), Kind::Result(result), Kind::Finished(finished)] =
        &kinds[..]
    else {
        panic!("{kinds:?}")
    };
    assert_eq!((started.context.as_str(), started.kernel.as_str(), started.execution_count), ("python3", "python3", 1));
    assert_eq!((out.text.as_str(), err.text.as_str()), ("out \u{1f600}\n", "err\n"));
    assert_eq!((text(result.bundle.as_ref().unwrap()), result.execution_count), ("42", 1));
    assert_eq!((finished.status(), finished.execution_count), (ExecutionStatus::Ok, 1));

    let events = sandbox.run("print(x)\n1/0").await;
    assert_eq!(status(&events), ExecutionStatus::Error);
    assert_eq!(stdout(&events), "42\n");
    let error = events.into_iter().find_map(|event| if let Some(Kind::Error(e)) = event.kind { Some(e) } else { None });
    let error = error.unwrap();
    assert_eq!((error.name.as_str(), error.value.as_str()), ("ZeroDivisionError", "division by zero"));
    assert!(error.traceback.len() > 2 && error.traceback.join("").contains("line 2"), "{error:?}");
}

#[tokio::test]
async fn displays_are_whole_and_updates_name_their_maker() {
    let sandbox = Sandbox::start().await;
    let code = r#"
from IPython.display import display, HTML, Latex, SVG, JSON, Image, clear_output
import base64
png = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
display(HTML("<b>h</b>"))
display(Latex("$x$"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'></svg>"))
display(JSON({"b": [1.5, None], "a": 12345678901234567890123}))
display(Image(png), metadata={"k": {"n": 1}})
display({"application/vnd.plotly.v1+json": {"data": []}, "text/plain": "fig"}, raw=True)
clear_output(wait=True)
handle = display("one", display_id="d1")
"#;
    let kinds_of = kinds(sandbox.run(Run::from(code).id("maker")).await);
    let displays: Vec<_> =
        kinds_of.iter().filter_map(|kind| if let Kind::Display(bundle) = kind { Some(bundle) } else { None }).collect();
    assert_eq!(displays.len(), 7, "{kinds_of:?}");
    assert_eq!(part(displays[0], "text/html"), &Content::Text("<b>h</b>".into()));
    assert_eq!(part(displays[1], "text/latex"), &Content::Text("$x$".into()));
    assert!(matches!(part(displays[2], "image/svg+xml"), Content::Text(svg) if svg.starts_with("<svg")));
    let Content::Json(json) = part(displays[3], "application/json") else { panic!() };
    assert!(json.contains("12345678901234567890123") && json.contains("null"), "{json}");
    let Content::Data(png) = part(displays[4], "image/png") else { panic!() };
    assert!(png.starts_with(b"\x89PNG\r\n"));
    assert!(displays[4].metadata.as_ref().unwrap().fields.contains_key("k"));
    assert!(matches!(part(displays[5], "application/vnd.plotly.v1+json"), Content::Json(_)));
    assert_eq!(displays[6].display_id, "d1");
    assert!(kinds_of.iter().any(|kind| matches!(kind, Kind::ClearOutput(clear) if clear.wait)));
    let media_types: Vec<_> = displays[0].parts.iter().map(|part| part.media_type.clone()).collect();
    assert!(media_types.is_sorted());

    // When a later execution updates the display, the update says who made it.
    let kinds = kinds(sandbox.run("handle.update('two')").await);
    let update = kinds.iter().find_map(|kind| if let Kind::DisplayUpdate(update) = kind { Some(update) } else { None });
    let update = update.unwrap();
    assert_eq!(update.origin, format!("{SESSION}/executions/maker"));
    assert_eq!(
        (text(update.bundle.as_ref().unwrap()), update.bundle.as_ref().unwrap().display_id.as_str()),
        ("'two'", "d1")
    );
}

#[tokio::test]
async fn a_figure_is_an_image_and_help_is_output() {
    let sandbox = Sandbox::start().await;
    let kinds_of = kinds(sandbox.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()").await);
    let images = kinds_of.iter().filter(
        |kind| matches!(kind, Kind::Display(bundle) if bundle.parts.iter().any(|part| part.media_type == "image/png")),
    );
    assert_eq!(images.count(), 1, "{kinds_of:?}");
    let kinds = kinds(sandbox.run("len?").await);
    assert!(kinds.iter().any(|kind| matches!(kind, Kind::Display(bundle) if text(bundle).contains("number of items"))));
}

#[tokio::test]
async fn input_is_asked_for_and_answered() {
    let sandbox = Sandbox::start().await;
    let code = "import getpass\na = input('name? ')\nb = getpass.getpass('secret? ')\nprint(a, b)";
    let mut events = sandbox.stream(Run::from(code).id("i1").with(|r| r.allow_input = true).0).await.unwrap();
    let asked = |kind| if let Kind::InputRequested(asked) = kind { Some(asked) } else { None };
    let first = events.until(asked).await;
    assert_eq!((first.prompt.as_str(), first.password), ("name? ", false));
    let answer = |input: &str, value: &str| {
        let name = format!("{SESSION}/executions/i1");
        let (input, value, mut client) = (input.to_owned(), value.to_owned(), sandbox.client.clone());
        async move { client.send_input(SendInputRequest { name, input, value }).await }
    };
    assert!(answer("another question", "x").await.is_err());
    answer(&first.input, "Ada").await.unwrap();
    assert!(answer(&first.input, "again").await.is_err(), "a question is answered once");
    let second = events.until(asked).await;
    assert!(second.password);
    answer("", "lovelace").await.unwrap();
    let events = events.rest().await;
    assert_eq!((stdout(&events).as_str(), status(&events)), ("Ada lovelace\n", ExecutionStatus::Ok));

    // Where nobody can answer, input() raises at once.
    let events = sandbox.run("input()").await;
    assert_eq!(status(&events), ExecutionStatus::Error);
}

#[tokio::test]
async fn bash_runs_beside_python() {
    let sandbox = Sandbox::start().await;
    let bash = |code: &str| Run::from(code).with(|request| request.kernel = "bash".into());
    let events = sandbox.run(bash("echo hello $((6 * 7)); x=5")).await;
    assert_eq!(stdout(&events), "hello 42\n");
    assert_eq!(stdout(&sandbox.run(bash("echo $x")).await), "5\n");
    assert_eq!(stdout(&sandbox.run("print('py')").await), "py\n");
    let refused = sandbox.stream(bash("pwd").with(|request| request.working_directory = ".".into()).0).await;
    assert_eq!(refused.err().unwrap().reason(), "INVALID_ARGUMENT");
    let unknown = sandbox.stream(Run::from("1").with(|request| request.kernel = "cobol".into()).0).await;
    assert_eq!(unknown.err().unwrap().reason(), "KERNEL_NOT_FOUND");
}

#[tokio::test]
async fn folder_and_environment_are_for_one_cell() {
    let sandbox = Sandbox::start().await;
    std::fs::create_dir_all(sandbox.workspace().join("sub")).unwrap();
    let code = "import os\nprint(os.path.basename(os.getcwd()), os.environ.get('K'))";
    let here = Run::from(code).with(|request| {
        request.working_directory = "sub".into();
        request.env.insert("K".into(), "v".into());
    });
    assert_eq!(stdout(&sandbox.run(here).await), "sub v\n");
    assert_eq!(stdout(&sandbox.run(code).await), "w None\n");
    let outside = Run::from("1").with(|request| request.working_directory = "../..".into());
    assert_eq!(sandbox.stream(outside.0).await.err().unwrap().reason(), "INVALID_PATH");
}
