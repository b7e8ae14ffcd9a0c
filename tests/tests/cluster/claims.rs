//! Warm ones are given at once, with one write; never twice, and whatever happens to the controller.
use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kernelbox_api::{Phase, Sandbox};
use kernelbox_proto::v1::{ExecuteRequest, Stage, execution_event::Kind};
use kernelbox_tests::{
    Client, Cluster,
    cluster::{Asker, Forward, OWN, phase},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};

/// Each session's own first execution, and where it ran.
async fn first(mut client: Client, session: String) -> Result<String, tonic::Status> {
    let code = "import os\nprint(os.uname().nodename, end='')".into();
    Ok(client.try_run(ExecuteRequest { session, code, ..Default::default() }).await?.ok())
}

async fn sessions(client: &mut Client, many: usize) -> Vec<String> {
    let mut sessions = Vec::new();
    for _ in 0..many {
        sessions.push(client.session().await);
    }
    sessions
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_claim_is_one_write() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    let claims = cluster.claims().await;

    client.run(&session, "1").await.ok();

    let live = cluster.live(&session).await.unwrap();
    assert_eq!((phase(&live), live.spec.generation), (Some(Phase::Ready), Some(1)));
    assert_eq!(cluster.claims().await - claims, 1);
    client.delete(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn without_a_warm_one_each_stage_is_told() {
    let cluster = Cluster::open().await;
    cluster.template("cold", serde_json::json!({}), 0).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "cold").await;

    let run = client.run(&session, "print(1)").await;

    assert_eq!(run.ok(), "1\n");
    let stages: Vec<_> =
        run.kinds().filter_map(|kind| if let Kind::Stage(stage) = kind { Some(stage.stage()) } else { None }).collect();
    assert!(stages.contains(&Stage::Starting) && stages.is_sorted_by_key(|stage| *stage as i32), "{stages:?}");
    client.delete(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn the_schedulers_words_reach_the_client() {
    let cluster = Cluster::open().await;
    let changes = serde_json::json!({"resources": {"requests": {"memory": "900Gi"}, "limits": {"memory": "900Gi"}},
        "lifecycle": {"startTimeout": "6s"}});
    cluster.template("huge", changes, 0).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "huge").await;

    let request = ExecuteRequest { session: session.clone(), code: "1".into(), ..Default::default() };
    let mut events = client.code.execute(request).await.unwrap().into_inner();
    let mut words = Vec::new();
    let error = loop {
        match events.message().await {
            Ok(Some(event)) => {
                if let Some(Kind::Stage(stage)) = event.kind {
                    words.push((stage.stage(), stage.message));
                }
            }
            Ok(None) => panic!("it ended: {words:?}"),
            Err(status) => break status,
        }
    };

    let told = words.iter().any(|(stage, words)| *stage == Stage::Scheduling && words.contains("Insufficient memory"));
    assert!(told, "{words:?}");
    assert!(error.message().contains("StartTimeout") && error.message().contains("Insufficient memory"), "{error:?}");
    assert_eq!(cluster.ended(&session).await, kernelbox_api::EndReason::StartTimeout);
    cluster.until("no pod is left of it", async || cluster.pods().await.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_controller_that_is_killed_amid_claims_gives_none_twice_and_loses_none() {
    const MANY: usize = 50;
    let cluster = Cluster::open().await;
    cluster.size_pool("default", MANY as u32, MANY as u32).await;
    cluster.until("the pool is filled", async || cluster.warm("default").await == MANY).await;
    let client = cluster.client().await;
    let sessions = sessions(&mut client.clone(), MANY).await;

    // when: all replicas are killed while sandboxes are given
    let calls = join_all(sessions.iter().map(|session| first(client.clone(), session.clone())));
    let kill = async {
        let is_claimed = |it: &Sandbox| it.spec.session.is_some();
        while !cluster.sandboxes().await.iter().any(is_claimed) {}
        let controllers: Api<Pod> = Api::namespaced(cluster.kube.clone(), OWN);
        let all = ListParams::default().labels("app.kubernetes.io/name=kernelbox-controller");
        controllers.delete_collection(&DeleteParams::default().grace_period(0), &all).await.unwrap();
        cluster.sandboxes().await.into_iter().filter(is_claimed).count()
    };
    let (answers, claimed) = tokio::join!(calls, kill);
    println!("{claimed} of {MANY} were given when the kill was ordered");

    // then: whoever was refused is served when it asks again
    let mut at = HashSet::new();
    for (session, answer) in sessions.iter().zip(answers) {
        let mut answer = answer;
        for _ in 0..60 {
            match &answer {
                Ok(_) => break,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    answer = first(client.clone(), session.clone()).await;
                }
            }
        }
        let pod = answer.unwrap_or_else(|status| panic!("{session}: {status:?}"));
        assert!(at.insert(pod.clone()), "{pod} was given twice");
    }
    for session in &sessions {
        let live = cluster.live_ones(session).await;
        assert_eq!(live.len(), 1, "{session} has {} live sandboxes", live.len());
    }
    cluster.size_pool("default", 3, 3).await;
    cluster
        .until("the pool is filled to its size exactly", async || {
            cluster.warm("default").await == 3 && cluster.pods().await.len() == MANY + 3
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn who_asks_another_replica_as_no_answer_came_has_what_that_one_gives() {
    const MANY: u32 = 8;
    let cluster = Cluster::open().await;
    cluster.size_pool("default", 2 * MANY, 2 * MANY).await;
    cluster.until("the pool is filled", async || cluster.warm("default").await == 2 * MANY as usize).await;
    let replicas: Vec<_> = cluster.controllers().await.iter().map(|pod| format!("pod/{}", pod.name_any())).collect();
    let replicas: Vec<_> = replicas.iter().map(|pod| Forward::start(OWN, pod, 7080)).collect();
    let (one, other) = (Asker::connect(&replicas[0].endpoint()).await, Asker::connect(&replicas[1].endpoint()).await);

    // when: the first does not know that it was given up, nor the second what the first gives
    let sessions: Vec<_> = (0..MANY).map(|number| format!("sessions/again-{number}")).collect();
    let given = join_all(sessions.iter().map(async |session| {
        let (_lost, given) = tokio::join!(one.ask(session, "default", 1), other.acquire_again(session, "default"));
        given
    }))
    .await;

    // then: only what the second gave is left, and the first knows it
    for (session, given) in sessions.iter().zip(given) {
        let has_one = async || cluster.live_ones(session).await.len() == 1;
        cluster.until(&format!("{session} has one"), has_one).await;
        let live = cluster.live(session).await.unwrap();
        assert_eq!((live.name_any(), live.spec.generation), (given.sandbox.clone(), Some(2)));
        assert_eq!(one.acquire_again(session, "default").await.sandbox, given.sandbox);
        one.release(given).await;
    }
    cluster
        .until("the pool is filled to its size exactly", async || {
            cluster.warm("default").await == 2 * MANY as usize && cluster.pods().await.len() == 2 * MANY as usize
        })
        .await;
}

pub async fn of_template(client: &mut Client, template: &str) -> String {
    let session = kernelbox_proto::v1::Session { template: template.into(), ..Default::default() };
    let request = kernelbox_proto::v1::CreateSessionRequest { session: Some(session), ..Default::default() };
    client.sessions.create_session(request).await.unwrap().into_inner().name
}
