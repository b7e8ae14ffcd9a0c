//! Charts: the user sees them, decoded from what the client got.
use kernelbox_tests::{
    Reply,
    prompt::{SINE, is_drawn},
};

use super::{prices::Prices, talk::Talk};

#[tokio::test(flavor = "multi_thread")]
async fn a_sine_wave_is_plotted_and_shown() {
    let code = "\
import numpy as np
import matplotlib.pyplot as plt

x = np.linspace(0, 2 * np.pi, 500)
plt.plot(x, np.sin(x))
plt.title('Sine wave')
plt.show()";
    let mut talk = Talk::with([Reply::python(code), Reply::text("Here is one period of a sine wave.")]).await;
    let (_, given) = talk.ask_prompt(&SINE).await;
    assert_eq!((given.pictures.len(), given.files.len()), (1, 0), "{:?}", given.files.keys());
    // and: the model knows what was shown
    let result = &talk.model.requests()[1].results()[0];
    assert!(result.contains("image") && result.contains("PNG"), "{result}");
    talk.stack.stop().await;
}

/// Fetches and draws; the address is put in.
const CHART: &str = "\
import pandas as pd
import matplotlib.pyplot as plt

def chart(years):
    prices = pd.read_csv(f'URL/ACME.csv?years={years}', parse_dates=['date'], index_col='date')
    print(len(prices), 'prices since', prices.index[0].date())
    prices['close'].plot(title=f'ACME, {years} years')
    plt.show()
";

#[tokio::test(flavor = "multi_thread")]
async fn prices_are_fetched_and_charted_and_the_next_day_for_longer() {
    let prices = Prices::start().await;
    let chart = CHART.replace("URL", prices.url());
    let question = format!("Chart the daily prices of ACME for one year, from {}/ACME.csv?years=1", prices.url());
    let mut talk =
        Talk::with([Reply::python(&format!("{chart}\nchart(1)")), Reply::text("The prices rose all year.")]).await;
    let (turned, first) = talk.ask(&question).await;
    assert_eq!(turned.stdout(), "336 prices since 2025-01-01\n");
    assert!(matches!(&first.pictures[..], [picture] if is_drawn(picture)));
    assert_eq!(prices.take_asked(), [("ACME".to_owned(), 1)]);

    // when: another client comes with the session's id
    talk.client = talk.stack.client().await;
    talk.model.push(Reply::python("chart(5)"));
    talk.model.push(Reply::text("Over five years they rose, too."));
    let (turned, second) = talk.ask("now for the last 5 years").await;

    // then: the model knew what is charted, the kernel its code
    assert_eq!(turned.stdout(), "1680 prices since 2021-01-01\n");
    assert!(matches!(&second.pictures[..], [picture] if is_drawn(picture) && *picture != first.pictures[0]));
    assert_eq!(prices.take_asked(), [("ACME".to_owned(), 5)]);
    let history = talk.model.take_requests().pop().unwrap().body.to_string();
    assert!(history.contains("def chart") && history.contains("336 prices"), "{history}");

    // when: the server was restarted meanwhile
    talk.stack.signal(nix::sys::signal::Signal::SIGTERM);
    talk.stack.ended().await;
    talk.stack.restart().await;
    talk.client = talk.stack.client().await;
    talk.model.script(move |seen| match seen.results().len() {
        // The model is told that its function is gone, and has its code in the history.
        2 if seen.last_text().contains("gone") && seen.body.to_string().contains("def chart") => {
            Reply::python(&format!("{chart}\nchart(10)"))
        }
        2 => Reply::python("chart(10)"),
        _ => Reply::text("Ten years of rising prices."),
    });
    let (turned, third) = talk.ask("now for the last 10 years").await;

    // then
    assert_eq!(turned.stdout(), "3360 prices since 2016-01-01\n");
    assert!(matches!(&third.pictures[..], [picture] if is_drawn(picture)));
    assert_eq!(prices.take_asked(), [("ACME".to_owned(), 10)]);
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn funds_are_compared_in_one_plot_normalised_to_100() {
    let prices = Prices::start().await;
    let code = "\
import pandas as pd
import matplotlib.pyplot as plt

funds = ['ENERGY', 'HEALTH', 'TECH', 'UTILITIES']
close = pd.DataFrame({
    fund: pd.read_csv(f'URL/{fund}.csv?years=2', parse_dates=['date'], index_col='date')['close'] for fund in funds
})
normalised = close / close.iloc[0] * 100
normalised.plot(title='Sector funds, first day = 100')
plt.show()
print(normalised.iloc[0].to_dict())
print('best:', normalised.iloc[-1].idxmax())"
        .replace("URL", prices.url());
    let mut talk = Talk::with([Reply::python(&code), Reply::text("All four rose.")]).await;
    let (turned, given) = talk
        .ask(&format!(
            "Compare the sector funds ENERGY, HEALTH, TECH and UTILITIES over two years, normalised to 100, in one plot. Prices: {}/FUND.csv?years=2",
            prices.url()
        ))
        .await;
    let first = "{'ENERGY': 100.0, 'HEALTH': 100.0, 'TECH': 100.0, 'UTILITIES': 100.0}\n";
    assert!(turned.stdout().starts_with(first), "{}", turned.stdout());
    assert!(matches!(&given.pictures[..], [picture] if is_drawn(picture)));
    assert_eq!(prices.take_asked().len(), 4);
    talk.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_analysed_and_plotted() {
    let csv = std::fs::read(kernelbox_tests::root().join("examples/bike-rentals.csv")).unwrap();
    let look = "import pandas as pd\nrides = pd.read_csv('bike-rentals.csv')\nprint(rides.dtypes)\nrides.head()";
    let plot = "\
import matplotlib.pyplot as plt
rides.plot.scatter('temperature_c', 'member_rides')
plt.show()
rides['temperature_c'].corr(rides['member_rides'])";
    let replies = [Reply::python(look), Reply::python(plot), Reply::text("Members ride more when it is warm.")];
    let mut talk = Talk::with(replies).await;
    let question = "Analyze this dataset and plot something interesting";
    let (_, given) = talk.ask_about(question, "bike-rentals.csv", &csv).await;
    assert!(matches!(&given.pictures[..], [picture] if is_drawn(picture)));
    let results = talk.model.requests()[2].results();
    assert!(results[0].contains("temperature_c") && results[0].contains("2025-01-01"), "{results:?}");
    assert!(results[1].contains("0.7"), "{results:?}");
    talk.stack.stop().await;
}
