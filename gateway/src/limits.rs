//! How much each tenant may ask for, by named limits. Every refusal names its limit and the flag that changes it.
//!
//! A [`Permit`] is work under way: it is counted while it lives, and a drain waits for all of them.
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use kernelbox_metrics::Counters;
use kernelbox_proto::{Error, v1::ErrorCode};
use serde::Deserialize;
use tokio::{sync::watch, time::Instant};

use crate::metrics::Limit;

/// The server's limits; a key may have lower or higher ones of its own for what belongs to a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `--max-sandboxes`: live at once, of all tenants.
    pub sandboxes: u32,
    /// `--max-message-bytes` of a gRPC message that the server takes.
    pub message_bytes: usize,
    /// `--max-file-bytes` of one file sent over HTTP or fetched from an address.
    pub file_bytes: u64,
    /// What a turn may use; a turn may ask for less.
    pub turn: TurnLimits,
    pub tenant: TenantLimits,
}

/// What one turn may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnLimits {
    /// `--max-turn-iterations`: calls of the model.
    pub iterations: u32,
    /// `--turn-timeout`: wall time.
    pub timeout: Duration,
    /// `--max-turn-tokens` of the model's, in and out.
    pub tokens: u64,
    /// `--max-turn-output-bytes` that its executions put out.
    pub output_bytes: u64,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self { iterations: 25, timeout: Duration::from_secs(15 * 60), tokens: 1_000_000, output_bytes: 32 << 20 }
    }
}

/// What each tenant may have at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantLimits {
    /// `--max-sessions`
    pub sessions: u32,
    /// `--max-executions`: executions and installs whose stream is open.
    pub executions: u32,
    /// `--max-turns`
    pub turns: u32,
    /// `--max-streams`: all other streams (resumed executions, watches, files).
    pub streams: u32,
    /// `--max-requests-per-second`
    pub requests_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sandboxes: 64,
            message_bytes: 4 << 20,
            file_bytes: 16 << 30,
            turn: TurnLimits::default(),
            tenant: TenantLimits {
                sessions: 10_000,
                executions: 2_000,
                turns: 1_000,
                streams: 2_000,
                requests_per_second: 5_000,
            },
        }
    }
}

/// A key's own limits, in keys.yaml.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OwnLimits {
    pub sessions: Option<u32>,
    pub executions: Option<u32>,
    pub turns: Option<u32>,
    pub streams: Option<u32>,
    pub requests_per_second: Option<u32>,
}

impl OwnLimits {
    pub(crate) fn over(&self, server: &TenantLimits) -> TenantLimits {
        TenantLimits {
            sessions: self.sessions.unwrap_or(server.sessions),
            executions: self.executions.unwrap_or(server.executions),
            turns: self.turns.unwrap_or(server.turns),
            streams: self.streams.unwrap_or(server.streams),
            requests_per_second: self.requests_per_second.unwrap_or(server.requests_per_second),
        }
    }
}

/// What is counted while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// New work; refused while the server drains.
    Execution,
    /// A turn; refused while the server drains.
    Turn,
    /// New work that moves bytes; refused while the server drains.
    Transfer,
    /// Follows work that runs already; goes on during a drain, which waits for it.
    Follow,
    /// Watches a session; a drain does not wait for it.
    Watch,
}

/// Counts the work of every tenant.
#[derive(Debug)]
pub(crate) struct Gate {
    tenants: Mutex<HashMap<String, Arc<Tenant>>>,
    /// Permits that a drain waits for.
    running: watch::Sender<usize>,
    draining: watch::Sender<bool>,
    last_call: Mutex<Instant>,
    refusals: Counters<Limit>,
}

#[derive(Debug)]
struct Tenant {
    rate: DefaultDirectRateLimiter,
    per_second: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    executions: u32,
    turns: u32,
    streams: u32,
}

/// Work under way.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    tenant: Arc<Tenant>,
    work: Work,
}

impl Gate {
    pub(crate) fn new(refusals: Counters<Limit>) -> Arc<Self> {
        Arc::new(Self {
            tenants: Mutex::default(),
            running: watch::Sender::new(0),
            draining: watch::Sender::new(false),
            last_call: Mutex::new(Instant::now()),
            refusals,
        })
    }

    /// Counts a call. Called once for each, before anything else is done for it.
    pub(crate) fn call(&self, tenant: &str, limits: &TenantLimits) -> Result<(), Error> {
        self.touch();
        let tenant = self.tenant(tenant, limits);
        tenant.rate.check().map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            let per_second = tenant.per_second;
            self.refusals.inc(Limit::Requests);
            Error::new(
                ErrorCode::RateLimited,
                format!("more than {per_second} requests in a second; slow down (limit --max-requests-per-second)"),
            )
            .retry_after(wait.max(Duration::from_millis(10)))
            .with("limit", "max-requests-per-second")
        })
    }

    /// Lets a piece of work begin, or says which limit it meets.
    pub(crate) fn begin(self: &Arc<Self>, tenant: &str, limits: &TenantLimits, work: Work) -> Result<Permit, Error> {
        if matches!(work, Work::Execution | Work::Turn | Work::Transfer) {
            self.admits()?;
        }
        let tenant = self.tenant(tenant, limits);
        {
            let mut counts = tenant.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, limit, flag, what) = match work {
                Work::Execution => (&mut counts.executions, limits.executions, "max-executions", "executions"),
                Work::Turn => (&mut counts.turns, limits.turns, "max-turns", "turns"),
                _ => (&mut counts.streams, limits.streams, "max-streams", "streams"),
            };
            if *count >= limit {
                self.refusals.inc(match work {
                    Work::Execution => Limit::Executions,
                    Work::Turn => Limit::Turns,
                    _ => Limit::Streams,
                });
                return Err(Error::new(
                    ErrorCode::QuotaExceeded,
                    format!("{limit} {what} are open already; wait for one to end (limit --{flag})"),
                )
                .retry_after(Duration::from_secs(1))
                .with("limit", flag));
            }
            *count += 1;
        }
        if work != Work::Watch {
            self.running.send_modify(|n| *n += 1);
        }
        Ok(Permit { gate: Arc::clone(self), tenant, work })
    }

    /// An error while the server drains.
    pub(crate) fn admits(&self) -> Result<(), Error> {
        if *self.draining.borrow() {
            return Err(Error::new(ErrorCode::ShuttingDown, "the server is shutting down; try again in a moment")
                .retry_after(Duration::from_secs(5)));
        }
        Ok(())
    }

    /// Refuses new work from now on.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Waits until no work runs.
    pub(crate) async fn quiet(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.running.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Since when nothing was asked and nothing runs; None while something runs.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (*self.running.borrow() == 0).then(|| *self.last_call.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn touch(&self) {
        *self.last_call.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn tenant(&self, name: &str, limits: &TenantLimits) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        match tenants.get(name) {
            Some(tenant) if tenant.per_second == limits.requests_per_second => Arc::clone(tenant),
            _ => {
                // A changed rate begins anew; work under way keeps counting in the tenant that it began with.
                let per_second = NonZeroU32::new(limits.requests_per_second).unwrap_or(NonZeroU32::MIN);
                let tenant = Arc::new(Tenant {
                    rate: RateLimiter::direct(Quota::per_second(per_second)),
                    per_second: limits.requests_per_second,
                    counts: Mutex::default(),
                });
                tenants.insert(name.to_owned(), Arc::clone(&tenant));
                tenant
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut counts = self.tenant.counts.lock().unwrap_or_else(PoisonError::into_inner);
            match self.work {
                Work::Execution => counts.executions -= 1,
                Work::Turn => counts.turns -= 1,
                _ => counts.streams -= 1,
            }
        }
        if self.work != Work::Watch {
            self.gate.touch();
            self.gate.running.send_modify(|n| *n -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_permit_ends_a_drain_and_a_limit_names_its_flag() {
        let gate = Gate::new(crate::metrics::Metrics::new().unwrap().refusals);
        let limits = TenantLimits { executions: 1, ..Limits::default().tenant };
        let permit = gate.begin("a", &limits, Work::Execution).unwrap();
        let refused = gate.begin("a", &limits, Work::Execution).unwrap_err();
        assert_eq!(refused.code, ErrorCode::QuotaExceeded);
        assert!(refused.message.contains("--max-executions"), "{refused}");
        gate.begin("b", &limits, Work::Execution).unwrap();

        gate.drain();
        assert_eq!(gate.begin("b", &limits, Work::Execution).unwrap_err().code, ErrorCode::ShuttingDown);
        gate.begin("b", &limits, Work::Follow).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), gate.quiet()).await.is_err());
        assert!(gate.idle_since().is_none());
        drop(permit);
        gate.quiet().await;
        assert!(gate.idle_since().is_some());
    }

    #[test]
    fn too_many_requests_are_told_when_to_come_back() {
        let gate = Gate::new(crate::metrics::Metrics::new().unwrap().refusals);
        let limits = TenantLimits { requests_per_second: 2, ..Limits::default().tenant };
        gate.call("a", &limits).unwrap();
        gate.call("a", &limits).unwrap();
        let refused = gate.call("a", &limits).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert!(refused.retry_after.is_some_and(|wait| wait > Duration::ZERO && wait < Duration::from_secs(1)));
        gate.call("b", &limits).unwrap();
    }
}
