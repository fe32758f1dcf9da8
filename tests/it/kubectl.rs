//! The real kubectl, every version from 1.30 that is installed, against the embedded API.

use std::path::Path;

use crate::harness::api::{Api, kubectls};
use crate::harness::process::{PATIENCE, eventually};
use crate::main_job::{World, described, sleeper};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: c
    image: busybox:1
";

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: edge-1}
status:
  capacity: {cpu: '2', memory: 4Gi, pods: '110'}
  conditions:
  - {type: Ready, status: 'True', reason: KubeletReady, message: fine, lastHeartbeatTime: '2026-01-01T00:00:00Z', lastTransitionTime: '2026-01-01T00:00:00Z'}
";

/// Runs a test with each kubectl, a server of its own for each.
fn each(test: impl Fn(&Api, &Path)) {
    for kubectl in kubectls() {
        println!("with {}", kubectl.display());
        test(&Api::start(), &kubectl);
    }
}

#[test]
fn pods_from_apply_to_delete() {
    each(|api, kubectl| {
        let file = api.file("pod.yaml", POD);
        assert_eq!(api.ok(kubectl, &["apply", "-f", &file]), "pod/web created\n");
        assert_eq!(api.ok(kubectl, &["apply", "-f", &file]), "pod/web unchanged\n");
        api.ok(kubectl, &["diff", "-f", &file]);
        let changed = api.file("pod2.yaml", &POD.replace("busybox:1", "busybox:2"));
        let diff = api.run(kubectl, &["diff", "-f", &changed]);
        assert_eq!(diff.status.code(), Some(1));
        let diff = String::from_utf8_lossy(&diff.stdout).into_owned();
        assert!(diff.contains("-  - image: busybox:1") && diff.contains("+  - image: busybox:2"), "{diff}");
        assert_eq!(api.ok(kubectl, &["apply", "-f", &changed]), "pod/web configured\n");

        let table = api.ok(kubectl, &["get", "pods"]);
        let columns: Vec<&str> = table.lines().next().expect("a line").split_whitespace().collect();
        assert_eq!(columns, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        assert!(table.contains("web") && table.contains("Pending"), "{table}");
        assert!(api.ok(kubectl, &["get", "pods", "-o", "wide"]).contains("NODE"));
        assert!(api.ok(kubectl, &["get", "pods", "-A", "-l", "app=web"]).contains("default"));
        assert_eq!(
            api.ok(kubectl, &["get", "pod", "web", "-o", "jsonpath={.spec.containers[0].image}"]),
            "busybox:2"
        );
        assert!(api.ok(kubectl, &["get", "pods", "-o", "yaml"]).contains("kind: List"));
        let json = api.ok(kubectl, &["get", "pod", "web", "-o", "json"]);
        assert!(json.contains("\"qosClass\": \"BestEffort\""), "{json}");
        let described = api.ok(kubectl, &["describe", "pod", "web"]);
        assert!(described.contains("Service Account:  default"), "{described}");
        assert!(api.ok(kubectl, &["get", "all"]).contains("web"));

        assert!(api.ok(kubectl, &["delete", "-f", &file]).starts_with("pod \"web\" deleted"));
        assert_eq!(api.ok(kubectl, &["get", "pods", "-o", "name"]), "");
        let complaint = api.fails(kubectl, &["get", "pod", "web"]);
        assert_eq!(complaint, "Error from server (NotFound): pods \"web\" not found\n");
    });
}

#[test]
fn objects_are_created_by_command() {
    each(|api, kubectl| {
        for (args, want) in [
            (&["create", "namespace", "team"][..], "namespace/team created\n"),
            (&["create", "configmap", "cm", "--from-literal=a=b", "-n", "team"], "configmap/cm created\n"),
            (&["create", "secret", "generic", "s", "--from-literal=k=v", "-n", "team"], "secret/s created\n"),
            (&["create", "serviceaccount", "bot", "-n", "team"], "serviceaccount/bot created\n"),
            (&["run", "r", "--image=busybox", "-n", "team"], "pod/r created\n"),
        ] {
            assert_eq!(api.ok(kubectl, args), want);
        }
        assert_eq!(api.ok(kubectl, &["get", "cm", "cm", "-n", "team", "-o", "jsonpath={.data.a}"]), "b");
        assert_eq!(
            api.ok(kubectl, &["get", "secret", "s", "-n", "team", "-o", "jsonpath={.data.k}"]),
            "dg=="
        );
        let token = api.ok(kubectl, &["create", "token", "bot", "-n", "team", "--duration=20m"]);
        assert_eq!(token.trim().split('.').count(), 3);
        // The token is let in, and may ask about himself only.
        let flag = format!("--token={}", token.trim());
        let file = api.path("anonymous.conf");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {{server: '{}', certificate-authority: {}}}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user: {{}}\n",
            api.url,
            api.path("ca.crt").display()
        );
        std::fs::write(&file, text).expect("write");
        let config = format!("--kubeconfig={}", file.display());
        let refused = api.fails(kubectl, &[&config, &flag, "get", "pods", "-n", "team"]);
        assert!(
            refused.contains("User \"system:serviceaccount:team:bot\" cannot list resource \"pods\""),
            "{refused}"
        );
        let refused = api.fails(kubectl, &[&config, "--token=a.b.c", "get", "pods"]);
        assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");

        assert!(api.ok(kubectl, &["delete", "namespace", "team"]).starts_with("namespace \"team\" deleted"));
        let complaint = api.fails(kubectl, &["create", "configmap", "cm", "-n", "team"]);
        assert!(complaint.contains("namespaces \"team\" not found"), "{complaint}");
    });
}

#[test]
fn mistakes_are_named() {
    each(|api, kubectl| {
        let file = api.file("bad.yaml", &POD.replace("image: busybox:1", "imagee: busybox:1"));
        let complaint = api.fails(kubectl, &["apply", "-f", &file]);
        assert!(complaint.contains("unknown field \"spec.containers[0].imagee\""), "{complaint}");
        let file = api.file("bad.yaml", &POD.replace("- name: c", "- name: Not_Good"));
        let complaint = api.fails(kubectl, &["create", "-f", &file]);
        assert!(complaint.contains("spec.containers[0].name: Invalid value: \"Not_Good\""), "{complaint}");
        let file = api.file("bad.yaml", POD);
        api.ok(kubectl, &["create", "-f", &file]);
        let complaint = api.fails(kubectl, &["create", "-f", &file]);
        assert!(
            complaint.contains("(AlreadyExists)") && complaint.contains("pods \"web\" already exists"),
            "{complaint}"
        );
        let complaint = api.fails(kubectl, &["apply", "--server-side", "-f", &file]);
        assert!(complaint.contains("server-side apply is not supported"), "{complaint}");
        let complaint = api.fails(kubectl, &["get", "unicorns"]);
        assert!(complaint.contains("the server doesn't have a resource type \"unicorns\""), "{complaint}");
    });
}

#[test]
fn objects_are_changed() {
    each(|api, kubectl| {
        let node = api.file("node.yaml", NODE);
        api.ok(kubectl, &["create", "-f", &node]);
        assert!(api.ok(kubectl, &["get", "nodes"]).contains("Ready"));
        api.ok(kubectl, &["get", "nodes", "-o", "wide"]);
        assert!(api.ok(kubectl, &["describe", "node", "edge-1"]).contains("KubeletReady"));
        assert_eq!(api.ok(kubectl, &["cordon", "edge-1"]), "node/edge-1 cordoned\n");
        assert!(api.ok(kubectl, &["get", "nodes"]).contains("Ready,SchedulingDisabled"));
        assert_eq!(api.ok(kubectl, &["uncordon", "edge-1"]), "node/edge-1 uncordoned\n");
        api.ok(kubectl, &["taint", "node", "edge-1", "a=b:NoSchedule"]);
        assert_eq!(api.ok(kubectl, &["get", "node", "edge-1", "-o", "jsonpath={.spec.taints[0].key}"]), "a");

        let pod = api.file("pod.yaml", POD);
        api.ok(kubectl, &["create", "-f", &pod]);
        assert_eq!(api.ok(kubectl, &["label", "pod", "web", "tier=front"]), "pod/web labeled\n");
        assert_eq!(api.ok(kubectl, &["annotate", "pod", "web", "note=x"]), "pod/web annotated\n");
        for (style, patch, want) in [
            (
                "strategic",
                r#"{"spec":{"containers":[{"name":"c","image":"busybox:3"}]}}"#,
                "pod/web patched\n",
            ),
            ("merge", r#"{"metadata":{"labels":{"m":"1"}}}"#, "pod/web patched\n"),
            ("merge", r#"{"metadata":{"labels":{"m":"1"}}}"#, "pod/web patched (no change)\n"),
            ("json", r#"[{"op":"remove","path":"/metadata/labels/m"}]"#, "pod/web patched\n"),
        ] {
            assert_eq!(api.ok(kubectl, &["patch", "pod", "web", "--type", style, "-p", patch]), want);
        }
        assert_eq!(
            api.ok(kubectl, &["get", "pod", "web", "-o", "jsonpath={.metadata.labels}"]),
            r#"{"app":"web","tier":"front"}"#
        );
        assert_eq!(api.ok(kubectl, &["set", "image", "pod/web", "c=busybox:4"]), "pod/web image updated\n");
        let replaced = api.file(
            "replaced.yaml",
            &POD.replace("{app: web}", "{app: new}").replace("busybox:1", "busybox:4"),
        );
        assert_eq!(api.ok(kubectl, &["replace", "-f", &replaced]), "pod/web replaced\n");
        assert_eq!(
            api.ok(kubectl, &["get", "pod", "web", "-o", "jsonpath={.metadata.labels}"]),
            r#"{"app":"new"}"#
        );
        assert!(api.ok(kubectl, &["delete", "pods", "--all", "--force", "--grace-period=0"]).contains("web"));
    });
}

#[test]
fn watching_and_waiting() {
    each(|api, kubectl| {
        let pod = api.file("pod.yaml", &POD.replace("spec:", "spec:\n  nodeName: edge-1"));
        let watch = api.spawn(kubectl, &["get", "pods", "-w"], "watch");
        api.ok(kubectl, &["create", "-f", &pod]);
        eventually("the watch shows the pod", || watch.log().contains("web"));
        let wait = api.spawn(kubectl, &["wait", "--for=condition=Ready", "pod/web", "--timeout=20s"], "wait");
        let status = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
        api.ok(kubectl, &["patch", "pod", "web", "--subresource=status", "--type=merge", "-p", status]);
        eventually("the wait ends", || wait.log() == "pod/web condition met\n");
        eventually("the watch shows it running", || watch.log().contains("Running"));
        api.ok(kubectl, &["wait", "--for=jsonpath={.status.phase}=Running", "pod/web", "--timeout=10s"]);

        // A pod on a node ends when the node confirms it; kubectl waits for that.
        let mut delete = api.spawn(kubectl, &["delete", "pod", "web"], "delete");
        eventually("the pod is ending", || {
            !api.ok(kubectl, &["get", "pod", "web", "-o", "jsonpath={.metadata.deletionTimestamp}"])
                .is_empty()
        });
        assert!(api.ok(kubectl, &["get", "pods"]).contains("Terminating"));
        let mut gone = api.spawn(kubectl, &["wait", "--for=delete", "pod/web", "--timeout=20s"], "gone");
        let raw = "/api/v1/namespaces/default/pods/web?gracePeriodSeconds=0";
        api.ok(kubectl, &["delete", "--raw", raw]);
        delete.wait(PATIENCE);
        // It may have come too late to see the pod: then it has nothing to say.
        assert!(gone.wait(PATIENCE).success());
        drop(watch);
    });
}

#[test]
fn what_the_server_tells_about_itself() {
    each(|api, kubectl| {
        let resources = api.ok(kubectl, &["api-resources"]);
        for line in ["configmaps", "objectsyncs", "leases"] {
            assert!(resources.lines().any(|found| found.starts_with(line)), "{line} not in {resources}");
        }
        assert!(api.ok(kubectl, &["api-versions"]).contains("coordination.k8s.io/v1"));
        assert!(api.ok(kubectl, &["version"]).contains("Server Version: v1.32"));
        assert_eq!(api.ok(kubectl, &["get", "--raw", "/readyz"]), "ok");
        assert_eq!(api.ok(kubectl, &["auth", "can-i", "create", "pods"]), "yes\n");
        let namespaces = api.ok(kubectl, &["get", "ns", "-o", "name"]);
        assert!(
            namespaces.contains("namespace/kube-node-lease") && namespaces.contains("namespace/kubeedge")
        );
        let event = api.file(
            "event.yaml",
            "apiVersion: v1\nkind: Event\nmetadata: {name: e, namespace: default}\nreason: Pulled\nmessage: got it\ntype: Normal\nlastTimestamp: '2026-01-01T00:00:00Z'\ninvolvedObject: {kind: Pod, name: web, namespace: default}\n",
        );
        api.ok(kubectl, &["create", "-f", &event]);
        assert!(api.ok(kubectl, &["get", "events"]).contains("got it"));
        assert!(api.ok(kubectl, &["events"]).contains("Pulled"));
    });
}

/// From apply to delete through cloudcore, edgecore and containerd.
#[test]
fn the_main_job_with_each_version() {
    let world = World::start();
    for binary in kubectls() {
        println!("with {}", binary.display());
        let kubectl = world.kubectl().with(&binary);
        let run = |args: &[&str]| kubectl.run(args);
        assert!(run(&["version"]).contains("Server Version"));
        assert!(run(&["get", "nodes", "-o", "wide"]).contains("containerd://"));
        assert!(run(&["api-resources", "--namespaced=false"]).contains("nodes"));
        run(&["create", "namespace", "team"]);
        run(&["create", "configmap", "app", "--from-literal=key=one", "-n", "team"]);
        let pod = sleeper("web", "    envFrom: [{ configMapRef: { name: app } }]\n")
            .replace("name: web,", "name: web, namespace: team,");
        let watch = kubectl.spawn(&["get", "pods", "-n", "team", "-w"], "watch");
        kubectl.apply(&pod);
        run(&["wait", "--for=condition=Ready", "pod/web", "-n", "team", "--timeout=180s"]);
        eventually("the watch shows it running", || watch.log().contains("Running"));
        assert_eq!(world.runtime.exec("web", "main", &["/bin/sh", "-c", "echo $key"]), "one\n");
        assert!(run(&["get", "pod", "web", "-n", "team"]).contains("1/1"));
        assert!(run(&["get", "pods", "-A", "-o", "wide"]).contains("edge-1"));
        assert!(run(&["get", "pod", "web", "-n", "team", "-o", "yaml"]).contains("phase: Running"));
        let words = ["Scheduled", "Started", "ContainersReady", "QoS Class"];
        described(&kubectl, &["pod", "web", "-n", "team"], &words);
        assert!(run(&["describe", "node", "edge-1"]).contains("team"));
        run(&["label", "pod", "web", "tier=front", "-n", "team"]);
        run(&["annotate", "pod", "web", "note=x", "-n", "team"]);
        run(&["patch", "configmap", "app", "-n", "team", "-p", "{\"data\":{\"key\":\"two\"}}"]);
        let labelled = pod.replace("app: web", "app: web, more: label");
        assert!(kubectl.apply(&labelled).contains("configured"));
        let labels = run(&["get", "pod", "web", "-n", "team", "-o", "jsonpath={.metadata.labels}"]);
        assert!(labels.contains("front") && labels.contains("more"), "{labels}");
        run(&["delete", "pod", "web", "-n", "team"]);
        assert_eq!(world.runtime.running_containers("web"), 0, "deleted is ended");
        run(&["delete", "namespace", "team"]);
    }
}
