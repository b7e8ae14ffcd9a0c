//! FetchUrl: reads an address on a session's behalf, and only such addresses as it may.
//!
//! Names are resolved here and the addresses checked; the connection is made to the checked addresses and no other, at each redirect.
mod address;
mod name;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::StreamExt as _;
use kernelbox_proto::{Error, v1::ErrorCode};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header, redirect,
};
use url::{Host, Url};

use crate::services::{Parts, too_large};

const CONNECT: Duration = Duration::from_secs(10);
/// Between two pieces, and until the first.
const SILENCE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;

/// Says of an address whether it may be connected to.
type Policy = fn(IpAddr) -> bool;

#[derive(Debug)]
pub(crate) struct Fetcher {
    client: Client,
    policy: Policy,
}

/// What is being read.
pub(crate) struct Fetched {
    /// A file name, from the server or the address.
    pub name: String,
    pub parts: Parts,
}

/// All addresses of a name are refused.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no address that may be fetched from")]
struct Refused(String);

struct Resolver(Policy);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> = found.into_iter().filter(|it| policy(it.ip())).collect();
            if allowed.is_empty() {
                return Err(Refused(name.as_str().to_owned()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl Fetcher {
    pub(crate) fn new(allow_private: bool) -> Result<Self, reqwest::Error> {
        Self::with_policy(if allow_private { |_| true } else { address::is_public })
    }

    fn with_policy(policy: Policy) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Resolver(policy))
            // Each fetch makes connections of its own, to addresses that were checked for it.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .user_agent(concat!("kernelbox/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, policy })
    }

    /// Follows the address to a file of at most `limit` bytes, as far as its server says.
    pub(crate) async fn open(&self, address: &str, limit: u64) -> Result<Fetched, Error> {
        let mut url = Url::parse(address).map_err(|e| Error::invalid("url", format!("is not an address: {e}")))?;
        for _ in 0..=MAX_REDIRECTS {
            self.check(&url)?;
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

    fn check(&self, url: &Url) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::new(ErrorCode::UrlRefused, format!("{}: {why}", shown(url))));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("only http and https are fetched");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("an address with a user in it is not fetched");
        }
        // The parser has turned every odd notation of an address (0x7f.1, 2130706433) into the address itself.
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(_)) => None,
            None => return refuse("it names no host"),
        };
        if literal.is_some_and(|ip| !(self.policy)(ip)) {
            return Err(private(url));
        }
        Ok(())
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
    let mut cause: &dyn std::error::Error = error;
    loop {
        if cause.is::<Refused>() {
            return private(url);
        }
        match cause.source() {
            Some(source) => cause = source,
            None => break,
        }
    }
    let what = match error {
        _ if error.is_timeout() => "did not answer in time".to_owned(),
        _ if error.is_connect() => format!("cannot be reached: {cause}"),
        _ => format!("broke off: {cause}"),
    };
    Error::new(ErrorCode::UrlFailed, format!("{} {what}", shown(url)))
}

fn private(url: &Url) -> Error {
    Error::new(
        ErrorCode::UrlRefused,
        format!(
            "{}: private addresses are not fetched from (the server allows it with --allow-private-fetch)",
            shown(url)
        ),
    )
}

/// For messages: without what may be secret.
fn shown(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests;
