//! What the leading replica does: again and again it looks at all that is known, plans, and carries the plan out.
//!
//! Nothing it remembers is needed: another that takes over asks supervisors anew and comes to the same.
mod carry_out;
mod refusals;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use kernelbox_api::Sandbox;
use kube::ResourceExt as _;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    cluster::Cluster,
    events::Events,
    keys::Keys,
    lease::Leadership,
    life::{Answer, Step},
    metrics::{Census, Metrics, Pass},
    plan::{self, Plan, World},
    supervisors::{self, Supervisor},
};
pub use refusals::Refusals;

/// Changes come in crowds; they are looked at together.
const GATHER: Duration = Duration::from_millis(3);
/// After a write that failed, and at least so often.
const RETRY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(60);
/// A pool's status follows what happens, but not each step of it.
const TELL_POOL: Duration = Duration::from_secs(1);
/// How often what there is of what is counted, at most.
const COUNT: Duration = Duration::from_secs(1);
/// How often the signing keys are seen to.
const KEYS: Duration = Duration::from_secs(60);
/// Supervisors that are asked at once.
const ASKED_AT_ONCE: usize = 32;

pub struct Leader {
    pub cluster: Arc<Cluster>,
    pub keys: Arc<Keys>,
    pub leadership: Leadership,
    pub metrics: Metrics,
    pub events: Events,
    pub refusals: Refusals,
}

/// What is asked of supervisors now, and what they said.
#[derive(Default)]
struct Asked {
    answers: HashMap<String, Answer>,
    asking: HashSet<String>,
    tasks: JoinSet<(String, Option<Answer>)>,
}

impl Leader {
    /// Leads whenever it is this replica's turn, until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let gained = tokio::select! {
                gained = self.leadership.gained() => gained,
                () = stop.cancelled() => return,
            };
            if !gained {
                return;
            }
            let mut lost = self.leadership.clone();
            tokio::select! {
                () = self.lead() => {}
                () = lost.lost() => tracing::warn!("this replica leads no more"),
                () = stop.cancelled() => return,
            }
        }
    }

    async fn lead(&self) {
        let mut changes = self.cluster.changes.subscribe();
        let mut asked = Asked::default();
        let mut told = HashMap::new();
        let (mut keys_due, mut count_due) = (Instant::now(), Instant::now());
        let _leads = self.metrics.leads();
        loop {
            changes.borrow_and_update();
            if Instant::now() >= keys_due {
                keys_due = Instant::now() + self.keep_keys().await;
            }
            let (mut wait, begun) = (RETRY, Instant::now());
            if let Some((world, mut plan)) = self.plan(&mut asked.answers).await {
                wait = plan.look_again.unwrap_or(LOOK).min(LOOK);
                plan.pools.retain(|(pool, _)| match pause(&mut told, pool.name_any()) {
                    None => true,
                    Some(pause) => {
                        wait = wait.min(pause);
                        false
                    }
                });
                asked.ask(&plan, &world, &self.keys);
                if count_due <= Instant::now() {
                    self.metrics.take(&Census::of(&world, clock::now()));
                    count_due = Instant::now() + COUNT;
                } else {
                    wait = wait.min(count_due - Instant::now());
                }
                if !self.carry_out(plan).await {
                    self.metrics.not_reconciled(Pass::Write);
                    wait = wait.min(RETRY);
                }
                self.metrics.reconciled(begun.elapsed());
            }
            let until = (Instant::now() + wait).min(keys_due);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                Some(Ok((name, answer))) = asked.tasks.join_next() => self.metrics.answered(&asked.take(name, answer)),
                () = tokio::time::sleep_until(until) => {}
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// What is to be done now. None: what is not known yet must not be made again; and pods need a key.
    pub(crate) async fn plan(&self, answers: &mut HashMap<String, Answer>) -> Option<(World, Plan)> {
        if !(self.cluster.is_complete() && self.keys.are_there()) {
            return None;
        }
        if let Err(error) = self.cluster.look_for_pods().await {
            self.metrics.not_reconciled(Pass::Look);
            tracing::warn!(error = &error as &dyn std::error::Error, "what was written cannot be looked for");
            return None;
        }
        let mut world = self.cluster.world();
        forget_all_but(answers, &world.sandboxes);
        world.answers.clone_from(answers);
        world.refusals = self.refusals.of(&world);
        let plan = plan::plan(&world, clock::now());
        Some((world, plan))
    }

    /// When to see to the keys again.
    async fn keep_keys(&self) -> Duration {
        match self.keys.keep().await {
            Ok(()) => KEYS,
            Err(error) => {
                self.metrics.not_reconciled(Pass::Keys);
                tracing::error!(error = &error as &dyn std::error::Error, "the signing keys cannot be kept");
                RETRY
            }
        }
    }
}

/// How long to wait still before this pool's status is written again. None: it is written now.
fn pause(told: &mut HashMap<String, Instant>, pool: String) -> Option<Duration> {
    let now = Instant::now();
    match told.get(&pool).map(|at| TELL_POOL.saturating_sub(now - *at)).filter(|rest| !rest.is_zero()) {
        Some(rest) => Some(rest),
        None => {
            told.insert(pool, now);
            None
        }
    }
}

fn forget_all_but(answers: &mut HashMap<String, Answer>, sandboxes: &[Arc<Sandbox>]) {
    if !answers.is_empty() {
        let there: HashSet<_> = sandboxes.iter().map(|it| it.name_any()).collect();
        answers.retain(|name, _| there.contains(name));
    }
}

impl Asked {
    fn ask(&mut self, plan: &Plan, world: &World, keys: &Arc<Keys>) {
        for (sandbox, step) in &plan.steps {
            let (Step::AskWhetherIdle, name) = (step, sandbox.name_any()) else { continue };
            if self.asking.contains(&name) || self.tasks.len() >= ASKED_AT_ONCE {
                continue;
            }
            let status = sandbox.status.as_ref();
            let address = status.and_then(|it| it.address.clone());
            let (Some(address), Some(uid)) = (address, status.and_then(|it| it.pod_uid.clone())) else { continue };
            self.asking.insert(name.clone());
            let answer =
                supervisors::retire(Arc::clone(keys), Supervisor { address, uid }, world.idle_timeout(sandbox));
            self.tasks.spawn(async move { (name, answer.await) });
        }
    }

    fn take(&mut self, name: String, answer: Option<Answer>) -> Answer {
        self.asking.remove(&name);
        let now = clock::now();
        let answer = answer.unwrap_or_else(|| match self.answers.get(&name) {
            Some(Answer::Silent { since, .. }) => Answer::Silent { since: *since, asked: now },
            _ => Answer::Silent { since: now, asked: now },
        });
        self.answers.insert(name, answer);
        answer
    }
}
