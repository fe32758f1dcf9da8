use k8s_cri::v1;
use serde_json::json;

use super::*;
use crate::actors::edge::identity::attest::ContainerRef;
use crate::cri::fake::FakeRuntime;
use crate::identity::test_authority::Authority;

type Pod = Arc<Mutex<Option<Value>>>;

/// A runtime with one running container of pod `shop/till`, and what MetaManager has of that pod.
async fn world(seals: Option<Seals>) -> (NodeAttestor, Pod, Place, FakeRuntime) {
    let runtime = FakeRuntime::new();
    runtime.add_image("till:1");
    let labels = [(POD_NAME, "till"), (POD_NAMESPACE, "shop"), (POD_UID, "u-1"), (CONTAINER_NAME, "main")];
    let labels: HashMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "till".into(),
            namespace: "shop".into(),
            uid: "u-1".into(),
            attempt: 0,
        }),
        labels: labels.clone(),
        ..v1::PodSandboxConfig::default()
    };
    let sandbox_id = runtime.run_sandbox(sandbox.clone()).await.unwrap();
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "till:1".into(), ..v1::ImageSpec::default() }),
        labels,
        ..v1::ContainerConfig::default()
    };
    let container_id = runtime.create_container(sandbox_id, config, sandbox).await.unwrap();
    let stored: Pod = Arc::new(Mutex::new(Some(json!({
        "metadata": {"name": "till", "namespace": "shop", "uid": "u-1", "labels": {"app": "till"}},
        "spec": {"serviceAccountName": "seller"},
    }))));
    let asked = Arc::clone(&stored);
    let get_object = Link::from_fn(move |GetObject(key)| {
        assert_eq!(key.to_string(), "shop/pod/till");
        Ok(asked.lock().clone().map(Arc::new))
    });
    let attestor = NodeAttestor::new(Arc::new(runtime.clone()), get_object, seals);
    let place = Place { container: ContainerRef { pod_uid: "u-1".into(), container_id }, uid: 0 };
    (attestor, stored, place, runtime)
}

#[tokio::test]
async fn runtime_and_metamanager_say_whose_a_container_is() {
    let (attestor, stored, place, runtime) = world(None).await;
    let container = attestor.container(&place).await.unwrap();
    assert_eq!((container.namespace.as_str(), container.name.as_str()), ("shop", "main"));
    let (account, labels) = attestor.pod(&container).await.unwrap();
    assert_eq!((account.as_str(), labels["app"].as_str()), ("seller", "till"));

    // What the runtime says of a container never changes: it is asked once.
    runtime.set_down(true);
    assert!(attestor.container(&place).await.is_ok());

    let other_uid = ContainerRef { pod_uid: "u-2".into(), ..place.container.clone() };
    let other = Place { container: other_uid, ..place.clone() };
    assert!(
        matches!(attestor.container(&other).await, Err(Refusal::Unknown(_))),
        "the cgroup of another pod"
    );
    let unknown = ContainerRef { container_id: "f".repeat(64), ..place.container.clone() };
    let unknown = Place { container: unknown, ..place.clone() };
    assert!(
        matches!(attestor.container(&unknown).await, Err(Refusal::Unavailable(_))),
        "the runtime is away"
    );
    runtime.set_down(false);
    assert!(matches!(attestor.container(&unknown).await, Err(Refusal::Unknown(_))), "no container of a pod");

    if let Some(pod) = stored.lock().as_mut() {
        pod["metadata"]["uid"] = json!("u-9");
    }
    assert!(matches!(attestor.pod(&container).await, Err(Refusal::Unknown(_))), "another pod of that name");
    *stored.lock() = None;
    assert!(matches!(attestor.pod(&container).await, Err(Refusal::Unknown(_))), "no pod of this node");
}

#[tokio::test]
async fn a_pod_without_an_account_has_the_default_one() {
    let (attestor, stored, place, _) = world(None).await;
    if let Some(pod) = stored.lock().as_mut() {
        pod["spec"] = json!({});
    }
    let container = attestor.container(&place).await.unwrap();
    assert_eq!(attestor.pod(&container).await.unwrap().0, DEFAULT_ACCOUNT);
}

/// Whoever writes another service account into the store gets no identity for it.
#[tokio::test]
async fn a_pod_is_believed_under_its_seal_only() {
    let authority = Authority::new();
    let node = NodeName::parse("edge-1").unwrap();
    let (_keep, credentials) = tokio::sync::watch::channel(Some(Arc::new(authority.credentials("edge-1").0)));
    let seals = Seals { node: node.clone(), credentials };
    let (attestor, stored, place, _) = world(Some(seals)).await;
    let container = attestor.container(&place).await.unwrap();
    assert!(matches!(attestor.pod(&container).await, Err(Refusal::Unknown(_))), "no seal");

    let (chain, key) = authority.cloudcore();
    let mut pod = stored.lock().clone().unwrap();
    let payload = seal::pod_payload(&pod);
    let sealed =
        seal::sign(&key.signer().unwrap(), &chain, SEALED_KIND, &node, &payload, authority.now).unwrap();
    pod["metadata"]["annotations"] = json!({SEAL_ANNOTATION: sealed});
    *stored.lock() = Some(pod.clone());
    assert_eq!(attestor.pod(&container).await.unwrap().0, "seller");
    pod["spec"]["serviceAccountName"] = json!("admin");
    *stored.lock() = Some(pod);
    assert!(matches!(attestor.pod(&container).await, Err(Refusal::Unknown(_))), "another account");
}
