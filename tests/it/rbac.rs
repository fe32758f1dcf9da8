//! Roles with the real kubectl, as an administrator makes them and as those meet them who get them.

use std::path::Path;
use std::process::Command;

use crate::harness::api::{Api, kubectls};
use crate::harness::cluster::Cloud;
use crate::harness::process::eventually;

/// A kubeconfig of nobody; the token comes as a flag.
fn bare_config(api: &Api) -> String {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {{server: '{}', certificate-authority: {}}}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user: {{}}\n",
        api.url,
        api.path("ca.crt").display()
    );
    format!("--kubeconfig={}", api.file("bare.conf", &text))
}

/// A fresh server for each kubectl.
fn each(test: impl Fn(&Api, &Path)) {
    for kubectl in kubectls() {
        println!("with {}", kubectl.display());
        test(&Api::start(), &kubectl);
    }
}

#[test]
fn roles_are_made_shown_and_work_by_command() {
    each(|api, kubectl| {
        let ok = |line: &str| api.ok(kubectl, &line.split(' ').collect::<Vec<_>>());
        ok("create namespace team");
        for (line, want) in [
            ("create serviceaccount bot -n team", "serviceaccount/bot created\n"),
            (
                "create role pods --verb=get,list --resource=pods,pods/log -n team",
                "role.rbac.authorization.k8s.io/pods created\n",
            ),
            (
                "create clusterrole nodes --verb=get --resource=nodes --resource-name=edge-1",
                "clusterrole.rbac.authorization.k8s.io/nodes created\n",
            ),
            (
                "create clusterrole urls --verb=get --non-resource-url=/metrics",
                "clusterrole.rbac.authorization.k8s.io/urls created\n",
            ),
            (
                "create rolebinding pods --role=pods --serviceaccount=team:bot -n team",
                "rolebinding.rbac.authorization.k8s.io/pods created\n",
            ),
            (
                "create clusterrolebinding nodes --clusterrole=nodes --serviceaccount=team:bot --user=ann --group=ops",
                "clusterrolebinding.rbac.authorization.k8s.io/nodes created\n",
            ),
        ] {
            assert_eq!(ok(line), want, "{line}");
        }
        let token = ok("create token bot -n team --duration=20m");
        let (config, token) = (bare_config(api), format!("--token={}", token.trim()));
        let bot = |line: &str| {
            let args: Vec<&str> = [config.as_str(), &token].into_iter().chain(line.split(' ')).collect();
            let output = api.run(kubectl, &args);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.success(), text(&output.stdout), text(&output.stderr))
        };
        assert!(bot("get pods -n team").0);
        for line in ["get pods", "get secrets -n team", "get nodes", "delete pod x -n team"] {
            let (well, _, why) = bot(line);
            assert!(!well && why.contains("Forbidden"), "{line}: {why}");
        }
        for (line, want) in [
            ("auth can-i list pods -n team", "yes"),
            ("auth can-i get pods --subresource=log -n team", "yes"),
            ("auth can-i get node/edge-1", "yes"),
            ("auth can-i get node/edge-2", "no"),
            ("auth can-i create pods -n team", "no"),
            ("auth can-i get /version", "yes"),
            ("auth can-i get /metrics", "no"),
        ] {
            let (well, out, _) = bot(line);
            assert!(out.starts_with(want), "{line}: {out}");
            assert_eq!(well, want == "yes", "{line}");
        }
        let listed = bot("auth can-i --list -n team").1;
        for want in ["pods/log", "selfsubjectaccessreviews.authorization.k8s.io", "[/healthz]", "edge-1"] {
            assert!(listed.contains(want), "{want} in {listed}");
        }
        assert!(bot("auth whoami").1.contains("system:serviceaccount:team:bot"));

        // As the administrator, for others.
        for (line, want) in [
            ("auth can-i list pods -n team --as=system:serviceaccount:team:bot", "yes"),
            ("auth can-i list secrets -n team --as=system:serviceaccount:team:bot", "no"),
            ("auth can-i get node/edge-1 --as=ann", "yes"),
            ("auth can-i get node/edge-1 --as=joe --as-group=ops", "yes"),
            ("auth can-i get node/edge-1 --as=joe", "no"),
            ("auth can-i * *", "yes"),
        ] {
            let output = api.run(kubectl, &line.split(' ').collect::<Vec<_>>());
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(out.starts_with(want), "{line}: {out}");
        }
        let (well, _, why) = bot("get pods -n team --as=ann");
        assert!(!well && why.contains("cannot impersonate resource \"users\""), "{why}");

        let table = ok("get clusterrolebinding nodes -o wide");
        for want in
            ["NAME", "ROLE", "AGE", "USERS", "GROUPS", "SERVICEACCOUNTS", "ClusterRole/nodes", "team/bot"]
        {
            assert!(table.contains(want), "{want} in {table}");
        }
        let table = ok("get roles -n team");
        assert!(table.contains("CREATED AT") && table.contains("T") && table.contains("Z"), "{table}");
        let described = ok("describe role pods -n team");
        assert!(described.contains("pods/log") && described.contains("[get list]"), "{described}");
        let described = ok("describe clusterrolebinding nodes");
        assert!(described.contains("ServiceAccount  bot   team"), "{described}");

        ok("delete rolebinding pods -n team");
        assert!(!bot("get pods -n team").0, "the right is gone with its binding");
    });
}

const OWN: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: maps, namespace: default}
rules:
- {apiGroups: [''], resources: [configmaps], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: maps, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: maps}
subjects:
- {kind: User, name: ann, apiGroup: rbac.authorization.k8s.io}
";

#[test]
fn files_are_applied_and_nobody_grants_more_than_he_has() {
    each(|api, kubectl| {
        let file = api.file("own.yaml", OWN);
        let said = api.ok(kubectl, &["apply", "-f", &file]);
        assert!(said.contains("role.rbac.authorization.k8s.io/maps created"), "{said}");
        let said = api.ok(kubectl, &["apply", "-f", &file]);
        assert_eq!(said.matches("unchanged").count(), 2, "{said}");
        let changed = api.file("own2.yaml", &OWN.replace("verbs: [get, list]", "verbs: [get]"));
        api.ok(kubectl, &["apply", "-f", &changed]);
        assert_eq!(api.ok(kubectl, &["auth", "can-i", "get", "cm", "--as=ann"]), "yes\n");
        api.fails(kubectl, &["auth", "can-i", "list", "cm", "--as=ann"]);
        let unknown = api.file("bad.yaml", &OWN.replace("resources:", "resorces:"));
        let complaint = api.fails(kubectl, &["apply", "-f", &unknown]);
        assert!(complaint.contains("resorces"), "{complaint}");
        let other =
            api.file("other.yaml", &OWN.replace("kind: Role, name: maps", "kind: ClusterRole, name: edit"));
        let complaint = api.fails(kubectl, &["apply", "-f", &other]);
        assert!(complaint.contains("cannot change roleRef"), "{complaint}");
        // reconcile makes such a binding anew.
        api.ok(kubectl, &["auth", "reconcile", "-f", &other]);
        assert_eq!(api.ok(kubectl, &["auth", "can-i", "delete", "pods", "--as=ann"]), "yes\n");

        api.ok(kubectl, &["create", "rolebinding", "boss", "--clusterrole=admin", "--user=boss"]);
        let boss = |args: &[&str]| api.run(kubectl, &[args, &["--as=boss"]].concat());
        assert!(boss(&["create", "rolebinding", "v", "--clusterrole=view", "--user=x"]).status.success());
        let refused = boss(&["create", "rolebinding", "c", "--clusterrole=cluster-admin", "--user=boss"]);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(why.contains("attempting to grant RBAC permissions not currently held"), "{why}");
        let refused = boss(&["create", "role", "r", "--verb=get", "--resource=nodes"]);
        assert!(!refused.status.success());
        let api_roles = api.ok(kubectl, &["get", "clusterroles"]);
        for role in ["cluster-admin", "admin", "edit", "view", "system:discovery", "system:basic-user"] {
            assert!(api_roles.contains(role), "{role} in {api_roles}");
        }
    });
}

/// `keadm console` gives a token that reads what the console shows, and nothing more.
#[test]
fn the_consoles_token_reads_everything_but_secrets() {
    let dir = tempfile::tempdir().expect("temp dir");
    let cloud = Cloud::start(&dir.path().join("cloud"), &[]);
    let config = cloud.dir.join("cloudcore.yaml");
    eventually("the kubeconfig is written", || cloud.dir.join("admin.conf").exists());
    let keadm = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_keadm")).args(args).arg("--config").arg(&config).output();
        let out = out.expect("keadm runs");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).expect("text")
    };
    let said = keadm(&["console", "cloud", "--duration", "20m"]);
    assert!(said.contains("/console/\n") && said.contains("good until 20"), "{said}");
    // A second one changes nothing but the token.
    let token = keadm(&["console", "cloud", "-q"]);
    let token = format!("--token={}", token.trim());
    let kubectl = cloud.kubectl();
    for (resource, allowed) in [
        ("nodes", true),
        ("pods", true),
        ("events", true),
        ("devices.devices.kubeedge.io", true),
        ("devicemodels.devices.kubeedge.io", true),
        ("devicestatuses.devices.kubeedge.io", true),
        ("secrets", false),
        ("clusterroles.rbac.authorization.k8s.io", false),
    ] {
        let got = kubectl.try_run(&[&token, "get", resource, "-A"]);
        assert_eq!(got.is_ok(), allowed, "{resource}: {got:?}");
    }
    let refused = kubectl.try_run(&[&token, "delete", "node", "x"]).expect_err("reading only");
    assert!(refused.contains("cannot delete resource \"nodes\""), "{refused}");
}
