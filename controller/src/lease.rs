//! Which replica leads: whoever holds a Lease. A leader knows for how long at least it still is one, and writes nothing beyond that.
use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt as _, api::PostParams};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// A lease that was not renewed for so long is anybody's.
const DURATION: Duration = Duration::from_secs(15);
/// The leader renews it so often, and the others look.
const RENEW: Duration = Duration::from_secs(3);
/// The leader counts it as lost so long before it ends: clocks differ, and a write may be on its way.
const MARGIN: Duration = Duration::from_secs(3);

/// Whether this replica leads, and until when at least.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// As somebody else says.
    #[cfg(test)]
    pub(crate) fn of(until: watch::Receiver<Option<Instant>>) -> Self {
        Self(until)
    }

    /// Whether it still leads when so much time has passed.
    pub fn holds_for(&self, span: Duration) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() + span <= until)
    }

    /// Waits until it leads. False: it never will.
    pub async fn gained(&mut self) -> bool {
        self.0.wait_for(|until| until.is_some_and(|until| until > Instant::now())).await.is_ok()
    }

    /// Waits until it leads no more.
    pub async fn lost(&mut self) {
        loop {
            let Some(until) = *self.0.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {
                    // It may have been renewed at the last moment.
                    if self.0.borrow().is_none_or(|until| until <= Instant::now()) {
                        return;
                    }
                }
                changed = self.0.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// A lease by which replicas choose their leader.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    /// This replica, unlike all others.
    identity: String,
    until: watch::Sender<Option<Instant>>,
    metrics: Metrics,
}

/// What was seen of the lease, and when by this replica's own clock: no other's is trusted.
struct Observed {
    version: Option<String>,
    since: Instant,
}

impl Candidate {
    pub fn new(api: Api<Lease>, name: impl Into<String>, identity: impl Into<String>, metrics: Metrics) -> Self {
        Self { api, name: name.into(), identity: identity.into(), until: watch::Sender::new(None), metrics }
    }

    pub fn leadership(&self) -> Leadership {
        Leadership(self.until.subscribe())
    }

    /// Tries to lead until it is stopped, and then lets another lead at once.
    pub async fn run(self, stop: CancellationToken) {
        let mut observed = Observed { version: None, since: Instant::now() };
        loop {
            match tokio::time::timeout(RENEW, self.attempt(&mut observed)).await {
                Ok(Ok(())) => self.metrics.api_answered(),
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the leaders' lease cannot be read or written"
                    );
                }
                Err(_) => tracing::warn!("the leaders' lease: the API server does not answer"),
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW) => {}
                () = stop.cancelled() => break,
            }
        }
        self.until.send_replace(None);
        if let Ok(Err(error)) = tokio::time::timeout(RENEW, self.resign()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the lease could not be given back; it ends by itself"
            );
        }
    }

    async fn attempt(&self, observed: &mut Observed) -> kube::Result<()> {
        let begun = Instant::now();
        let Some(known) = self.api.get_opt(&self.name).await? else {
            let new = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..Default::default() },
                spec: Some(self.held(None)),
            };
            return self.took(begun, self.api.create(&PostParams::default(), &new).await);
        };
        if observed.version != known.resource_version() {
            *observed = Observed { version: known.resource_version(), since: begun };
        }
        let spec = known.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let duration = Duration::from_secs(spec.lease_duration_seconds.unwrap_or_default().unsigned_abs().into());
        if holder != self.identity && !holder.is_empty() && observed.since + duration > begun {
            self.until.send_replace(None);
            return Ok(());
        }
        let new = Lease { spec: Some(self.held(Some(&spec))), ..known };
        // Guarded by its version: of two that try, one is refused.
        self.took(begun, self.api.replace(&self.name, &PostParams::default(), &new).await)
    }

    fn took(&self, begun: Instant, answer: kube::Result<Lease>) -> kube::Result<()> {
        match answer {
            Ok(_) => {
                let before = self.until.send_replace(Some(begun + DURATION - MARGIN));
                if before.is_none() {
                    tracing::info!(identity = self.identity, "this replica leads");
                }
                Ok(())
            }
            // Another was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.until.send_replace(None);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn held(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let own = before.filter(|it| it.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|it| it.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: own.and_then(|it| it.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if own.is_some() { transitions } else { transitions + 1 }),
            ..Default::default()
        }
    }

    async fn resign(&self) -> kube::Result<()> {
        let Some(known) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let mut spec = known.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        let free = Lease { spec: Some(spec), ..known };
        self.api.replace(&self.name, &PostParams::default(), &free).await.map(|_| ())
    }
}
