//! What the leader does next, from all that it knows: a step for each sandbox, new warm ones, what pools say of themselves. Pure.
mod place;
mod status;
mod trouble;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::Pod, networking::v1::NetworkPolicy},
    jiff::Timestamp,
};
use kernelbox_api::{
    Lifecycle, Phase, Sandbox, SandboxPool, SandboxPoolStatus, SandboxTemplate, SandboxTemplateStatus,
    TEMPLATE_HASH_LABEL, TEMPLATE_LABEL,
};
use kube::ResourceExt as _;

use crate::{
    life::{self, Answer, Refusal, Step},
    policy,
    queue::{self, Room, Waiting},
    size::{self, Bounds},
};

/// Pods that may be starting at once, of a template that has no pool.
const MAX_PENDING: usize = 10;
/// The stories of so many are kept, of each template.
const STORIES: usize = 200;

/// All that is known.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub templates: BTreeMap<String, Template>,
    pub pools: Vec<Arc<SandboxPool>>,
    pub sandboxes: Vec<Arc<Sandbox>>,
    /// By name, which is its sandbox'.
    pub pods: HashMap<String, Arc<Pod>>,
    /// Ours, by their names.
    pub policies: HashMap<String, Arc<NetworkPolicy>>,
    /// What supervisors said last, by the sandbox' name.
    pub answers: HashMap<String, Answer>,
    /// Pods that were not allowed, by the sandbox' name.
    pub refusals: HashMap<String, Refusal>,
}

impl World {
    /// How long it may be left alone: the session's own time, if that is shorter than its template's.
    pub fn idle_timeout(&self, sandbox: &Sandbox) -> Duration {
        let template = self.templates.get(&sandbox.spec.template_ref.name).map(|it| &it.template.spec);
        let of_template = match template {
            Some(spec) => spec.lifecycle.idle_timeout(spec.accelerator.as_ref()),
            None => Lifecycle::default().idle_timeout(None),
        };
        sandbox.spec.idle_timeout.map_or(of_template, |own| of_template.min(own.into()))
    }

    /// More than a fifth of the supervisors do not answer, and at least five.
    pub(crate) fn is_silence_general(&self) -> bool {
        let silent = self.answers.values().filter(|it| matches!(it, Answer::Silent { .. })).count();
        let claimed = self.sandboxes.iter().filter(|it| it.spec.session.is_some() && self.pods.contains_key(key(it)));
        silent >= 5 && silent * 5 > claimed.count()
    }
}

/// A template, and the hash and the policy of the pods that are made from it now; none where none can be.
#[derive(Debug, Clone)]
pub struct Template {
    pub template: Arc<SandboxTemplate>,
    pub hash: Option<String>,
    pub policy: Option<NetworkPolicy>,
    /// Why there is none.
    pub problem: Option<String>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// By sandbox.
    pub steps: Vec<(Arc<Sandbox>, Step)>,
    /// New warm sandboxes: the pool, and how many.
    pub create: Vec<(Arc<SandboxPool>, usize)>,
    /// What pools say, where it is not what they said before.
    pub pools: Vec<(Arc<SandboxPool>, SandboxPoolStatus)>,
    /// The same for templates.
    pub templates: Vec<(Arc<SandboxTemplate>, SandboxTemplateStatus)>,
    /// Policies that are not as they should be, and those of which nothing is left that they are for.
    pub enclose: Vec<NetworkPolicy>,
    pub lift: Vec<Arc<NetworkPolicy>>,
    /// When to look again though nothing changes.
    pub look_again: Option<Duration>,
}

/// A sandbox among those of its template.
struct One<'a> {
    sandbox: &'a Arc<Sandbox>,
    phase: Option<Phase>,
    has_pod: bool,
    is_warm: bool,
    is_stale: bool,
}

impl One<'_> {
    fn waits(&self) -> bool {
        !self.has_pod && self.phase.is_none_or(|phase| phase == Phase::Pending)
    }

    fn starts(&self) -> bool {
        self.has_pod && self.phase != Some(Phase::Ready)
    }

    fn is_ready(&self) -> bool {
        self.has_pod && self.phase == Some(Phase::Ready)
    }
}

/// The plan for now.
pub fn plan(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let superseded = superseded(&world.sandboxes);
    let is_silence_general = world.is_silence_general();
    let mut of_template: BTreeMap<&str, Vec<&Arc<Sandbox>>> = BTreeMap::new();
    for sandbox in &world.sandboxes {
        of_template.entry(sandbox.spec.template_ref.name.as_str()).or_default().push(sandbox);
    }
    for (name, known @ Template { template, hash, policy, .. }) in &world.templates {
        let is_enclosed = policy.as_ref().is_some_and(|policy| plan.take_policy(policy, world));
        let own = of_template.remove(name.as_str()).unwrap_or_default();
        let pool = world.pools.iter().find(|pool| pool.spec.template_ref.name == *name);
        let all: Vec<One<'_>> = own.iter().map(|sandbox| one(sandbox, world, hash.as_deref())).collect();
        // Those that ended do not count, and neither do those that are about to.
        let live: Vec<&One<'_>> = all.iter().filter(|it| counts(it, &superseded)).collect();
        let mut room = room(pool, &live);
        // Where no pod can be made, a free place is of no use.
        let is_full = room.is_full() && hash.is_some();
        let giving_way = place::wanted(&all, &live, is_full, world, now, &mut plan.look_again);
        let admitted = admitted(&live, room);
        room.pending += admitted.len();
        room.live += admitted.len();

        let target = pool.map(|pool| target(pool, &own, now));
        let warm: Vec<&One<'_>> = live.iter().copied().filter(|it| it.is_warm && !it.is_stale).collect();
        let wanted = target.as_ref().map_or(0, |target| target.warm as usize);
        let trouble = trouble::of(&own);
        let missing = match &trouble {
            _ if hash.is_none() || giving_way > 0 => 0,
            None => wanted.saturating_sub(warm.len()).min(room.left()),
            // One at a time, until one starts.
            Some(_) if !warm.iter().all(|it| it.is_ready()) => 0,
            Some(trouble) => match trouble.pause(now) {
                None => wanted.saturating_sub(warm.len()).min(room.left()).min(1),
                Some(pause) => {
                    soon(&mut plan.look_again, pause);
                    0
                }
            },
        };
        if let (Some(pool), true) = (pool, missing > 0) {
            plan.create.push((Arc::clone(pool), missing));
            (room.pending, room.live) = (room.pending + missing, room.live + missing);
        }
        let surplus = surplus(&warm, warm.len().saturating_sub(wanted), giving_way);
        // One of an old kind goes for each new one that may start, and all that start still.
        let stale_ready = live.iter().filter(|it| it.is_warm && it.is_stale && it.is_ready());
        let going: HashSet<&str> = stale_ready.take(room.left().max(1)).map(|it| key(it.sandbox)).collect();
        let forgotten = forgotten(&all);

        for it in &all {
            let name = key(it.sandbox);
            let facts = life::Facts {
                sandbox: it.sandbox,
                pod: world.pods.get(name).map(Arc::as_ref),
                lifecycle: &template.spec.lifecycle,
                idle_timeout: world.idle_timeout(it.sandbox),
                is_admitted: admitted.contains(name) && hash.is_some() && is_enclosed,
                is_superseded: superseded.contains(name),
                is_stale: it.is_stale && (!it.is_ready() || going.contains(name)),
                is_surplus: surplus.contains(name),
                is_forgotten: forgotten.contains(name),
                answer: world.answers.get(name).copied(),
                refusal: world.refusals.get(name).copied(),
                is_silence_general,
                now,
            };
            plan.take(it.sandbox, life::next(&facts));
        }
        if let (Some(pool), Some(target)) = (pool, target) {
            soon(&mut plan.look_again, size::next_look());
            let ready = count(&warm, One::is_ready);
            let status = SandboxPoolStatus {
                ready,
                pending: count(&warm, |it| !it.is_ready()),
                claimed: count(&live, |it| !it.is_warm && it.has_pod),
                queued: count(&live, |it| !it.is_warm && it.waits()),
                target: target.warm,
                conditions: status::of_pool(pool, ready >= target.warm, trouble.as_ref(), now),
                message: Some(target.why),
                observed_generation: pool.metadata.generation,
            };
            if pool.status.as_ref() != Some(&status) {
                plan.pools.push((Arc::clone(pool), status));
            }
        }
        let status = status::of_template(known, now);
        if template.status.as_ref() != Some(&status) {
            plan.templates.push((Arc::clone(template), status));
        }
    }
    // Their template is gone: warm ones go after it, a session keeps its own for as long as templates let it where they say nothing.
    for sandbox in of_template.into_values().flatten() {
        let facts = life::Facts {
            sandbox,
            pod: world.pods.get(key(sandbox)).map(Arc::as_ref),
            lifecycle: &Lifecycle::default(),
            idle_timeout: world.idle_timeout(sandbox),
            is_admitted: false,
            is_superseded: superseded.contains(key(sandbox)),
            is_stale: true,
            is_surplus: false,
            is_forgotten: false,
            answer: world.answers.get(key(sandbox)).copied(),
            refusal: None,
            is_silence_general,
            now,
        };
        plan.take(sandbox, life::next(&facts));
    }
    plan.lift = unneeded(world);
    plan
}

/// The policies of templates that are gone, as all their pods are.
fn unneeded(world: &World) -> Vec<Arc<NetworkPolicy>> {
    let of_pods = world.pods.values().filter_map(|pod| pod.labels().get(TEMPLATE_LABEL));
    let needed: HashSet<String> =
        world.templates.keys().chain(of_pods).map(|template| policy::name(template)).collect();
    world.policies.iter().filter(|(name, _)| !needed.contains(*name)).map(|(_, policy)| Arc::clone(policy)).collect()
}

impl Plan {
    /// Whether it is as it should be already. No pod is made before.
    fn take_policy(&mut self, policy: &NetworkPolicy, world: &World) -> bool {
        let is_there = world.policies.get(&policy.name_any()).is_some_and(|known| known.spec == policy.spec);
        if !is_there {
            self.enclose.push(policy.clone());
        }
        is_there
    }

    fn take(&mut self, sandbox: &Arc<Sandbox>, step: Step) {
        match step {
            Step::Wait(None) => {}
            Step::Wait(Some(span)) => soon(&mut self.look_again, span),
            step => self.steps.push((Arc::clone(sandbox), step)),
        }
    }
}

fn key(sandbox: &Sandbox) -> &str {
    sandbox.metadata.name.as_deref().unwrap_or_default()
}

fn one<'a>(sandbox: &'a Arc<Sandbox>, world: &World, hash: Option<&str>) -> One<'a> {
    let pod = world.pods.get(key(sandbox));
    let of =
        pod.and_then(|pod| pod.labels().get(TEMPLATE_HASH_LABEL)).or_else(|| sandbox.labels().get(TEMPLATE_HASH_LABEL));
    One {
        sandbox,
        phase: sandbox.status.as_ref().and_then(|status| status.phase),
        has_pod: pod.is_some(),
        is_warm: sandbox.spec.session.is_none(),
        // While no pods can be made from the template, those that there are stay.
        is_stale: of.zip(hash).is_some_and(|(of, hash)| of != hash),
    }
}

fn counts(it: &One<'_>, superseded: &HashSet<&str>) -> bool {
    it.phase != Some(Phase::Ended)
        && it.sandbox.metadata.deletion_timestamp.is_none()
        && !superseded.contains(key(it.sandbox))
}

fn count<'a, 'b: 'a>(all: &[&'a One<'b>], which: impl Fn(&One<'b>) -> bool) -> u32 {
    u32::try_from(all.iter().filter(|it| which(it)).count()).unwrap_or(u32::MAX)
}

/// All but the last sandbox of each session. One that has ended counts: what was given before it is nobody's any more.
fn superseded(sandboxes: &[Arc<Sandbox>]) -> HashSet<&str> {
    let mut last: HashMap<&str, &Sandbox> = HashMap::new();
    let mut earlier = HashSet::new();
    for sandbox in sandboxes {
        let Some(session) = sandbox.spec.session.as_deref() else { continue };
        match last.get_mut(session) {
            Some(known) if rank(known) >= rank(sandbox) => _ = earlier.insert(key(sandbox)),
            Some(known) => _ = earlier.insert(key(std::mem::replace(known, sandbox))),
            None => _ = last.insert(session, sandbox),
        }
    }
    earlier
}

/// Of a session's sandboxes the one of the highest rank is the session's. Of two of one generation that is the one that was given last: the
/// answer before it was lost.
pub fn rank(sandbox: &Sandbox) -> impl Ord + use<> {
    let claimed = sandbox.spec.claim_time.as_ref().map(|time| time.0);
    (sandbox.spec.generation, claimed, std::cmp::Reverse(sandbox.name_any()))
}

fn room(pool: Option<&Arc<SandboxPool>>, live: &[&One<'_>]) -> Room {
    Room {
        pending: live.iter().filter(|it| it.starts()).count(),
        max_pending: pool.map_or(MAX_PENDING, |pool| pool.spec.max_pending as usize),
        live: live.iter().filter(|it| it.has_pod).count(),
        limit: pool.and_then(|pool| pool.spec.limit).map(|limit| limit as usize),
    }
}

/// Who gets a pod now: sessions first, in their order, then warm ones.
fn admitted<'a>(live: &[&One<'a>], room: Room) -> HashSet<&'a str> {
    let mut warm: Vec<_> = live.iter().filter(|it| it.waits() && it.is_warm).map(|it| key(it.sandbox)).collect();
    warm.sort_unstable();
    line(live).into_iter().chain(warm).take(room.left()).collect()
}

/// The sessions' sandboxes that wait for a pod, in their order.
fn line<'a>(live: &[&One<'a>]) -> Vec<&'a str> {
    let mut held: HashMap<String, usize> = HashMap::new();
    for tenant in live.iter().filter(|it| it.has_pod).filter_map(|it| it.sandbox.spec.tenant.clone()) {
        *held.entry(tenant).or_default() += 1;
    }
    let waiting: HashMap<&str, &One<'a>> =
        live.iter().filter(|it| it.waits() && !it.is_warm).map(|it| (key(it.sandbox), *it)).collect();
    let each = waiting.values().filter_map(|it| {
        let since = it.sandbox.metadata.creation_timestamp.as_ref()?.0;
        Some(Waiting { name: it.sandbox.name_any(), tenant: it.sandbox.spec.tenant.clone()?, since })
    });
    let order = queue::order(each, &held);
    order.iter().filter_map(|next| waiting.get(next.name.as_str())).map(|it| key(it.sandbox)).collect()
}

/// The place of a session's sandbox among those that wait for a pod, from 1.
pub fn place(world: &World, sandbox: &Sandbox) -> Option<usize> {
    let superseded = superseded(&world.sandboxes);
    let own = world.sandboxes.iter().filter(|it| it.spec.template_ref == sandbox.spec.template_ref);
    let all: Vec<One<'_>> = own.map(|it| one(it, world, None)).collect();
    let live: Vec<&One<'_>> = all.iter().filter(|it| counts(it, &superseded)).collect();
    line(&live).into_iter().position(|name| name == key(sandbox)).map(|before| before + 1)
}

/// Those that ended so long ago that enough others have since.
fn forgotten<'a>(all: &[One<'a>]) -> HashSet<&'a str> {
    let ended = |it: &One<'_>| it.sandbox.status.as_ref()?.stages.ended.as_ref().map(|time| time.0);
    let mut ended: Vec<_> = all.iter().filter_map(|it| Some((ended(it)?, key(it.sandbox)))).collect();
    ended.sort_unstable_by(|a, b| b.cmp(a));
    ended.into_iter().skip(STORIES).map(|(_, name)| name).collect()
}

fn target(pool: &SandboxPool, own: &[&Arc<Sandbox>], now: Timestamp) -> size::Target {
    let bounds = Bounds { min: pool.spec.min, max: pool.spec.max.unwrap_or(pool.spec.min) };
    let claims: Vec<_> = own.iter().filter_map(|it| it.spec.claim_time.as_ref()).map(|time| time.0).collect();
    let starts: Vec<_> = own
        .iter()
        .filter_map(|it| {
            let stages = &it.status.as_ref()?.stages;
            let took = stages.kernel_ready.as_ref()?.0.duration_since(stages.created.as_ref()?.0);
            Some(took.unsigned_abs()).filter(|_| !took.is_negative())
        })
        .collect();
    size::target(bounds, &claims, &starts, now)
}

/// Young ones before old. Those that start become ready first, as a start that is broken off has cost as much; unless a session waits for
/// the place that they have.
fn surplus<'a>(warm: &[&One<'a>], many: usize, giving_way: usize) -> HashSet<&'a str> {
    let young_first = |which: fn(&One<'a>) -> bool| {
        let mut order: Vec<_> = warm.iter().filter(|it| which(it)).collect();
        order.sort_by_key(|it| {
            std::cmp::Reverse((it.sandbox.metadata.creation_timestamp.as_ref().map(|it| it.0), key(it.sandbox)))
        });
        order.into_iter().map(|it| key(it.sandbox))
    };
    let starting = young_first(One::starts).take(giving_way);
    starting.chain(young_first(One::is_ready)).take(many.max(giving_way)).collect()
}

fn soon(look: &mut Option<Duration>, span: Duration) {
    *look = Some(look.map_or(span, |known| known.min(span)));
}

#[cfg(test)]
mod tests;
