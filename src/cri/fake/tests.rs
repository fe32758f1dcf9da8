//! The fake keeps its own rules.

use std::time::Duration;

use futures_util::StreamExt;
use k8s_cri::v1;

use super::{Behaviour, FakeRuntime};
use crate::cri::runtime::{CriErrorKind, Runtime, RuntimeEventKind};

fn sandbox(attempt: u32) -> v1::PodSandboxConfig {
    let metadata =
        v1::PodSandboxMetadata { name: "web".into(), uid: "u1".into(), namespace: "default".into(), attempt };
    v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }
}

fn container(name: &str, attempt: u32) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt }),
        image: Some(v1::ImageSpec { image: "registry.local/hello:1".into(), ..Default::default() }),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn names_stay_reserved_and_scripts_run() {
    let runtime = FakeRuntime::new();
    runtime.add_image("registry.local/hello:1");
    runtime.fail_run_sandbox_leaving("network plugin is not ready");
    assert!(runtime.run_sandbox(sandbox(0)).await.is_err());
    let again = runtime.run_sandbox(sandbox(0)).await.unwrap_err();
    assert_eq!(again.kind, CriErrorKind::AlreadyExists);
    let id = runtime.run_sandbox(sandbox(1)).await.unwrap();

    let mut events = runtime.events().await.unwrap();
    let exits = Some((Duration::from_secs(5), 7));
    runtime.script("main", [Behaviour { exits, ..Default::default() }, Behaviour::default()]);
    let first = runtime.create_container(id.clone(), container("main", 0), sandbox(1)).await.unwrap();
    let taken = runtime.create_container(id.clone(), container("main", 0), sandbox(1)).await.unwrap_err();
    assert_eq!(taken.kind, CriErrorKind::AlreadyExists);
    runtime.start_container(first.clone()).await.unwrap();
    assert_eq!(events.next().await.unwrap().kind, RuntimeEventKind::Started);
    assert_eq!(events.next().await.unwrap().kind, RuntimeEventKind::Exited);
    let status = runtime.container_status(first).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));

    let second = runtime.create_container(id.clone(), container("main", 1), sandbox(1)).await.unwrap();
    runtime.start_container(second).await.unwrap();
    assert_eq!(runtime.running().len(), 1);
    runtime.stop_sandbox(id.clone()).await.unwrap();
    assert!(runtime.running().is_empty());
    runtime.remove_sandbox(id).await.unwrap();
    assert!(runtime.containers().is_empty());
    assert_eq!(runtime.sandboxes().len(), 1, "the NOTREADY leftover of attempt 0 stays");
}

#[tokio::test]
async fn down_is_unavailable_and_ends_event_streams() {
    let runtime = FakeRuntime::new();
    let mut events = runtime.events().await.unwrap();
    runtime.set_down(true);
    assert_eq!(runtime.version().await.unwrap_err().kind, CriErrorKind::Unavailable);
    assert_eq!(events.next().await, None);
    runtime.set_down(false);
    assert!(runtime.version().await.is_ok());
}
