//! Numbers: by code, from files, with packages that were missing, and after an error.
use kernelbox_proto::v1::{execution_event, turn_event::Kind};
use kernelbox_tests::{
    Reply,
    prompt::{PI, PRODUCT, SUMS},
};

use super::talk::Talk;

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_calculated_by_code() {
    let mut talk = Talk::with([Reply::python("17 * 23"), Reply::text("17*23 is 391.")]).await;
    let (_, given) = talk.ask_prompt(&PRODUCT).await;
    assert_eq!(given.code, ["17 * 23"]);
    assert_eq!(talk.model.requests()[1].results(), ["391"]);
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_of_an_attached_csv_are_added_up() {
    let code = "import pandas as pd\nprint(pd.read_csv('sales.csv').sum())";
    let mut talk = Talk::with([]).await;
    talk.model.script(move |seen| match seen.results().pop() {
        None if seen.last_text().contains("sales.csv (") => Reply::python(code),
        None => Reply::text("Which file?"),
        Some(sums) => Reply::text(format!("The sums are:\n{sums}")),
    });
    let (_, given) = talk.ask_prompt(&SUMS).await;
    assert!(given.files.is_empty(), "an input is no result: {:?}", given.files.keys());
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pi_is_estimated_by_monte_carlo() {
    let code = "\
import numpy as np
points = np.random.default_rng().random((1_000_000, 2))
print(4 * ((points ** 2).sum(axis=1) <= 1).mean())";
    let mut talk = Talk::with([]).await;
    talk.model.script(move |seen| match seen.results().pop() {
        None => Reply::python(code),
        Some(pi) => Reply::text(format!("Pi is about {pi}.")),
    });
    talk.ask_prompt(&PI).await;
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_missing_is_installed() {
    let code = "import humanize\nprint(humanize.intword(8_120_000_000))";
    let mut talk = Talk::with([Reply::python(code), Reply::text("There are 8.1 billion of us.")]).await;
    let (turned, _) = talk.ask("Say 8,120,000,000 people in words, with the package humanize.").await;
    assert_eq!(turned.stdout(), "8.1 billion\n");
    let installed = turned.kinds().find_map(|kind| match kind {
        Kind::PackageInstalled(package) => Some((package.distribution.as_str(), package.failure.as_str())),
        _ => None,
    });
    assert_eq!(installed, Some(("humanize", "")));
    // and: the model knows of it
    let result = &talk.model.requests()[1].results()[0];
    assert!(result.contains("8.1 billion") && result.contains("humanize"), "{result}");
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_read_and_repaired() {
    let load = "import pandas as pd\nsales = pd.read_csv('sales.csv')\n";
    let mut talk = Talk::with([]).await;
    talk.model.script(move |seen| match seen.results().last().map(String::as_str) {
        None => Reply::python(&format!("{load}print(sales['total'].max())")),
        Some(error) if error.contains("KeyError: 'total'") => {
            Reply::python("sales['total'] = sales['price'] * sales['amount']\nprint(sales['total'].max())")
        }
        Some(result) => Reply::text(format!("The largest total is {result}.")),
    });
    let csv = b"item,price,amount\npen,2,30\nbook,12,7\nbag,40,1\n";
    let (turned, given) = talk.ask_about("What is the largest total?", "sales.csv", csv).await;
    assert_eq!((given.answer.as_str(), given.code.len()), ("The largest total is 84.", 2));
    // and: the user saw what went wrong on the way
    let errors: Vec<_> = turned
        .executions()
        .filter_map(|event| match &event.kind {
            Some(execution_event::Kind::Error(error)) => Some(error.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(errors, ["KeyError"]);
    talk.stack.stop().await;
}
