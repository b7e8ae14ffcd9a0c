//! A cluster with two replicas, in which things happen.
use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    api::{Api, text},
    gateway::Gateways,
    happenings::{Happening, SESSIONS},
    holds::whose,
    replica::Replica,
    wire::{Fault, Server},
};
use crate::{
    clock,
    keys::Keys,
    life::{Answer, Step},
};

pub(super) struct Run {
    pub(super) server: Arc<Server>,
    pub(super) gateways: Gateways,
    pub(super) replicas: [Replica; 2],
    keys: Arc<Keys>,
    /// The pods that nobody uses.
    idle: HashSet<String>,
    /// No pod is used any more.
    pub(super) is_all_idle: bool,
    addresses: usize,
}

impl Run {
    /// A template and its pool, which is filled; both replicas know of all, and the first one leads.
    pub(super) async fn new() -> Self {
        let mut api = Api::default();
        let object = |kind: &str, spec: Value| json!({"apiVersion": "kernelbox.dev/v1alpha1", "kind": kind, "metadata": {"name": "t"}, "spec": spec});
        api.create("sandboxtemplates", object("SandboxTemplate", json!({"image": "x"}))).unwrap();
        let pool = json!({"templateRef": {"name": "t"}, "min": 2, "max": 4, "limit": 4, "maxPending": 3});
        api.create("sandboxpools", object("SandboxPool", pool)).unwrap();
        let server = Server::new(api);
        let keys = Keys::new(server.client(0), "kernelbox", "kernelbox-sandboxes", "kernelbox-public-keys".to_owned());
        keys.keep().await.unwrap();
        let keys = Arc::new(keys);
        let mut replicas = [0, 1].map(|number| Replica::new(number, &server, &keys));
        for replica in &mut replicas {
            replica.deliver_all();
        }
        let gateways = Gateways::new(SESSIONS);
        let mut run = Self { server, gateways, replicas, keys, idle: HashSet::new(), is_all_idle: false, addresses: 0 };
        run.lead(0, true);
        run.settle().await;
        run
    }

    pub(super) async fn happens(&mut self, happening: Happening) {
        let on = |replica: usize| &self.replicas[replica].allocator;
        match happening {
            Happening::Ask(session, replica) => self.gateways.ask(session, on(replica)),
            Happening::AskAgain(session, replica, parted) => {
                self.gateways.ask_again(session, on(replica), parted);
            }
            Happening::Find(session, replica) => self.gateways.find(session, on(replica)),
            Happening::Lose(session) => self.gateways.lose(session),
            Happening::HangUp(session) => self.gateways.hang_up(session),
            Happening::Release(session, replica) => self.gateways.release(session, on(replica)),
            Happening::Watch(replica, kind, many) => self.replicas[replica].deliver(kind, many),
            Happening::WatchAll(replica) => self.replicas[replica].deliver_all(),
            Happening::List(replica, kind) => self.replicas[replica].list(kind),
            Happening::ListToEnd(replica, kind) => self.replicas[replica].list_to_end(kind),
            Happening::Restart(replica) => self.restart(replica),
            Happening::Lead(replica, knows) => self.lead(replica, knows),
            Happening::Plan => _ = self.plan().await,
            Happening::CarryOut => self.carry_out(),
            Happening::Look => {
                let leader = self.server.api().story.leader;
                if let Some(leader) = leader {
                    self.replicas[leader].deliver_all();
                }
                self.plan().await;
                self.carry_out();
            }
            Happening::CarryOutLate(replica, believes) => self.carry_out_late(replica, believes),
            Happening::Fault(replica, fault) => {
                self.server.next_fault(replica, fault);
                let repeats = usize::from(matches!(fault, Fault::AnswerLost | Fault::SilenceAfter | Fault::Late));
                self.server.api().story.repeats += repeats;
            }
            Happening::Idle(n) => {
                let api = self.server.api();
                let all: Vec<_> = api.all("pods").map(|it| text(it, "/metadata/uid").to_owned()).collect();
                self.idle.extend(place(&all, n).cloned());
            }
            Happening::Later(seconds) => tokio::time::advance(Duration::from_secs(seconds)).await,
            Happening::Scale(min, limit) => {
                {
                    let mut api = self.server.api();
                    api.edit("sandboxpools", "t", |pool| {
                        (pool["spec"]["min"], pool["spec"]["limit"]) = (min.into(), limit.into());
                    });
                    // A plan may be kept that was made for more.
                    api.story.limit = api.story.limit.max(limit as usize);
                }
                for replica in &mut self.replicas {
                    replica.deliver("sandboxpools", usize::MAX);
                }
            }
            Happening::Template(kind) => {
                let env = json!([{"name": "KIND", "value": kind.to_string()}]);
                self.server.api().edit("sandboxtemplates", "t", |template| template["spec"]["env"] = env);
            }
            other => self.happens_to_pods(other),
        }
        // All that can be done now is, and a little time passes.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.gateways.take(&mut self.server.api());
    }

    fn happens_to_pods(&mut self, happening: Happening) {
        let mut api = self.server.api();
        let pods = api.names("pods");
        match happening {
            Happening::Schedule(n) => {
                if let Some(name) = place(&pods, n) {
                    api.edit("pods", name, |pod| pod["spec"]["nodeName"] = "node-1".into());
                }
            }
            Happening::Start(n) => {
                if let Some(name) = place(&pods, n) {
                    self.addresses += 1;
                    api.edit("pods", name, |pod| start(pod, self.addresses));
                }
            }
            Happening::StartAll => {
                for name in &pods {
                    self.addresses += 1;
                    api.edit("pods", name, |pod| start(pod, self.addresses));
                }
            }
            Happening::Die(n) => {
                if let Some(name) = place(&pods, n) {
                    api.edit("pods", name, |pod| pod["status"]["phase"] = "Failed".into());
                }
            }
            Happening::Kill(n) => {
                if let Some(name) = place(&pods, n) {
                    _ = api.delete("pods", name, &json!({}));
                }
            }
            Happening::Vanish(n) => {
                if let Some(name) = place(&pods, n) {
                    api.remove("pods", name);
                }
            }
            Happening::NodeGone => {
                for name in &pods {
                    if !text(api.get("pods", name).unwrap(), "/spec/nodeName").is_empty() {
                        let lost =
                            json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]);
                        api.edit("pods", name, |pod| pod["status"]["conditions"] = lost);
                        _ = api.delete("pods", name, &json!({}));
                    }
                }
            }
            Happening::Finish => {
                for name in &pods {
                    if !text(api.get("pods", name).unwrap(), "/metadata/deletionTimestamp").is_empty() {
                        api.remove("pods", name);
                    }
                }
            }
            Happening::DeleteSandbox(n) => {
                if let Some(name) = place(&api.names("sandboxes"), n) {
                    let whose = whose(api.get("sandboxes", name).unwrap());
                    api.story.more_than_once.extend(whose);
                    api.remove("sandboxes", name);
                }
            }
            Happening::CollectGarbage => api.collect_garbage(),
            other => unreachable!("{other:?}"),
        }
    }

    fn restart(&mut self, number: usize) {
        let new = Replica::new(number, &self.server, &self.keys);
        std::mem::replace(&mut self.replicas[number], new).end();
        let mut api = self.server.api();
        api.story.repeats += 8;
        if api.story.leader == Some(number) {
            api.story.leader = None;
        }
    }

    pub(super) fn lead(&mut self, number: usize, knows: bool) {
        let before = self.server.api().story.leader;
        if before == Some(number) {
            return;
        }
        if let Some(before) = before {
            self.replicas[before].stop_carrying_out();
            self.replicas[before].lead(false);
        }
        let next = &mut self.replicas[number];
        if knows {
            next.deliver_all();
        }
        next.lead(true);
        next.stop_carrying_out();
        (next.carrying_out, next.plan) = (None, None);
        next.answers.clear();
        let story = &mut self.server.api().story;
        (story.leader, story.term) = (Some(number), story.term + 1);
        story.repeats += if knows { 0 } else { 8 };
    }

    /// Whether there is nothing to do. None: there is no leader, or it cannot plan now.
    pub(super) async fn plan(&mut self) -> Option<bool> {
        let leader = self.server.api().story.leader?;
        let replica = &mut self.replicas[leader];
        if replica.is_busy() {
            return None;
        }
        let (_, plan) = replica.leader.plan(&mut replica.answers).await?;
        let now = clock::now();
        let mut rests = true;
        for (sandbox, step) in &plan.steps {
            if *step != Step::AskWhetherIdle {
                rests = false;
                continue;
            }
            let uid = sandbox.status.as_ref().and_then(|status| status.pod_uid.clone()).unwrap_or_default();
            let is_idle = self.is_all_idle || self.idle.contains(&uid);
            let answer =
                if is_idle { Answer::Retired { asked: now, used: now, unsaved: false } } else { Answer::Used(now) };
            // One that takes no calls any more never takes any again.
            self.idle.extend(is_idle.then_some(uid));
            replica.answers.insert(sandbox.metadata.name.clone().unwrap_or_default(), answer);
            rests = false;
        }
        rests &= plan.create.is_empty() && plan.pools.is_empty() && plan.templates.is_empty();
        rests &= plan.enclose.is_empty() && plan.lift.is_empty();
        replica.plan = Some(plan);
        let mut api = self.server.api();
        let limit = api.get("sandboxpools", "t").and_then(|pool| pool["spec"]["limit"].as_u64());
        api.story.limit = limit.and_then(|it| it.try_into().ok()).unwrap_or_default();
        let cluster = &replica.cluster;
        let unknown = api.unseen_pods(|name| cluster.pods.get(name).is_some() && cluster.sandboxes.get(name).is_some());
        // One that has not heard of all that there was must not plan: that excuses nothing.
        api.story.unknown = if replica.has_listed_all() { unknown } else { 0 };
        Some(rests)
    }

    pub(super) fn carry_out(&mut self) {
        let Some(leader) = self.server.api().story.leader else { return };
        self.replicas[leader].carry_out();
    }

    fn carry_out_late(&mut self, number: usize, believes: bool) {
        let mut api = self.server.api();
        if api.story.leader != Some(number) && !self.replicas[number].is_busy() {
            api.story.repeats += 8;
            self.replicas[number].lead(believes);
            self.replicas[number].carry_out();
        }
    }
}

fn place(all: &[String], n: usize) -> Option<&String> {
    if all.is_empty() { None } else { all.get(n % all.len()) }
}

fn start(pod: &mut Value, address: usize) {
    let is_over = pod["metadata"]["deletionTimestamp"].is_string() || pod["status"]["phase"] != "Pending";
    if !is_over {
        pod["spec"]["nodeName"] = "node-1".into();
        let conditions = json!([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]);
        let ip = format!("10.0.{}.{}", address / 250, address % 250);
        pod["status"] = json!({"phase": "Running", "podIP": ip, "conditions": conditions});
    }
}
