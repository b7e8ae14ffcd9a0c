//! A source of prices on the loopback interface: `GET /NAME.csv?years=5` has a price a day, up to the end of 2025. It tells what it was asked.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Path, Query, State},
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// It ends when it is dropped.
pub struct Prices {
    url: String,
    asked: Asked,
    running: JoinHandle<()>,
}

type Asked = Arc<Mutex<Vec<(String, u32)>>>;

impl Prices {
    pub async fn start() -> Self {
        let asked = Asked::default();
        let app = Router::new().route("/{file}", get(csv)).with_state(Arc::clone(&asked));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let running = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, asked, running }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was asked since the last call: name and years.
    pub fn take_asked(&self) -> Vec<(String, u32)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Drop for Prices {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// 28 days a month, so that every date is one.
async fn csv(
    State(asked): State<Asked>,
    Path(file): Path<String>,
    Query(query): Query<HashMap<String, u32>>,
) -> String {
    let name = file.trim_end_matches(".csv");
    let years = query["years"];
    asked.lock().unwrap().push((name.to_owned(), years));
    let slope = name.bytes().map(u32::from).sum::<u32>() % 7 + 1;
    let days = (2026 - years..2026).flat_map(|year| (1..=12).flat_map(move |m| (1..=28).map(move |d| (year, m, d))));
    let rows = days.zip(0..).map(|((year, month, day), n): (_, u32)| {
        format!("{year}-{month:02}-{day:02},{}.{:02}\n", 20 * slope + n * slope / 100, n * 37 % 100)
    });
    std::iter::once("date,close\n".to_owned()).chain(rows).collect()
}
