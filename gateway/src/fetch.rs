//! FetchUrl: reads an address on a session's behalf, and only such addresses as it may.
//!
//! Names are resolved here and the addresses checked; the connection is made to the checked addresses and no other, at each redirect.
mod address;
mod name;
mod reach;

use std::time::Duration;

use futures::StreamExt as _;
use kernelbox_proto::{Error, v1::ErrorCode};
use reqwest::{Client, Response, header};
use url::Url;

use crate::services::{Parts, too_large};

pub(crate) use name::decoded;
pub(crate) use reach::{PRIVATE, Reach, is_refused};
use reach::{private, shown};

/// Between two pieces, and until the first.
const SILENCE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;

#[derive(Debug)]
pub(crate) struct Fetcher {
    client: Client,
    reach: Reach,
}

/// What is being read.
pub(crate) struct Fetched {
    /// A file name, from the server or the address.
    pub name: String,
    pub parts: Parts,
}

impl Fetcher {
    pub(crate) fn new(reach: Reach) -> Result<Self, reqwest::Error> {
        Ok(Self { client: reach.client().read_timeout(SILENCE).build()?, reach })
    }

    /// Follows the address to a file of at most `limit` bytes, as far as its server says.
    pub(crate) async fn open(&self, address: &str, limit: u64) -> Result<Fetched, Error> {
        let mut url = Url::parse(address).map_err(|e| Error::invalid("url", format!("is not an address: {e}")))?;
        for _ in 0..=MAX_REDIRECTS {
            self.reach.check(&url)?;
            let answer = self.client.get(url.clone()).send().await.map_err(|error| failed(&url, &error))?;
            if let Some(next) = redirect_of(&url, &answer)? {
                url = next;
                continue;
            }
            let status = answer.status();
            if !status.is_success() {
                return Err(Error::new(ErrorCode::UrlFailed, format!("{} answered {status}", shown(&url)))
                    .with("status", status.as_u16().to_string()));
            }
            if answer.content_length().is_some_and(|length| length > limit) {
                return Err(too_large(limit));
            }
            let name = name::of(answer.headers().get(header::CONTENT_DISPOSITION), &url);
            let parts = answer.bytes_stream().map(move |part| part.map_err(|error| failed(&url, &error)));
            return Ok(Fetched { name, parts: Box::pin(parts) });
        }
        Err(Error::new(ErrorCode::UrlFailed, format!("{} redirects more than {MAX_REDIRECTS} times", shown(&url))))
    }
}

fn redirect_of(url: &Url, answer: &Response) -> Result<Option<Url>, Error> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let target = answer.headers().get(header::LOCATION).and_then(|it| it.to_str().ok());
    let next = target.and_then(|it| url.join(it).ok());
    next.map(Some)
        .ok_or_else(|| Error::new(ErrorCode::UrlFailed, format!("{} redirects to no valid address", shown(url))))
}

fn failed(url: &Url, error: &reqwest::Error) -> Error {
    if is_refused(error) {
        return private(url);
    }
    Error::new(ErrorCode::UrlFailed, format!("{} {}", shown(url), what(error)))
}

/// What went wrong with a request, without its address, which may have secrets in it.
pub(crate) fn what(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        _ if error.is_timeout() => "did not answer in time".to_owned(),
        // Its own words would name the address.
        Some(_) => "broke off".to_owned(),
        None if error.is_connect() => format!("cannot be reached: {cause}"),
        None => format!("broke off: {cause}"),
    }
}

#[cfg(test)]
mod tests;
