//! Pods from files of this machine.

use std::fs;

use super::*;

const FILE: &str = "apiVersion: v1
kind: Pod
metadata: { name: local, namespace: kube-system }
spec:
  containers: [{ name: main, image: registry.local/hello:1, imagePullPolicy: IfNotPresent }]
";

fn with_folder(dir: &tempfile::TempDir) -> Trusted {
    // Seals are asked for and the node has not joined: files need neither.
    let mut trusted = Trusted::new(PodSeals::Auto);
    trusted.static_pods = dir.path().to_owned();
    trusted.identity.static_pods = vec!["kube-system/local".into()];
    trusted
}

#[actix::test]
async fn listed_files_run_until_they_go() {
    tokio::time::pause();
    let folder = tempfile::tempdir().expect("dir");
    let file = folder.path().join("local.yaml");
    fs::write(&file, FILE).expect("write");
    fs::write(folder.path().join("evil.yaml"), FILE.replace("name: local", "name: evil")).expect("write");
    let mut bench = gated(with_folder(&folder));
    until("runs", SOON, || bench.runtime.running().len() == 1).await;
    let container = bench.runtime.running()[0].clone();
    let label = |key: &str| container.config.labels[key].clone();
    assert_eq!(label("io.kubernetes.pod.name"), "local-edge-1");
    assert_eq!(label("io.kubernetes.pod.namespace"), "kube-system");
    let refused: Vec<String> = bench.trusted.facts.lock().iter().map(|fact| fact.subject.clone()).collect();
    assert_eq!(refused, ["static pod kube-system/evil"]);

    // The restarted edge knows its pod by the file.
    bench = bench.restart().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let running = bench.runtime.running();
    assert_eq!((running.len(), &running[0].status.id), (1, &container.status.id));

    // A cloud that removes a pod of that name means another one.
    let removed =
        PodRemoved { namespace: "kube-system".into(), name: "local-edge-1".into(), uid: String::new() };
    bench.removed.tell(removed).expect("told");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.runtime.running().len(), 1);

    let changed =
        FILE.replace("imagePullPolicy: IfNotPresent", "imagePullPolicy: IfNotPresent, command: [sh]");
    fs::write(&file, changed).expect("write");
    let replaced = || {
        let running = bench.runtime.running();
        running.len() == 1 && running[0].config.command == ["sh"]
    };
    until("replaced", Duration::from_secs(60), replaced).await;
    fs::remove_file(&file).expect("remove");
    until("ended", Duration::from_secs(60), || bench.runtime.sandboxes().is_empty()).await;
    let meta = bench.meta.lock();
    assert!(meta.statuses.is_empty() && meta.events.is_empty() && meta.confirmed.is_empty(), "no API object");
}
