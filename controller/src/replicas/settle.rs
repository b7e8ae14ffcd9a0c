//! What must hold once everything has been told and done, and in the end.
use std::{collections::HashMap, time::Duration};

use serde_json::Value;

use super::{
    api::{owner_of, text},
    happenings::Happening,
    holds::is_ended,
    run::Run,
};

impl Run {
    /// Nothing fails any more, pods start and end as they are told, and the leader looks until it has nothing to do.
    pub(super) async fn settle(&mut self) {
        self.server.no_more_faults();
        // What is on its way still.
        tokio::time::sleep(Duration::from_secs(10)).await;
        if self.server.api().story.leader.is_none() {
            self.lead(0, true);
        }
        for _ in 0..100 {
            for happening in [Happening::CollectGarbage, Happening::Finish, Happening::StartAll] {
                self.happens(happening).await;
            }
            for replica in [0, 1, 0, 1] {
                self.happens(Happening::WatchAll(replica)).await;
            }
            if self.plan().await == Some(true) {
                return;
            }
            self.carry_out();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the leader never comes to rest");
    }

    pub(super) fn expect_all_holds(&self, when: &str) {
        let broken: Vec<_> = self.server.api().story.broken.iter().chain(&self.gateways.broken).cloned().collect();
        self.expect(broken.is_empty(), &format!("{when}: {broken:#?}"));
    }

    pub(super) fn expect_rest(&self, when: &str) {
        self.expect_all_holds(when);
        let broken = self.unsettled();
        self.expect(broken.is_empty(), &format!("{when}: {broken:#?}"));
    }

    /// So many sandboxes, pods and policies.
    pub(super) fn expect_there(&self, many: [usize; 3], when: &str) {
        self.expect_all_holds(when);
        let kinds = ["sandboxes", "pods", "networkpolicies"];
        let there = kinds.map(|kind| self.server.api().names(kind));
        let is_right = there.iter().map(Vec::len).eq(many);
        self.expect(is_right, &format!("{when}: {there:?}"));
    }

    fn expect(&self, holds: bool, what: &str) {
        assert!(holds, "{what}\n{}", self.server.api().story.log.join("\n"));
    }

    /// What does not hold though nothing is under way.
    fn unsettled(&self) -> Vec<String> {
        let api = self.server.api();
        let mut broken = Vec::new();
        let mut living: HashMap<&str, Vec<&str>> = HashMap::new();
        for sandbox in api.all("sandboxes").filter(|it| !is_ended(it)) {
            let (name, session) = (text(sandbox, "/metadata/name"), text(sandbox, "/spec/session"));
            if !session.is_empty() {
                living.entry(session).or_default().push(name);
            }
            let pod = api.get("pods", name).map(|it| text(it, "/metadata/uid"));
            if text(sandbox, "/status/phase") == "Ready" && pod != Some(text(sandbox, "/status/podUid")) {
                broken.push(format!("{name} is ready with a pod that is not its own: {pod:?}"));
            }
        }
        broken.extend(living.iter().filter(|(_, all)| all.len() > 1).map(|it| format!("two live: {it:?}")));
        for sandbox in api.all("sandboxes").filter(|it| !is_ended(it)) {
            let is_later = |other: &Value| {
                other["spec"]["session"] == sandbox["spec"]["session"]
                    && other["spec"]["generation"].as_i64() > sandbox["spec"]["generation"].as_i64()
            };
            if let Some(later) = api.all("sandboxes").find(|it| is_later(it)) {
                broken.push(format!(
                    "{} lives after {}",
                    text(sandbox, "/metadata/name"),
                    text(later, "/metadata/name")
                ));
            }
        }
        for (session, generation) in self.gateways.waiting() {
            let waits = api
                .all("sandboxes")
                .filter(|it| !is_ended(it))
                .any(|it| text(it, "/spec/session") == session && it["spec"]["generation"] == generation);
            if !waits {
                broken.push(format!("{session} waits for a sandbox that is not there"));
            }
        }
        broken.extend(
            api.all("pods")
                .filter(|it| api.sandbox_of(it).is_none())
                .map(|it| format!("{} has no sandbox", owner_of(it))),
        );
        broken
    }

    /// Sessions use nothing any more, and time passes: what is there but the pool.
    pub(super) async fn end(&mut self) {
        for session in 0..super::happenings::SESSIONS {
            self.gateways.hang_up(session);
        }
        self.is_all_idle = true;
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(1_000)).await;
            self.settle().await;
        }
        // Those that were starting for so long make it try again with care.
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(400)).await;
            self.settle().await;
        }
    }

    pub(super) fn least(&self) -> usize {
        let api = self.server.api();
        api.get("sandboxpools", "t").map_or(0, |pool| pool["spec"]["min"].as_u64().unwrap_or_default() as usize)
    }

    /// The template and its pool are deleted.
    pub(super) async fn delete_all(&mut self) {
        for kind in ["sandboxpools", "sandboxtemplates"] {
            self.server.api().remove(kind, "t");
        }
        for _ in 0..2 {
            self.settle().await;
            tokio::time::advance(Duration::from_secs(601)).await;
        }
        self.settle().await;
    }
}
