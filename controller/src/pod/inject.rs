//! Brings the supervisor, and uv, to a pod whose image has neither: an init container copies them into a volume. Pure.
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements, VolumeMount},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{CONTAINER, STORAGE, WORKSPACE, empty, mount, restricted, value};

/// The init container.
pub(super) const INSTALLER: &str = "supervisor";
/// The volume, and where it is in both containers.
pub(super) const VOLUME: &str = "supervisor";
const FOLDER: &str = "/opt/kernelbox-supervisor";
/// Room for the two programs, with a margin.
const SIZE: &str = "256Mi";
/// What the installer gets of the kernel's resources. It needs no accelerator.
const SHARED: [&str; 3] = ["cpu", "memory", STORAGE];

/// The supervisor comes from `image`, and starts in place of what the pod's own image would.
pub(super) fn inject(pod: &mut PodSpec, image: &str) {
    let Some(kernel) = pod.containers.iter_mut().find(|it| it.name == CONTAINER) else { return };
    kernel.command = Some(vec![format!("{FOLDER}/kernelbox-supervisor"), "serve".to_owned()]);
    // The image's own may be one that this user cannot enter.
    kernel.working_dir = Some(WORKSPACE.to_owned());
    let env = kernel.env.get_or_insert_default();
    // What the image's author set is meant for the code in it.
    env.retain(|it| it.name != "KERNELBOX_KERNEL_ENV");
    env.push(value("KERNELBOX_KERNEL_ENV", "*".to_owned()));
    // Libraries ask for the user's name, and the image need not have one for its number.
    if !env.iter().any(|it| it.name == "USER") {
        env.push(value("USER", "kernelbox".to_owned()));
    }
    let mounts = kernel.volume_mounts.get_or_insert_default();
    mounts.push(VolumeMount { read_only: Some(true), ..mount(VOLUME, FOLDER, None) });
    let installer = Container {
        name: INSTALLER.to_owned(),
        image: Some(image.to_owned()),
        command: Some(["kernelbox-supervisor", "install", FOLDER].map(str::to_owned).to_vec()),
        // As much as the kernel has: a pod's containers get what the greatest of them asks for, so it costs nothing more.
        resources: kernel.resources.as_ref().map(without_devices),
        security_context: Some(restricted()),
        volume_mounts: Some(vec![mount(VOLUME, FOLDER, None)]),
        ..Default::default()
    };
    pod.init_containers = Some(vec![installer]);
    pod.volumes.get_or_insert_default().push(empty(VOLUME, None, Quantity(SIZE.to_owned())));
}

fn without_devices(resources: &ResourceRequirements) -> ResourceRequirements {
    let mut resources = ResourceRequirements { claims: None, ..resources.clone() };
    for quantities in [&mut resources.limits, &mut resources.requests].into_iter().flatten() {
        quantities.retain(|name, _| SHARED.contains(&name.as_str()));
    }
    resources
}
