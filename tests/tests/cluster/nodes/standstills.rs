//! A part that stands still, as one does that is starved or hangs: others take over, and when it goes on it does no harm.
use std::time::{Duration, Instant};

use futures::future::join_all;
use kernelbox_proto::v1::{ExecuteRequest, ExecutionStatus, Stage, execution_event::Kind};
use kernelbox_tests::{Cluster, Run, cluster::Process};
use kube::ResourceExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::machines::UNREACHABLE;
use crate::claims::of_template;

/// How long the API server is away: longer than a leader's lease.
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_leader_that_stands_still_is_followed_and_does_no_harm_when_it_goes_on() {
    const MANY: usize = 6;
    let cluster = Cluster::open().await;
    cluster.template("cold", json!({}), 0).await;
    let mut client = cluster.client().await;
    let mut sessions = Vec::new();
    for _ in 0..MANY {
        sessions.push(of_template(&mut client, "cold").await);
    }
    let mut leads = None;
    cluster
        .until("one of the replicas leads", async || {
            let leader = cluster.leader().await;
            leads = cluster.controllers().await.into_iter().find(|pod| pod.name_any() == leader);
            leads.is_some()
        })
        .await;
    let pod = leads.unwrap();
    let first = pod.name_any();
    let leader = Process::running("kernelbox-controller", &pod.uid().unwrap());

    // when: it stops amid its work, and its lease ends
    let asks = sessions.iter().map(|session| {
        let mut client = client.clone();
        async move { client.run(session, "print('on')").await }
    });
    let stop = async {
        cluster.until("it has begun", async || cluster.pods().await.len() > 2).await;
        leader.stop()
    };
    let (answers, stopped) = tokio::join!(join_all(asks), stop);

    // then: the other leads, and all are served
    assert!(answers.iter().all(|run| run.ok() == "on\n"));
    let second = cluster.leader().await;
    assert_ne!(first, second);

    // and: when the first goes on, nothing is done twice
    drop(stopped);
    cluster
        .until("both replicas are ready", async || {
            let ready = cluster.controllers().await.into_iter().filter(|pod| {
                let conditions = pod.status.iter().flat_map(|it| it.conditions.iter().flatten());
                conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
            });
            ready.count() == 2
        })
        .await;
    for session in &sessions {
        assert_eq!(client.run(session, "print('still')").await.ok(), "still\n");
        assert_eq!(cluster.of(session).await.len(), 1);
    }
    assert_eq!(cluster.leader().await, second);
    assert_eq!((cluster.pods().await.len(), cluster.warm("default").await), (MANY + 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn one_that_does_not_answer_is_told_of_and_goes_on_when_it_does() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client().await;
    let session = client.session().await;
    client.run(&session, "print(1)").await.ok();
    let uid = cluster.live(&session).await.unwrap().status.unwrap().pod_uid.unwrap();
    let supervisor = Process::running("kernelbox-supervisor", &uid);
    let code = "import time\nfor step in range(60): print(step, flush=True); time.sleep(0.25)";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let mut events = client.code.execute(request).await.unwrap().into_inner();
    let mut stdout = String::new();
    let mut next = async || events.message().await.unwrap().expect("it goes on").kind;
    while stdout.is_empty() {
        if let Some(Kind::Stdout(text)) = next().await {
            stdout += &text.text;
        }
    }

    let stopped = supervisor.stop();
    let told = async {
        loop {
            match next().await {
                Some(Kind::Stage(stage)) if stage.stage() == Stage::Unreachable => return,
                Some(Kind::Stdout(text)) => stdout += &text.text,
                _ => {}
            }
        }
    };
    timeout(UNREACHABLE, told).await.expect("the client is told in time");
    drop(stopped);

    let finished = loop {
        match next().await {
            Some(Kind::Stdout(text)) => stdout += &text.text,
            Some(Kind::Finished(finished)) => break finished,
            _ => {}
        }
    };
    assert_eq!(finished.status(), ExecutionStatus::Ok);
    assert_eq!(stdout, (0..60).map(|step| format!("{step}\n")).collect::<String>());
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn while_the_api_server_is_away_what_runs_goes_on_and_who_comes_waits() {
    let cluster = Cluster::open().await;
    let mut client = cluster.client_past_the_api().await;
    let session = client.session().await;
    client.run(&session, "print(1)").await.ok();
    let new = client.session().await;
    let code = "import time\nfor step in range(40): print(step, flush=True); time.sleep(1)";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let mut runs = client.code.execute(request).await.unwrap().into_inner();
    while !matches!(runs.message().await.unwrap().unwrap().kind, Some(Kind::Started(_))) {}

    // when: it answers nobody for half a minute, and somebody asks for a sandbox meanwhile
    let api_server = Process::running("kube-apiserver", "");
    let (begun, away) = (Instant::now(), api_server.stop());
    let request = ExecuteRequest { session: new.clone(), code: "print('new')".into(), ..Default::default() };
    let mut asks = client.code.execute(request).await.unwrap().into_inner();
    loop {
        match asks.message().await.unwrap().expect("it waits").kind {
            Some(Kind::Stage(stage)) if stage.message.contains("Kubernetes API cannot be used") => break,
            Some(Kind::Stage(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    tokio::time::sleep(AWAY.saturating_sub(begun.elapsed())).await;
    drop(away);

    // then: no cell broke, and who asked gets its sandbox
    assert_eq!(Run::read(runs).await.unwrap().ok(), (0..40).map(|step| format!("{step}\n")).collect::<String>());
    assert_eq!(Run::read(asks).await.unwrap().ok(), "new\n");
    cluster.until("it has one, however often it was tried", async || cluster.live_ones(&new).await.len() == 1).await;
    assert_eq!(cluster.live(&session).await.unwrap().spec.generation, Some(1), "its pod is the same");
    cluster.until("the pool is filled again", async || cluster.pods().await.len() == 4).await;
}
