//! What code in a sandbox reaches, with real packets: the outside, and nothing of the cluster.
use std::collections::BTreeSet;

use kernelbox_proto::v1::InstallPackagesRequest;
use kernelbox_tests::{
    Client, Cluster,
    cluster::{SANDBOXES, kubectl},
};
use serde_json::json;

use crate::claims::of_template;

/// The host outside of tests/cluster: its name, its addresses, the ports that it serves.
const OUTSIDE: &str = "outside.kernelbox.test";
const ADDRESS: &str = "203.0.113.10";
const OTHER: &str = "203.0.113.11";
const PORTS: [u16; 2] = [80, 8081];
/// What a cloud's metadata service would be; the same host listens there.
const METADATA: &str = "169.254.169.254";

/// Pods that no policy is about: one to be reached, with a service, and one that reaches.
struct Open {
    targets: Vec<String>,
}

impl Open {
    fn new() -> Self {
        for name in ["target", "open"] {
            let image = ["--image=kernelbox.test/probe:1", "--image-pull-policy=IfNotPresent", "--restart=Never"];
            let args =
                [&["run", name, "-n", "default", "--port=8080"], &image[..], &["--expose", "--", "serve", "8080"]];
            kubectl(&args.concat());
        }
        kubectl(&["wait", "-n", "default", "--for=condition=Ready", "--timeout=60s", "pod/target", "pod/open"]);
        let of =
            |what: &str, path: &str| kubectl(&["get", "-n", "default", what, "-o", &format!("jsonpath={{{path}}}")]);
        let pod = of("pod/target", ".status.podIP");
        let service = of("service/target", ".spec.clusterIP");
        let api = of("service/kubernetes", ".spec.clusterIP");
        let node = of("nodes", ".items[0].status.addresses[?(@.type=='InternalIP')].address");
        Self {
            targets: vec![
                format!("{pod}:8080"),
                format!("{service}:8080"),
                format!("{api}:443"),
                format!("{node}:10250"),
                format!("{METADATA}:80"),
            ],
        }
    }

    /// Which of these it reaches.
    fn reached(&self, targets: &[String]) -> BTreeSet<String> {
        let mut args = vec!["exec", "-n", "default", "open", "--", "/probe", "reach"];
        args.extend(targets.iter().map(String::as_str));
        let output = std::process::Command::new("kubectl").args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().filter_map(|line| Some(line.strip_prefix("yes: ")?.to_owned())).collect()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        kubectl(&[
            "delete",
            "-n",
            "default",
            "--grace-period=1",
            "pod/target",
            "pod/open",
            "service/target",
            "service/open",
        ]);
    }
}

/// Which of these code in the session's sandbox reaches, within two seconds.
async fn reached(client: &mut Client, session: &str, targets: &[String]) -> BTreeSet<String> {
    let code = format!(
        "import socket, concurrent.futures\n\
         def reach(target):\n    \
             host, port = target.rsplit(':', 1)\n    \
             try: socket.create_connection((host, int(port)), 2).close()\n    \
             except OSError: return None\n    \
             return target\n\
         with concurrent.futures.ThreadPoolExecutor(16) as pool:\n    \
             for target in pool.map(reach, {targets:?}):\n        \
                 if target: print(target)"
    );
    client.run(session, &code).await.ok().lines().map(str::to_owned).collect()
}

fn outside() -> Vec<String> {
    let at = |host: &str| PORTS.map(|port| format!("{host}:{port}"));
    [at(ADDRESS), at(OTHER), at(OUTSIDE)].concat()
}

fn set(targets: &[String]) -> BTreeSet<String> {
    targets.iter().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn the_internet_is_reached_and_the_clusters_insides_are_not() {
    let cluster = Cluster::open().await;
    let index = format!("http://{ADDRESS}/simple/");
    let env = json!([{"name": "UV_DEFAULT_INDEX", "value": index}, {"name": "UV_INSECURE_HOST", "value": ADDRESS}]);
    cluster.template("online", json!({ "env": env }), 0).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "online").await;
    let other = client.session().await;
    client.run(&other, "1").await.ok();
    let neighbour = cluster.live(&other).await.unwrap().status.unwrap().address.unwrap();
    let open = Open::new();

    // then: all of it answers whoever is not kept from it, once nodes know the way to a new service
    let everything = [open.targets.clone(), outside()].concat();
    cluster.until("all of it answers", async || open.reached(&everything) == set(&everything)).await;
    assert_eq!(
        open.reached(std::slice::from_ref(&neighbour)),
        set(&[]),
        "it is its gateway alone that may call a sandbox"
    );

    // and: a sandbox reaches what is outside and nothing else
    let everything = [everything, vec![neighbour]].concat();
    assert_eq!(reached(&mut client, &session, &everything).await, set(&outside()));

    // and: what it gets from there is alive
    let code = format!(
        "import json, urllib.request\n\
         now = lambda: json.load(urllib.request.urlopen('http://{OUTSIDE}/now', timeout=5))['nanoseconds']\n\
         print(0 < now() < now())"
    );
    assert_eq!(client.run(&session, &code).await.ok(), "True\n");
    let request =
        InstallPackagesRequest { session: session.clone(), requirements: vec!["kernelbox-sample".to_owned()] };
    let mut installing = client.code.install_packages(request).await.unwrap().into_inner();
    while installing.message().await.unwrap().is_some() {}
    assert_eq!(client.run(&session, "import kernelbox_sample as it; print(it.WHERE)").await.ok(), "from outside\n");

    // and: pip, however it is called, though all but a few folders are read-only
    for pip in ["%pip", "!pip", "!python -m pip"] {
        let session = of_template(&mut client, "online").await;
        let ran = client.run(&session, &format!("{pip} install kernelbox-sample")).await.ok();
        assert!(ran.contains("Successfully installed kernelbox_sample-1.0"), "{ran}");
        let code = "import kernelbox_sample as it; print(it.__file__)";
        assert_eq!(client.run(&session, code).await.ok(), "/packages/kernelbox_sample.py\n");
        client.delete(&session).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_template_says_what_is_reached_and_its_change_holds_at_once() {
    let cluster = Cluster::open().await;
    let allow = json!([{"cidr": format!("{ADDRESS}/32"), "ports": [{"port": 80}]}]);
    cluster.template("listed", json!({"egress": {"mode": "Allowlist", "allow": allow}}), 0).await;
    let mut client = cluster.client().await;
    let session = of_template(&mut client, "listed").await;
    let open = Open::new();
    let dns = kubectl(&["get", "-n", "kube-system", "service/kube-dns", "-o", "jsonpath={.spec.clusterIP}"]);
    let everything = [open.targets.clone(), outside(), vec![format!("{dns}:53")]].concat();
    cluster.until("all of it answers", async || open.reached(&everything) == set(&everything)).await;

    // then: the one address and port that are allowed, and names neither
    assert_eq!(reached(&mut client, &session, &everything).await, set(&[format!("{ADDRESS}:80")]));

    // when: it is allowed the internet, which is told to a sandbox that runs, too
    change(&json!({"mode": "Internet", "allow": null}));
    let online = set(&[outside(), vec![format!("{dns}:53")]].concat());
    cluster
        .until("it reaches the internet", async || reached(&mut client, &session, &everything).await == online)
        .await;

    // when: it is allowed nothing
    change(&json!({"mode": "None"}));
    cluster.until("it reaches nothing", async || reached(&mut client, &session, &everything).await.is_empty()).await;
    let live = cluster.live(&session).await.unwrap();
    assert_eq!(live.spec.generation, Some(1), "its pod is the same");

    // and: what somebody changes by hand is put right
    kubectl(&[
        "patch",
        "networkpolicy",
        "-n",
        SANDBOXES,
        "kernelbox-listed",
        "--type=merge",
        "--patch",
        r#"{"spec":{"egress":[{}]}}"#,
    ]);
    let put_right = async || {
        kubectl(&["get", "networkpolicy", "-n", SANDBOXES, "kernelbox-listed", "-o", "jsonpath={.spec.egress}"])
            .is_empty()
    };
    cluster.until("the policy is as the template says", put_right).await;

    // and: it goes with the last of its sandboxes, not before
    cluster.remove_template("listed").await;
    let policies = || kubectl(&["get", "networkpolicy", "-n", SANDBOXES, "-o", "name"]);
    assert!(policies().contains("kernelbox-listed"));
    client.delete(&session).await;
    cluster.pod_gone(&live).await;
    cluster.until("the policy is gone", async || !policies().contains("kernelbox-listed")).await;
}

fn change(egress: &serde_json::Value) {
    let patch = json!({"spec": {"egress": egress}}).to_string();
    kubectl(&["patch", "sandboxtemplate", "-n", SANDBOXES, "listed", "--type=merge", "--patch", &patch]);
}
