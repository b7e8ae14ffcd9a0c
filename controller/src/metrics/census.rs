//! How many there are of what, from all that the leader knows. Pure, but for its end: the leader alone tells it, so that a sum over replicas
//! counts nothing twice.
use std::{collections::HashMap, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kernelbox_api::{ConditionStatus, Phase, Sandbox, SandboxTemplate};
use kernelbox_metrics::{Book, Error, Figures, IntGauge};
use kube::ResourceExt as _;

use crate::{
    life::{self, Answer},
    plan::World,
};

type Table = HashMap<Vec<String>, i64>;

/// What is told of the whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Census {
    /// By template, phase, and whether a session has them.
    pub sandboxes: Table,
    /// By template, in seconds.
    pub oldest_pending: Table,
    /// By template: claimed, unused for longer than they may be kept.
    pub overdue: Table,
    pub accelerators: Table,
    pub accelerators_idle: Table,
    /// By pool.
    pub ready: Table,
    pub target: Table,
    pub pending: Table,
    pub queued: Table,
    pub claimed: Table,
    pub degraded: Table,
    pub silent: i64,
    pub is_silence_general: bool,
}

impl Census {
    pub fn of(world: &World, now: Timestamp) -> Self {
        let mut census = Self::default();
        for (name, template) in &world.templates {
            for phase in ["pending", "ready", "ended"] {
                for claimed in ["false", "true"] {
                    census.sandboxes.insert([name.as_str(), phase, claimed].map(str::to_owned).into(), 0);
                }
            }
            let all = [&mut census.oldest_pending, &mut census.overdue];
            all.into_iter().for_each(|table| _ = table.insert(vec![name.clone()], 0));
            if template.template.spec.accelerator.is_some() {
                let all = [&mut census.accelerators, &mut census.accelerators_idle];
                all.into_iter().for_each(|table| _ = table.insert(vec![name.clone()], 0));
            }
        }
        world.sandboxes.iter().for_each(|sandbox| census.count(sandbox, world, now));
        for pool in &world.pools {
            let status = pool.status.clone().unwrap_or_default();
            let is_degraded =
                status.conditions.iter().any(|it| it.type_ == "Degraded" && it.status == ConditionStatus::True);
            let figures = [
                (&mut census.ready, status.ready),
                (&mut census.target, status.target),
                (&mut census.pending, status.pending),
                (&mut census.queued, status.queued),
                (&mut census.claimed, status.claimed),
                (&mut census.degraded, u32::from(is_degraded)),
            ];
            figures.into_iter().for_each(|(table, many)| _ = table.insert(vec![pool.name_any()], many.into()));
        }
        let is_silent = |it: &&Answer| matches!(it, Answer::Silent { .. });
        census.silent = i64::try_from(world.answers.values().filter(is_silent).count()).unwrap_or(i64::MAX);
        census.is_silence_general = world.is_silence_general();
        census
    }

    fn count(&mut self, sandbox: &Sandbox, world: &World, now: Timestamp) {
        let template = &sandbox.spec.template_ref.name;
        let of = vec![template.clone()];
        let phase = sandbox.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending);
        let is_claimed = sandbox.spec.session.is_some();
        let words = match phase {
            Phase::Pending => "pending",
            Phase::Ready => "ready",
            Phase::Ended => "ended",
        };
        *self.sandboxes.entry(vec![template.clone(), words.to_owned(), is_claimed.to_string()]).or_default() += 1;
        let seconds = |since: Timestamp| now.duration_since(since).as_secs().max(0);
        if let (Phase::Pending, Some(since)) = (phase, &sandbox.metadata.creation_timestamp) {
            let oldest = self.oldest_pending.entry(of.clone()).or_default();
            *oldest = seconds(since.0).max(*oldest);
        }
        let known = world.templates.get(template).map(|it| it.template.as_ref());
        let answer = world.answers.get(&sandbox.name_any()).copied();
        let used = life::last_used(sandbox, answer).map(seconds);
        let idle_timeout = i64::try_from(world.idle_timeout(sandbox).as_secs()).unwrap_or(i64::MAX);
        let grace = known.map_or(0, |it| Duration::from(it.spec.lifecycle.unsaved_grace).as_secs());
        let grace = i64::try_from(grace).unwrap_or(i64::MAX);
        if phase == Phase::Ready && is_claimed && used.is_some_and(|it| it > idle_timeout.saturating_add(grace)) {
            *self.overdue.entry(of.clone()).or_default() += 1;
        }
        let devices = known.map_or(0, devices);
        if devices > 0 && phase != Phase::Ended && world.pods.contains_key(&sandbox.name_any()) {
            *self.accelerators.entry(of.clone()).or_default() += devices;
            let is_idle = !is_claimed || used.is_some_and(|it| it >= idle_timeout);
            if phase == Phase::Ready && is_idle {
                *self.accelerators_idle.entry(of).or_default() += devices;
            }
        }
    }
}

/// Of each of a template's sandboxes. A resource claim counts as one.
fn devices(template: &SandboxTemplate) -> i64 {
    let of = |it: &kernelbox_api::Accelerator| it.resource.as_ref().map_or(1, |it| i64::from(it.count));
    template.spec.accelerator.as_ref().map_or(0, of)
}

/// Where a census is told.
#[derive(Debug)]
pub(super) struct Told {
    sandboxes: Figures,
    oldest_pending: Figures,
    overdue: Figures,
    accelerators: Figures,
    accelerators_idle: Figures,
    ready: Figures,
    target: Figures,
    pending: Figures,
    queued: Figures,
    claimed: Figures,
    degraded: Figures,
    silent: IntGauge,
    paused: IntGauge,
}

impl Told {
    pub(super) fn new(book: &mut Book) -> Result<Self, Error> {
        let (template, pool) = (&["template"], &["pool"]);
        Ok(Self {
            sandboxes: book.gauges_by(
                "kernelbox_sandboxes",
                "Sandboxes by template, phase (pending, ready, ended) and whether a session has them. As the leader \
                 knows them, like all metrics of templates and pools: other replicas tell none.",
                &["template", "phase", "claimed"],
            )?,
            oldest_pending: book.gauges_by(
                "kernelbox_sandbox_pending_age_seconds",
                "Age of the oldest sandbox that is not ready yet, 0 if there is none.",
                template,
            )?,
            overdue: book.gauges_by(
                "kernelbox_sandboxes_overdue",
                "Sandboxes that a session has and has not used, as far as is known, for longer than the idle timeout \
                 and the grace for what is unsaved.",
                template,
            )?,
            accelerators: book.gauges_by(
                "kernelbox_accelerators_held",
                "Devices that pods of sandboxes have. A resource claim counts as one.",
                template,
            )?,
            accelerators_idle: book.gauges_by(
                "kernelbox_accelerators_idle",
                "Devices of sandboxes that are ready and nobody's, or that their session has not used for the idle \
                 timeout.",
                template,
            )?,
            ready: book.gauges_by("kernelbox_pool_ready", "Warm sandboxes of a pool that can be claimed.", pool)?,
            target: book.gauges_by("kernelbox_pool_target", "Warm sandboxes that a pool wants to have.", pool)?,
            pending: book.gauges_by("kernelbox_pool_pending", "Warm sandboxes of a pool that are starting.", pool)?,
            queued: book.gauges_by(
                "kernelbox_pool_queued",
                "Sandboxes of a pool's template that sessions wait for and that have no pod yet.",
                pool,
            )?,
            claimed: book.gauges_by(
                "kernelbox_pool_claimed",
                "Sandboxes of a pool's template that sessions have.",
                pool,
            )?,
            degraded: book.gauges_by(
                "kernelbox_pool_degraded",
                "Whether the last starts of a pool failed: 1 or 0.",
                pool,
            )?,
            silent: book
                .gauge("kernelbox_supervisors_silent", "Supervisors that did not answer when they were asked last.")?,
            paused: book.gauge(
                "kernelbox_reclaim_paused",
                "Whether so many supervisors are silent that no sandbox is given up for it: 1 or 0.",
            )?,
        })
    }

    pub(super) fn take(&self, census: &Census) {
        self.sandboxes.replace(&census.sandboxes);
        self.oldest_pending.replace(&census.oldest_pending);
        self.overdue.replace(&census.overdue);
        self.accelerators.replace(&census.accelerators);
        self.accelerators_idle.replace(&census.accelerators_idle);
        self.ready.replace(&census.ready);
        self.target.replace(&census.target);
        self.pending.replace(&census.pending);
        self.queued.replace(&census.queued);
        self.claimed.replace(&census.claimed);
        self.degraded.replace(&census.degraded);
        self.silent.set(census.silent);
        self.paused.set(census.is_silence_general.into());
    }
}
