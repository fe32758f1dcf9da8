//! Pods that are sealed and pods that are not; images that policies allow and deny.

use super::super::gate::cosign::fixture::Signer;
use super::super::gate::seals::SEAL_INVALID;
use super::*;
use crate::bus::identity::AuditAction;
use crate::identity::seal;
use crate::identity::test_authority::Authority;
use crate::model::identity::{ImagePolicy, ImageRule, PolicyMode, SEAL_ANNOTATION};

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A cloud that seals.
struct Sealer(Authority);

impl Sealer {
    fn new() -> Self {
        Self(Authority::new())
    }

    fn seal_for(&self, node: &str, pod: &Value) -> Value {
        let text = self.0.seal("pod", node, &seal::pod_payload(pod));
        with(pod, json!({"metadata": {"annotations": {SEAL_ANNOTATION: text}}}))
    }

    fn seal(&self, pod: &Value) -> Value {
        self.seal_for("edge-1", pod)
    }

    /// Of a node that joined this cloud; one of KubeEdge's gives no node CA.
    fn credentials(&self, ours: bool) -> Option<Arc<NodeCredentials>> {
        let (mut credentials, _) = self.0.credentials("edge-1");
        if !ours {
            (credentials.node_ca, credentials.trust_domain) = (None, String::new());
        }
        Some(Arc::new(credentials))
    }
}

fn with(pod: &Value, with: Value) -> Value {
    let mut pod = pod.clone();
    json_patch::merge(&mut pod, &with);
    pod
}

/// A node that has joined `cloud`, with no policies.
fn joined(cloud: &Sealer) -> Bench {
    let trusted = Trusted::new(PodSeals::Auto);
    trusted.credentials.send_replace(cloud.credentials(true));
    trusted.policies.send_replace(Some(Arc::default()));
    gated(trusted)
}

impl Bench {
    fn message(&self) -> String {
        let status = self.status();
        let text = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str();
        text.unwrap_or_default().to_owned()
    }

    fn facts(&self, allowed: bool) -> Vec<AuditFact> {
        self.trusted.facts.lock().iter().filter(|fact| fact.allowed == allowed).cloned().collect()
    }

    fn starts(&self) -> usize {
        self.runtime.count("StartContainer")
    }

    fn allow(&self, mode: PolicyMode, allow: Vec<ImageRule>) {
        let policy = ImagePolicy { namespace: "default".into(), name: "only".into(), mode, allow };
        let spec = EdgeIdentitySpec { image_policies: vec![policy], ..EdgeIdentitySpec::default() };
        self.trusted.policies.send_replace(Some(Arc::new(spec)));
    }
}

#[actix::test]
async fn only_sealed_pods_start() {
    tokio::time::pause();
    let (cloud, stranger) = (Sealer::new(), Sealer::new());
    let bench = joined(&cloud);
    let web = pod("web", json!({}));
    let mut changed = cloud.seal(&web);
    changed["spec"]["containers"][0]["command"] = json!(["sh"]);
    for (case, bad, why) in [
        ("none", web.clone(), "no seal"),
        ("of another cloud", stranger.seal(&web), "trusted"),
        ("for another node", cloud.seal_for("edge-2", &web), "another node"),
        ("changed on the way", changed, "differs"),
        (
            "nonsense",
            with(&web, json!({"metadata": {"annotations": {SEAL_ANNOTATION: "x.y.z"}}})),
            "malformed",
        ),
    ] {
        bench.apply(&bad);
        until(case, SOON, || bench.waiting() == SEAL_INVALID && bench.message().contains(why)).await;
        let status = bench.status();
        assert_eq!(
            (&status["phase"], &status["reason"]),
            (&json!("Pending"), &json!(SEAL_INVALID)),
            "{case}"
        );
        assert!(status["message"].as_str().is_some_and(|text| text.contains(why)), "{case}: {status}");
    }
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(
        bench.runtime.count("RunPodSandbox") + bench.runtime.count("PullImage"),
        0,
        "nothing was begun"
    );
    assert!(bench.event(SEAL_INVALID).is_some_and(|text| text.contains("no seal")));
    let refused = bench.facts(false);
    assert_eq!(refused.len(), 5, "each once, however often it was looked at: {refused:?}");
    assert!(
        refused.iter().all(|fact| fact.action == AuditAction::Policy && fact.subject == "pod default/web")
    );
    bench.apply(&cloud.seal(&web));
    until("Running", SOON, || bench.phase() == "Running").await;
    assert_eq!(bench.status()["reason"], Value::Null);
}

#[actix::test]
async fn a_new_seal_changes_nothing() {
    tokio::time::pause();
    let cloud = Sealer::new();
    let bench = joined(&cloud);
    let web = pod(
        "web",
        json!({"metadata": {"annotations": {"mine": "kept"}}, "spec": {
            "volumes": [{"name": "me", "downwardAPI": {"items": [
                {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
            ]}}],
        }}),
    );
    bench.apply(&cloud.seal(&web));
    until("Running", SOON, || bench.phase() == "Running").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (calls, reported) = (bench.runtime.calls().len(), bench.meta.lock().statuses.len());
    let again = cloud.seal(&web);
    assert_ne!(again, bench.meta.lock().pods["uid-web"], "another seal over the same");
    bench.apply(&again);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let changes = |(call, _): &&(&str, String)| {
        ["Run", "Create", "Start", "Stop", "Remove", "Pull"].iter().any(|verb| call.starts_with(verb))
    };
    let fresh: Vec<_> = bench.runtime.calls().split_off(calls);
    assert_eq!(fresh.iter().filter(changes).collect::<Vec<_>>(), Vec::<&(&str, String)>::new());
    assert_eq!(bench.meta.lock().statuses.len(), reported);
    let annotations = bench.runtime.sandboxes()[0].config.annotations.clone();
    assert_eq!(annotations.get("mine").map(String::as_str), Some("kept"));
    assert!(!annotations.contains_key(SEAL_ANNOTATION), "the runtime is not told of seals");
}

#[actix::test]
async fn who_must_be_sealed_follows_from_the_cloud() {
    tokio::time::pause();
    let cloud = Sealer::new();
    for (case, mode, ours, runs) in [
        ("ours", PodSeals::Auto, true, false),
        ("KubeEdge's", PodSeals::Auto, false, true),
        ("KubeEdge's, but required", PodSeals::Required, false, false),
        ("off", PodSeals::Off, true, true),
    ] {
        let bench = gated(Trusted::new(mode));
        bench.apply(&pod("web", json!({})));
        if mode != PodSeals::Off {
            until(case, SOON, || bench.message().contains("has not joined")).await;
            assert_eq!((bench.waiting().as_str(), bench.phase().as_str()), ("ContainerCreating", "Pending"));
            assert_eq!(bench.event(SEAL_INVALID), None, "{case}: nothing is known yet");
        }
        bench.trusted.policies.send_replace(Some(Arc::default()));
        bench.trusted.credentials.send_replace(cloud.credentials(ours));
        let want = if runs { "Running" } else { "Pending" };
        until(case, SOON, || bench.phase() == want && (runs || bench.waiting() == SEAL_INVALID)).await;
    }
}

#[actix::test]
async fn a_refused_change_leaves_the_old_pod_running() {
    tokio::time::pause();
    let cloud = Sealer::new();
    let bench = joined(&cloud);
    let web = pod("web", json!({}));
    bench.apply(&cloud.seal(&web));
    until("Running", SOON, || bench.phase() == "Running").await;
    let mut evil = cloud.seal(&web);
    evil["spec"]["containers"][0]["image"] = json!("registry.local/evil:1");
    bench.apply(&evil);
    until("said", SOON, || bench.event(SEAL_INVALID).is_some_and(|text| text.contains("change"))).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!((bench.phase().as_str(), bench.runtime.running().len(), bench.starts()), ("Running", 1, 1));
    // The old version is what restarts.
    let id = bench.runtime.running()[0].status.id.clone();
    bench.runtime.exit(&id, 1, false);
    until("restarted", SOON, || bench.runtime.running().len() == 1 && bench.starts() == 2).await;
    assert_eq!(bench.runtime.count("PullImage"), 0);
    // Ending starts nothing: it needs no belief.
    let mut gone = evil.clone();
    gone["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:05:00Z");
    gone["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    bench.apply(&gone);
    until("ended", Duration::from_secs(40), || !bench.meta.lock().confirmed.is_empty()).await;
    assert!(bench.runtime.sandboxes().is_empty());
}

#[actix::test]
async fn a_tampered_store_starts_nothing() {
    tokio::time::pause();
    let cloud = Sealer::new();
    let mut bench = joined(&cloud);
    for name in ["web", "good"] {
        bench.apply(&cloud.seal(&pod(name, json!({}))));
    }
    until("both run", SOON, || bench.runtime.running().len() == 2).await;
    bench.meta.lock().pods.get_mut("uid-web").expect("pod")["spec"]["containers"][0]["command"] =
        json!(["evil"]);
    bench.meta.lock().statuses.clear();
    bench = bench.restart().await;
    let said = || bench.event(SEAL_INVALID).is_some_and(|text| text.contains("differs"));
    until("said", SOON, said).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!((bench.runtime.running().len(), bench.starts()), (2, 2), "what runs is left alone");
    bench.runtime.reboot();
    bench = bench.restart().await;
    until("the good one is back", SOON, || bench.runtime.running().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    let running = bench.runtime.running();
    let labels = &running[0].config.labels;
    assert_eq!((running.len(), labels["io.kubernetes.pod.name"].as_str()), (1, "good"));
}

#[actix::test]
async fn roots_that_change_are_asked_again() {
    tokio::time::pause();
    let (cloud, other) = (Sealer::new(), Sealer::new());
    let bench = joined(&cloud);
    bench.apply(&cloud.seal(&pod("web", json!({}))));
    until("Running", SOON, || bench.phase() == "Running").await;
    bench.trusted.credentials.send_replace(other.credentials(true));
    until("said", SOON, || bench.event(SEAL_INVALID).is_some()).await;
    assert_eq!(bench.phase(), "Running", "what runs goes on");
    let id = bench.runtime.running()[0].status.id.clone();
    bench.runtime.exit(&id, 1, false);
    until("waits", SOON, || bench.waiting() == SEAL_INVALID).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.starts(), 1);
    bench.trusted.credentials.send_replace(cloud.credentials(true));
    until("runs again", SOON, || bench.starts() == 2 && bench.phase() == "Running").await;
}

#[actix::test]
async fn nothing_starts_before_the_policies_are_known() {
    tokio::time::pause();
    let cloud = Sealer::new();
    let trusted = Trusted::new(PodSeals::Auto);
    trusted.credentials.send_replace(cloud.credentials(true));
    let bench = gated(trusted);
    bench.apply(&cloud.seal(&pod("web", json!({}))));
    until("waits", SOON, || bench.message().contains("policies of this node")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.runtime.count("RunPodSandbox"), 0);
    bench.trusted.policies.send_replace(Some(Arc::default()));
    until("Running", SOON, || bench.phase() == "Running").await;
}

#[actix::test]
async fn a_denied_image_waits_for_the_policy_to_change() {
    tokio::time::pause();
    let bench = fresh();
    let elsewhere = || ImageRule { registry: Some("elsewhere.example".into()), ..ImageRule::default() };
    bench.allow(PolicyMode::Enforce, vec![elsewhere()]);
    bench.apply(&pod("web", json!({})));
    until("denied", SOON, || bench.waiting() == "ImagePolicyDenied").await;
    let why = "image registry.local/hello:1 is refused by ImagePolicy default/only: \
               rule 1: registry.local/hello is not from elsewhere.example";
    assert_eq!((bench.message().as_str(), bench.phase().as_str()), (why, "Pending"));
    assert_eq!(bench.event("ImagePolicyDenied").as_deref(), Some(why));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(bench.runtime.count("ImageEvidence") > 2, "it is tried again");
    assert_eq!(bench.runtime.count("CreateContainer"), 0);
    let facts = bench.facts(false);
    assert_eq!(facts.len(), 1, "recorded once: {facts:?}");
    assert_eq!(facts[0].details["policy"], "default/only");
    let here = ImageRule { registry: Some("registry.local".into()), ..ImageRule::default() };
    bench.allow(PolicyMode::Enforce, vec![elsewhere(), here]);
    let took = until("Running", SOON, || bench.phase() == "Running").await;
    assert!(took < Duration::from_secs(2), "at once, not with the next try: {took:?}");
    assert_eq!(bench.facts(true).len(), 1);
    // A stricter policy ends nothing, but the next start is refused.
    bench.allow(PolicyMode::Enforce, vec![]);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(bench.runtime.running().len(), 1);
    let id = bench.runtime.running()[0].status.id.clone();
    bench.runtime.exit(&id, 1, false);
    until("denied", SOON, || bench.waiting() == "ImagePolicyDenied").await;
    bench.trusted.policies.send_replace(Some(Arc::default()));
    until("Running", SOON, || bench.runtime.running().len() == 1).await;
}

#[actix::test]
async fn a_warning_lets_it_run() {
    tokio::time::pause();
    let bench = fresh();
    bench.allow(PolicyMode::Warn, vec![]);
    let crash = Behaviour { exits: Some((Duration::from_millis(100), 3)), ..Behaviour::default() };
    bench.runtime.script("main", [crash, Behaviour::default()]);
    bench.apply(&pod("web", json!({})));
    until("restarted", SOON, || bench.starts() == 2 && bench.phase() == "Running").await;
    let said = |(reason, _): &&(String, String)| reason == "ImagePolicyWarning";
    assert_eq!(bench.meta.lock().events.iter().filter(said).count(), 1, "once for an image and a policy");
    assert!(bench.event("ImagePolicyWarning").is_some_and(|text| text.contains("default/only")));
}

#[actix::test]
async fn digests_and_signatures_decide() {
    tokio::time::pause();
    let (signer, other) = (Signer::fresh(), Signer::fresh());
    let signed = ImageRule { cosign_key: Some(signer.pem.clone()), ..ImageRule::default() };
    let by_digest = |digest: &str| ImageRule { digest: Some(digest.to_owned()), ..ImageRule::default() };
    let repository = "registry.local/hello";
    for (case, rule, under, signatures, runs) in [
        ("the digest", by_digest(DIGEST), repository, vec![], true),
        ("another digest", by_digest(&DIGEST.replace('a', "b")), repository, vec![], false),
        ("signed", signed.clone(), repository, vec![other.sign(DIGEST), signer.sign(DIGEST)], true),
        ("signed by another", signed.clone(), repository, vec![other.sign(DIGEST)], false),
        ("signed for another image", signed.clone(), repository, vec![signer.sign("sha256:b")], false),
        ("attached elsewhere", signed.clone(), "registry.local/other", vec![signer.sign(DIGEST)], false),
        ("not signed", signed, repository, vec![], false),
    ] {
        let bench = fresh();
        bench.runtime.prove(IMAGE, vec![DIGEST.into()], under, signatures);
        bench.allow(PolicyMode::Enforce, vec![rule]);
        bench.apply(&pod("web", json!({})));
        let want = if runs { "" } else { "ImagePolicyDenied" };
        let phase = if runs { "Running" } else { "Pending" };
        until(case, SOON, || bench.phase() == phase && bench.waiting() == want).await;
        if runs {
            let image = bench.runtime.running()[0].config.image.clone().expect("image").image;
            assert_eq!(image, format!("sha256:{IMAGE}"), "created by what was checked");
        }
    }
}
