//! Packages that are missing are installed before the code runs, so that it runs once.
mod common;

use common::*;
use futures::StreamExt as _;
use kernelbox_proto::v1::{
    AutoInstall, ExecutionStatus, InstallPackagesRequest, ListPackagesRequest, PackageInstalled, execution_event::Kind,
    install_packages_event,
};

fn installed(kinds: &[Kind]) -> Vec<PackageInstalled> {
    let package = |kind: &Kind| if let Kind::PackageInstalled(package) = kind { Some(package.clone()) } else { None };
    kinds.iter().filter_map(package).collect()
}

#[tokio::test]
async fn a_missing_package_is_there_when_the_code_runs() {
    let sandbox = Sandbox::start().await;
    let code = "open('count', 'a').write('x')\nimport humanize\nprint(humanize.intcomma(12345))";
    let events = sandbox.run(code).await;
    assert_eq!((stdout(&events).as_str(), status(&events)), ("12,345\n", ExecutionStatus::Ok));
    assert_eq!(std::fs::read_to_string(sandbox.workspace().join("count")).unwrap(), "x", "the code ran once");
    let packages = installed(&kinds(events));
    assert_eq!(
        (packages.len(), packages[0].distribution.as_str(), packages[0].module.as_str()),
        (1, "humanize", "humanize")
    );
    assert!(packages[0].failure.is_empty() && !packages[0].version.is_empty(), "{packages:?}");
    let parent = SESSION.to_owned();
    let listed =
        sandbox.client.clone().list_packages(ListPackagesRequest { parent }).await.unwrap().into_inner().packages;
    let session: Vec<_> = listed.iter().filter(|p| p.session).map(|p| p.distribution.as_str()).collect();
    assert_eq!(session, ["humanize"]);
    assert!(listed.iter().any(|package| package.distribution == "numpy" && !package.session));
}

#[tokio::test]
async fn an_import_that_failed_is_installed_after_and_rerun_only_if_asked() {
    let sandbox = Sandbox::start().await;
    let code = "open('count', 'a').write('x')\n__import__('emo' + 'ji')\nprint('there')";
    let off = Run::from(code).with(|request| request.set_auto_install(AutoInstall::Off));
    let events = sandbox.run(off).await;
    assert_eq!(status(&events), ExecutionStatus::Error);
    assert!(installed(&kinds(events)).is_empty());
    let events = sandbox.run(Run::from(code).with(|request| request.rerun_after_install = true)).await;
    assert_eq!((stdout(&events).as_str(), status(&events)), ("there\n", ExecutionStatus::Ok));
    assert_eq!(installed(&kinds(events)).len(), 1);
    assert_eq!(std::fs::read_to_string(sandbox.workspace().join("count")).unwrap(), "xxx");
}

#[tokio::test]
async fn a_package_that_cannot_be_had_is_told_and_the_code_runs() {
    let sandbox = Sandbox::start().await;
    let run = Run::from("import kernelbox_no_such_module").with(|request| request.set_auto_install(AutoInstall::Any));
    let events = sandbox.run(run).await;
    assert_eq!(status(&events), ExecutionStatus::Error);
    let kinds = kinds(events);
    let packages = installed(&kinds);
    assert_eq!(packages.len(), 1, "tried once: {packages:?}");
    assert!(packages[0].failure.contains("kernelbox-no-such-module"), "{packages:?}");
    assert!(kinds.iter().any(|kind| matches!(kind, Kind::Error(error) if error.name == "ModuleNotFoundError")));
}

#[tokio::test]
async fn a_call_installs_within_what_the_sandbox_has() {
    let sandbox = Sandbox::start().await;
    let install = async |requirement: &str| {
        let request = InstallPackagesRequest { session: SESSION.into(), requirements: vec![requirement.into()] };
        let events = sandbox.client.clone().install_packages(request).await?.into_inner();
        Ok::<_, tonic::Status>(events.map(|event| event.unwrap().kind.unwrap()).collect::<Vec<_>>().await)
    };
    // patsy needs numpy, which the sandbox has: it is not installed again.
    let events = install("patsy").await.unwrap();
    assert!(events.iter().any(|kind| matches!(kind, install_packages_event::Kind::Progress(_))));
    let Some(install_packages_event::Kind::Package(package)) = events.last() else { panic!("{events:?}") };
    assert_eq!((package.distribution.as_str(), package.failure.as_str()), ("patsy", ""));
    assert!(!sandbox.dir.path().join("p/numpy").exists());
    // Another numpy would shadow the one that is loaded: told, not done.
    let events = install("numpy<1.20").await.unwrap();
    let Some(install_packages_event::Kind::Package(package)) = events.last() else { panic!("{events:?}") };
    assert!(package.failure.contains("numpy"), "{package:?}");
    assert!(!sandbox.dir.path().join("p/numpy").exists());
    assert!(install("--index-url=http://x").await.is_err());
}
