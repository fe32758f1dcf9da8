//! What an edge gets: objects and answers of the cloud, files, what the runtime and the kernel say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::Pod;
use prost::Message as _;
use serde_json::{Value, json as object};

use super::kube::now;
use super::{cut, json, parts, text};
use crate::actors::edge::edge_hub::routing;
use crate::actors::edge::edged::gate::files;
use crate::actors::edge::edged::gate::images::{Facts, decide, keys, repository};
use crate::actors::edge::edged::gate::seals::ending;
use crate::actors::edge::edged::host::{HostContext, Resolver};
use crate::actors::edge::edged::names::{
    PodRef, UnsafeName, container_hash, is_ours, path_part, restart_count,
};
use crate::actors::edge::edged::observed::{Container, Observed, Sandbox};
use crate::actors::edge::edged::plan::{needs, plan};
use crate::actors::edge::edged::sources::{Sources, all_containers, references, token_wants};
use crate::actors::edge::edged::state::PodState;
use crate::actors::edge::edged::status::{Surroundings, status};
use crate::actors::edge::edged::volumes::material;
use crate::actors::edge::edged::{admission, dns, environment, pull_auth, resources, security, spec};
use crate::actors::edge::event_bus::access::{Rules, Who};
use crate::actors::edge::event_bus::password::Passwords;
use crate::actors::edge::identity::attest;
use crate::actors::edge::identity::workload::{Workload, digests, grants, is_own_path};
use crate::actors::edge::meta_manager::objects::{Index, parse_key, store_key};
use crate::actors::edge::meta_manager::reports::Reports;
use crate::actors::edge::meta_manager::{node as node_calls, tokens};
use crate::cri::oci::{Document, digest_hex, is_digest};
use crate::model::identity::{EdgeIdentitySpec, TopicPolicy};
use crate::model::{NodeName, Resource};
use crate::store::{Op, Row};
use crate::wire::frame;

fn edge() -> NodeName {
    NodeName::parse("edge-1").expect("a name")
}

fn host() -> HostContext {
    HostContext {
        node_name: "edge-1".into(),
        host_ips: vec!["192.0.2.10".into()],
        root_dir: "/var/lib/kubelet".into(),
        pod_logs_dir: "/var/log/pods".into(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        resolver: Resolver::default(),
        systemd_cgroups: false,
        cpu_milli: 2000,
        memory_bytes: 4 << 30,
        kubernetes_service: None,
        workload_api: Some("/run/kubeedge/spiffe.sock".into()),
    }
}

/// Messages of the cloud, each after a zero byte, as MetaManager stores them. What is stored is read back.
pub fn messages(bytes: &[u8]) {
    let (mut index, mut disk) = (Index::default(), BTreeMap::new());
    let mut applying = routing::Applying::default();
    for part in parts(bytes, 20) {
        let Ok(envelope) = frame::decode(part, 1 << 20) else { continue };
        routing::route(&envelope);
        drop(node_calls::object_of(envelope.clone()));
        if let Ok(change) = index.apply(&envelope) {
            for op in change.batch.ops() {
                match op.clone() {
                    Op::Put { key, value, .. } => disk.insert(key, value),
                    Op::Delete { key, .. } => disk.remove(&key),
                };
            }
        }
        let printed = envelope.route.resource.to_string();
        if matches!(applying.push(envelope, part.len()), Ok(Some(_))) {
            applying.done(&printed);
        }
    }
    let rows: Vec<Row> = disk.into_iter().collect();
    let mut again = Index::default();
    assert_eq!(again.load(&rows), 0, "every row is read back");
    let all = |index: &Index| index.keys().cloned().collect::<Vec<_>>();
    assert_eq!(all(&again), all(&index));
    for key in again.keys() {
        assert_eq!(parse_key(store_key(key).as_bytes()).as_ref(), Some(key));
    }
    assert_eq!(again.listing().len(), index.listing().len());
}

/// Rows of MetaManager on a disk that lies: first line the key, then the value.
pub fn rows(bytes: &[u8]) {
    let (key, value) = cut(bytes, b"\n");
    let row: Row = (key.to_vec(), value.to_vec());
    if let Some(key) = parse_key(key) {
        assert_eq!(parse_key(store_key(&key).as_bytes()), Some(key));
    }
    let mut index = Index::default();
    index.load(std::slice::from_ref(&row));
    let _counts = index.counts();
    let (clock, at) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let mut reports = Reports::default();
    reports.load(&[row], clock);
    for job in reports.due(clock + Duration::from_secs(1000)) {
        drop(format!("{job:?}"));
    }
    if let Some(stored) = tokens::Stored::from_row(value) {
        stored.decide(at);
        let again =
            tokens::Stored::from_row(stored.to_row().as_bytes()).expect("what is written is read back");
        assert_eq!(again.to_row(), stored.to_row());
    }
    if let Some(value) = json(value) {
        tokens::is_token(&value);
        node_calls::metadata_update(&value, &object!({"metadata": {"labels": {"a": "b"}}}));
        node_calls::status_patch(&value, &object!({}));
    }
}

/// An object that the API took, as edges use it.
pub fn object(kind: &str, value: &Value) {
    if kind == "Pod"
        && let Ok(pod) = serde_json::from_value::<Pod>(value.clone())
    {
        run(Arc::new(pod), Vec::new());
    }
}

/// A Pod as it comes, whoever checked it, and what containerd has of it after a zero byte each.
pub fn pod(bytes: &[u8]) {
    let mut all = parts(bytes, 2);
    let Some(Ok(pod)) = all.next().and_then(json).map(serde_json::from_value::<Pod>) else { return };
    let statuses = all.next().into_iter().filter_map(|part| v1::ContainerStatus::decode(part).ok());
    run(Arc::new(pod), statuses.collect());
}

fn run(pod: Arc<Pod>, statuses: Vec<v1::ContainerStatus>) {
    let (host, sources, now) = (host(), Sources(BTreeMap::new()), now());
    let at = PodRef::of(&pod);
    let is_safe = at.check().is_ok();
    if is_safe {
        assert!(
            at.dir(&host).starts_with(&host.root_dir) && !at.dir(&host).to_string_lossy().contains("/../")
        );
    }
    drop(admission::admit(&pod, [&*pod], 110));
    drop((references(&pod), token_wants(&pod)));
    drop(dns::hosts_file(&pod, &host, "10.0.0.1"));
    drop((dns::dns_config(&pod, &host), dns::hostname(&pod)));
    drop(resources::qos(&pod));
    drop(spec::sandbox_config(&pod, &host, 1));
    if let Ok(volumes) = material::prepare(&pod, &sources, &host) {
        assert!(volumes.volumes.iter().all(|volume| path_part("name", &volume.name).is_ok()));
    }
    let mut hashes = BTreeMap::new();
    for container in pod.spec.iter().flat_map(all_containers) {
        hashes.insert(container.name.clone(), container_hash(container));
        let env =
            environment::environment(&pod, container, &sources, &host, Some("10.0.0.1")).unwrap_or_default();
        drop(spec::container_config(&pod, container, 1, "sha256:0", env, Vec::new(), &host));
        drop(security::container(&pod, container, &host));
        if let Some(image) = &container.image {
            drop(pull_auth::credentials(&pod, &sources, image));
        }
    }
    drop(ending(&pod, &pod));
    let mut observed = Observed::default();
    for status in statuses {
        observed.put_container(Container::read(status, "sandbox", String::new()));
    }
    let mut state = PodState::new(Arc::clone(&pod), hashes, observed, 0.5, now);
    let first = plan(&state, now);
    drop((first, needs(&state)));
    let around = Surroundings::default();
    let said = status(&state, &around, now);
    drop(serde_json::to_value(&said).expect("a status"));
    state.memory.status = said;
    state.note_backoffs(now);
    drop(plan(&state, now));
}

/// What the container runtime answers.
pub fn runtime(bytes: &[u8]) {
    if let Ok(status) = v1::ContainerStatus::decode(bytes) {
        restart_count(&status.annotations);
        PodRef::from_labels(&status.labels);
        is_ours(&status.labels, &host());
        let mut observed = Observed::default();
        observed.put_container(Container::read(status, "s", "h".into()));
        drop(observed.newest("c"));
    }
    if let Ok(status) = v1::PodSandboxStatus::decode(bytes) {
        let mut observed = Observed::default();
        observed.put_sandbox(Sandbox::read(status));
        drop((observed.live(), observed.newest_sandbox()));
    }
    if let Ok(envelope) = containerd_client::types::Envelope::decode(bytes) {
        drop(crate::cri::containerd::decode(&envelope));
    }
    drop(Document::parse(bytes));
    if let Some(text) = text(bytes) {
        assert_eq!(is_digest(text), digest_hex(text).is_some());
        digests([text]);
    }
}

/// Names of images and the policies they are held against.
pub fn image(bytes: &[u8]) {
    let (name, policies) = cut(bytes, b"\n");
    let Some(name) = text(name) else { return };
    let spec: EdgeIdentitySpec =
        json(policies).and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
    let full = repository(name);
    if let Some(full) = &full {
        assert_eq!(repository(full).as_ref(), Some(full), "a full name stays as it is");
    }
    let facts = Facts {
        repository: full.clone(),
        repositories: full.into_iter().collect(),
        digests: Vec::new(),
        signed_by: BTreeSet::new(),
    };
    drop(decide(&spec.image_policies, "default", &facts));
    drop(keys(&spec.image_policies, "default"));
    policies_of_topics(&spec);
}

/// What a node does with the policies it was told.
pub fn policies(spec: &EdgeIdentitySpec) {
    let facts = Facts { repository: repository("nginx"), ..Facts::default() };
    drop(decide(&spec.image_policies, "default", &facts));
    policies_of_topics(spec);
    let workload = Workload { namespace: "default".into(), ..Workload::default() };
    for grant in grants(&workload, "kubeedge.local", &spec.registrations) {
        assert_eq!(grant.id.trust_domain(), "kubeedge.local");
        assert!(is_own_path(grant.id.path(), "default"), "{:?}", grant.id);
    }
}

fn policies_of_topics(spec: &EdgeIdentitySpec) {
    let mut rules = Rules::new(Vec::new());
    rules.set_policies(Some(spec));
    let spiffe_id = Some("spiffe://kubeedge.local/ns/default/sa/web".to_owned());
    let who = Who::Certificate { common_name: String::new(), spiffe_id };
    let rights = rules.rights(&who, "client");
    for topic in ["$hw/events/device/other/d/twin/update", "a/b", "$SYS/x"] {
        let _said = (rights.publish(topic), rights.subscribe(topic));
    }
    for policy in &spec.topic_policies {
        for filter in policy.publish.iter().chain(&policy.subscribe) {
            TopicPolicy::is_foreign(filter, &policy.namespace);
        }
    }
    assert!(!rights.publish("$hw/events/device/other/d/twin/update"), "no policy gives another's devices");
}

/// A manifest in the folder of static pods.
pub fn static_pod(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(pod) = files::read(text, &edge()) {
        let read = serde_json::from_value::<Pod>((*pod.value).clone()).expect("it is a Pod");
        assert!(pod.listed_as.contains('/') && !pod.uid.is_empty());
        let name: Result<(), UnsafeName> = PodRef::of(&read).check();
        assert!(name.is_ok(), "{name:?}");
        run(Arc::new(read), Vec::new());
    }
}

/// `mosquitto_passwd`'s file.
pub fn passwords(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    drop(Passwords::parse(text));
}

/// Files of `proc(5)`, and `resolv.conf`: process and process 1 after a zero byte.
pub fn processes(bytes: &[u8]) {
    let (first, second) = cut(bytes, b"\0");
    let (Some(first), Some(second)) = (text(first), text(second)) else { return };
    drop((attest::stat(first), attest::effective_uid(first), attest::binary_path(first)));
    if let Ok(found) = attest::container(first, second) {
        assert!(found.container_id.len() == 64 && !found.pod_uid.contains('/'));
        assert!(first.contains(&found.container_id));
    }
    Resolver::parse(first);
    drop(Resource::parse(first));
    let _now = SystemTime::now();
}
