//! Pods as templates want them, and what no template gets.
use kernelbox_api::{PodOverlay, PodOverlayMetadata, Sandbox, SandboxPool, SandboxTemplate};
use serde_json::{Value, json};

use super::*;
use crate::names;

fn template(spec: Value) -> SandboxTemplate {
    let mut whole = json!({"image": "kernelbox/kernel:1"});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = json!({"apiVersion": "kernelbox.dev/v1alpha1", "kind": "SandboxTemplate", "metadata": {"name": "default"}, "spec": whole});
    serde_json::from_value(object).unwrap()
}

fn platform() -> Platform {
    Platform {
        public_keys: "kernelbox-keys".into(),
        supervisor_image: Some("kernelbox/kernel:1".into()),
        log_format: LogFormat::Text,
    }
}

fn made(spec: Value) -> Pod {
    let mut sandbox =
        Sandbox::new("default-1", serde_json::from_value(json!({"templateRef": {"name": "default"}})).unwrap());
    sandbox.metadata.uid = Some("u1".into());
    sandbox.metadata.namespace = Some("sandboxes".into());
    build(&sandbox, &template(spec), "h1", &platform()).unwrap()
}

fn overlay(spec: Value) -> Value {
    json!({"podTemplate": {"metadata": {}, "spec": spec}})
}

#[test]
fn the_default_pod_is_as_it_is_promised() {
    insta::assert_json_snapshot!(made(json!({})));
}

#[test]
fn an_accelerator_brings_its_devices_nodes_and_memory() {
    let accelerator = json!({"resource": {"name": "nvidia.com/gpu", "count": 2}, "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}], "sharedMemory": "1Gi"});
    let spec = made(json!({"accelerator": accelerator, "resources": {"limits": {"memory": "16Gi"}}})).spec.unwrap();
    let limits = spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
    let of = |name: &str| limits[name].0.clone();
    assert_eq!((of("nvidia.com/gpu"), of("memory"), of("cpu")), ("2".into(), "16Gi".into(), "1".into()));
    assert_eq!(spec.node_selector.unwrap()["gpu"], "yes");
    assert!(spec.tolerations.unwrap().iter().any(|it| it.key.as_deref() == Some("gpu")));
    assert!(spec.volumes.unwrap().iter().any(|it| it.name == "shared-memory"));
}

#[test]
fn a_large_workspace_has_room_on_the_node_and_its_supervisor_knows_how_large_it_is() {
    let spec = made(json!({"workspace": {"size": "10G"}})).spec.unwrap();
    let kernel = &spec.containers[0];
    let told = kernel.env.iter().flatten().find(|it| it.name == "KERNELBOX_DISK_LIMIT").unwrap();
    assert_eq!(told.value.as_deref(), Some("10000000000"));
    let resources = kernel.resources.clone().unwrap();
    assert_eq!(resources.limits.unwrap()[STORAGE].0, "13969Mi", "a quarter more, and what is no workspace");
    assert_eq!(resources.requests.unwrap()[STORAGE].0, "1Gi");

    let in_memory = made(json!({"workspace": {"size": "10G", "medium": "Memory"}})).spec.unwrap();
    assert_eq!(in_memory.containers[0].resources.clone().unwrap().limits.unwrap()[STORAGE].0, "2048Mi");

    let own = made(json!({"resources": {"limits": {"ephemeral-storage": "20Gi"}}})).spec.unwrap();
    let resources = own.containers[0].resources.clone().unwrap();
    assert_eq!((resources.limits.unwrap()[STORAGE].0.as_str(), resources.requests), ("20Gi", None));

    for size in ["much", "0", "-1Gi"] {
        let error = shape(&template(json!({"workspace": {"size": size}})), &platform()).unwrap_err();
        assert!(error.to_string().contains("such as 2Gi"), "{error}");
    }
}

#[test]
fn an_image_without_a_supervisor_gets_one() {
    let env = json!([{"name": "HF_HOME", "value": "/models"}]);
    let accelerator = json!({"resource": {"name": "nvidia.com/gpu", "count": 1}});
    let resources = json!({"requests": {"cpu": "100m"}});
    insta::assert_json_snapshot!(made(
        json!({"image": "diffusion:1", "supervisor": "Injected", "python": "/opt/conda/bin/python",
        "env": env, "accelerator": accelerator, "resources": resources})
    ));
}

#[test]
fn the_example_of_stable_diffusion_can_be_built() {
    let yaml = include_str!("../../../examples/stable-diffusion/template.yaml");
    let (template, pool) = yaml.split_once("\n---\n").unwrap();
    let template: SandboxTemplate = serde_saphyr::from_str(template).unwrap();
    let pool: SandboxPool = serde_saphyr::from_str(pool).unwrap();
    assert_eq!(pool.spec.template_ref.name, template.name_any());
    let spec = shape(&template, &platform()).unwrap().spec.unwrap();
    let mounts = spec.containers[0].volume_mounts.as_ref().unwrap();
    assert!(mounts.iter().any(|it| it.name == "models") && spec.volumes.unwrap().iter().any(|it| it.name == "models"));
}

#[test]
fn where_a_supervisor_would_come_from_has_to_be_known() {
    let unknown = Platform { supervisor_image: None, ..platform() };
    assert!(shape(&template(json!({})), &unknown).is_ok());
    let error = shape(&template(json!({"supervisor": "Injected"})), &unknown).unwrap_err();
    assert!(error.to_string().contains("KERNELBOX_SUPERVISOR_IMAGE"), "{error}");
}

#[test]
fn an_interpreter_is_named_only_if_the_template_does() {
    let python = |spec: Value| {
        let env = made(spec).spec.unwrap().containers[0].env.clone().unwrap();
        env.into_iter().find(|it| it.name == "KERNELBOX_PYTHON").and_then(|it| it.value)
    };
    assert_eq!(python(json!({})), None);
    assert_eq!(
        python(json!({"supervisor": "Injected"})),
        None,
        "the image's own word counts, else python3 on its PATH"
    );
    assert_eq!(python(json!({"python": "python3.12"})).as_deref(), Some("python3.12"));
}

#[test]
fn one_made_for_a_session_is_not_to_be_moved() {
    let mut sandbox =
        Sandbox::new("default-1", serde_json::from_value(json!({"templateRef": {"name": "default"}})).unwrap());
    let may_move =
        |sandbox: &Sandbox| moving::may_move(&build(sandbox, &template(json!({})), "h1", &platform()).unwrap());
    assert!(may_move(&sandbox), "a warm one");
    sandbox.spec.session = Some("sessions/a".into());
    assert!(!may_move(&sandbox));
}

#[test]
fn it_is_isolated_as_its_template_says() {
    let spec = made(json!({"isolation": {"hostUsers": false, "runtimeClassName": "gvisor"}})).spec.unwrap();
    assert_eq!((spec.host_users, spec.runtime_class_name.as_deref()), (Some(false), Some("gvisor")));
}

#[test]
fn a_templates_own_resolvers_are_asked_instead_of_the_clusters() {
    let spec = made(json!({"egress": {"dns": {"resolvers": ["203.0.113.53"]}}})).spec.unwrap();
    assert_eq!(spec.dns_policy.as_deref(), Some("None"));
    assert_eq!(spec.dns_config.unwrap().nameservers.unwrap(), ["203.0.113.53"]);
}

#[test]
fn an_overlay_adds_what_it_may() {
    let spec = json!({
        "priorityClassName": "low",
        "tolerations": [{"key": "mine", "operator": "Exists"}],
        "containers": [{"name": "kernel", "env": [{"name": "HF_HOME", "value": "/home/kernelbox/hf"}],
            "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": true}]}],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    });
    let pod = made(overlay(spec));
    let spec = pod.spec.unwrap();
    assert_eq!(spec.priority_class_name.as_deref(), Some("low"));
    assert_eq!(spec.tolerations.unwrap().len(), 3);
    let env = spec.containers[0].env.as_ref().unwrap();
    assert!(env.iter().any(|it| it.name == "HF_HOME") && env.iter().any(|it| it.name == "KERNELBOX_UID"));
    assert_eq!(spec.containers.len(), 1);
    assert!(spec.volumes.unwrap().iter().any(|it| it.name == "models"));
}

#[test]
fn an_overlay_cannot_loosen_security() {
    let kernel = |more: Value| {
        let mut container = json!({"name": "kernel"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"containers": [container]})
    };
    for spec in [
        json!({"hostNetwork": true}),
        json!({"hostPID": true}),
        json!({"serviceAccountName": "admin"}),
        json!({"automountServiceAccountToken": true}),
        json!({"securityContext": {"runAsUser": 0}}),
        json!({"restartPolicy": "Always"}),
        json!({"initContainers": [{"name": "x"}]}),
        json!({"containers": [{"name": "sidecar", "image": "x"}]}),
        json!({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}),
        json!({"volumes": [{"name": "x", "projected": {"sources": []}}]}),
        json!({"volumes": [{"name": "keys", "configMap": {"name": "mine"}}]}),
        json!({"volumes": "all"}),
        json!("privileged"),
        kernel(json!({"securityContext": {"privileged": true}})),
        kernel(json!({"env": [{"name": "KERNELBOX_PUBLIC_KEYS", "value": "/workspace"}]})),
        kernel(json!({"volumeMounts": [{"name": "keys", "mountPath": "/keys", "readOnly": false}]})),
    ] {
        let wanted = template(overlay(spec.clone()));
        assert!(matches!(shape(&wanted, &platform()), Err(BuildError::Overlay(_))), "{spec}");
    }
    for more in [
        json!({"command": ["sh"]}),
        json!({"args": ["--warm-up", ""]}),
        json!({"volumeMounts": [{"name": "supervisor", "mountPath": "/x", "readOnly": false}]}),
    ] {
        let mut spec = overlay(kernel(more.clone()));
        spec["supervisor"] = "Injected".into();
        assert!(matches!(shape(&template(spec), &platform()), Err(BuildError::Overlay(_))), "{more}");
    }
    let labels = [("kernelbox.dev/template".to_owned(), "other".to_owned())].into();
    let metadata = PodOverlayMetadata { labels, ..Default::default() };
    let mut wanted = template(json!({}));
    wanted.spec.pod_template = Some(PodOverlay { metadata, spec: json!({}) });
    assert!(shape(&wanted, &platform()).is_err(), "a label by which policies choose");
}

#[test]
fn pods_that_would_be_alike_have_the_same_hash() {
    let hash = |spec: Value| names::template_hash(&template(spec), &platform()).unwrap();
    assert_eq!(hash(json!({})), hash(json!({"lifecycle": {"idleTimeout": "1h"}})), "idleTimeout is no part of the pod");
    assert_ne!(hash(json!({})), hash(json!({"warmUp": []})));
    assert_ne!(hash(json!({})), hash(json!({"image": "kernelbox/kernel:2"})));
    let with_supervisor = |spec: Value, image: &str| {
        let platform = Platform { supervisor_image: Some(image.into()), ..platform() };
        names::template_hash(&template(spec), &platform).unwrap()
    };
    assert_eq!(with_supervisor(json!({}), "a"), with_supervisor(json!({}), "b"), "only where it is used");
    let injected = json!({"supervisor": "Injected"});
    assert_ne!(with_supervisor(injected.clone(), "a"), with_supervisor(injected, "b"));
}
