//! Which addresses this server connects to on its callers' behalf: checked where one is named, and again where a name was resolved, so
//! that the address that was checked is the one connected to.
use std::{
    error::Error as StdError,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kernelbox_proto::{Error, v1::ErrorCode};
use reqwest::{
    Client, ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::{Host, Url};

use super::address;

const CONNECT: Duration = Duration::from_secs(10);

/// Why an address is refused.
pub(crate) const PRIVATE: &str =
    "private addresses are not connected to (the server allows it with --allow-private-fetch)";

/// Says of an address whether it may be connected to.
type Policy = fn(IpAddr) -> bool;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach(Policy);

/// All addresses of a name are refused.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no address that may be connected to")]
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

impl Reach {
    /// The public internet alone, or everything.
    pub(crate) fn new(allow_private: bool) -> Self {
        Self(if allow_private { |_| true } else { address::is_public })
    }

    #[cfg(test)]
    pub(crate) fn with_policy(policy: Policy) -> Self {
        Self(policy)
    }

    /// For a client that connects to nothing else. It follows no redirect: each is to be checked.
    pub(crate) fn client(self) -> ClientBuilder {
        Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Resolver(self.0))
            // Each request makes a connection of its own, to an address that was checked for it.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT)
            .user_agent(concat!("kernelbox/", env!("CARGO_PKG_VERSION")))
    }

    /// To be asked before each request, of each address in a redirect too.
    pub(crate) fn check(self, url: &Url) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::new(ErrorCode::UrlRefused, format!("{}: {why}", shown(url))));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("only http and https addresses are connected to");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("an address with a user in it is not connected to");
        }
        // The parser has turned every odd notation of an address (0x7f.1, 2130706433) into the address itself.
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(_)) => None,
            None => return refuse("it names no host"),
        };
        if literal.is_some_and(|ip| !(self.0)(ip)) {
            return Err(private(url));
        }
        Ok(())
    }
}

/// Whether a request failed because its name has only addresses that are refused.
pub(crate) fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |cause| (*cause).source());
    chain.any(<dyn StdError>::is::<Refused>)
}

pub(super) fn private(url: &Url) -> Error {
    Error::new(ErrorCode::UrlRefused, format!("{}: {PRIVATE}", shown(url)))
}

/// For messages: without what may be secret.
pub(super) fn shown(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}
