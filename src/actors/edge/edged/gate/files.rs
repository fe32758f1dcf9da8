//! Static pods: files on this machine that are pods. Pure: text in, pods and changes out.
//!
//! Names, namespace and annotations are the kubelet's (kubernetes.io, "Create static Pods"). Unlike
//! there only what the configuration lists may run, and the API shows no mirror of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::super::sources::{references, token_wants};
use crate::identity::sha256_hex;
use crate::kube::{defaults, validate};
use crate::model::NodeName;

/// The kubelet's marks of where a pod came from.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// A file of the folder, or why it could not be read.
pub type FileText = Result<String, String>;

/// A pod read from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticPod {
    /// `namespace/name` as the file says, which the list of allowed pods names.
    pub listed_as: String,
    pub uid: String,
    pub value: Arc<Value>,
}

/// What the folder's content means for what runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Run(Arc<Value>),
    /// Uid of a pod whose file is gone or another one now.
    End(String),
    /// A file that gives no pod. Said once as long as it stays as it is.
    Refused {
        file: String,
        subject: String,
        why: String,
    },
}

/// Remembers which file gave which pod.
#[derive(Debug, Default)]
pub struct Files {
    running: BTreeMap<String, StaticPod>,
    told: BTreeMap<String, String>,
}

impl Files {
    /// Compares the folder's files (by name) with what runs. A file that cannot be read now (it is
    /// perhaps being written) leaves the pod it gave before alone.
    pub fn compare(
        &mut self,
        files: &BTreeMap<String, FileText>,
        node: &NodeName,
        allowed: &[String],
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut keep: BTreeMap<String, StaticPod> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let mut told = BTreeMap::new();
        for (file, text) in files {
            let mut refuse = |subject: &str, why: String| {
                if self.told.get(file) != Some(&why) {
                    let (file, subject) = (file.clone(), subject.to_owned());
                    changes.push(Change::Refused { file, subject, why: why.clone() });
                }
                told.insert(file.clone(), why);
            };
            let pod = text.as_ref().map_err(Clone::clone).and_then(|text| read(text, node));
            match pod {
                Err(why) => {
                    refuse(file, why);
                    keep.extend(self.running.get(file).map(|pod| (file.clone(), pod.clone())));
                }
                Ok(pod) if !allowed.contains(&pod.listed_as) => {
                    let why = format!("identity.staticPods does not list {}", pod.listed_as);
                    refuse(&pod.listed_as, why);
                }
                Ok(pod) if !taken.insert(pod.listed_as.clone()) => {
                    let why = format!("another file is pod {} already", pod.listed_as);
                    refuse(&pod.listed_as, why);
                }
                Ok(pod) => drop(keep.insert(file.clone(), pod)),
            }
        }
        let before: BTreeSet<&str> = self.running.values().map(|pod| pod.uid.as_str()).collect();
        let after: BTreeSet<&str> = keep.values().map(|pod| pod.uid.as_str()).collect();
        changes.extend(before.difference(&after).map(|uid| Change::End((*uid).to_owned())));
        let new = keep.values().filter(|pod| !before.contains(pod.uid.as_str()));
        changes.extend(new.map(|pod| Change::Run(Arc::clone(&pod.value))));
        self.running = keep;
        self.told = told;
        changes
    }

    /// Pods that should run, for a start from nothing.
    pub fn forget(&mut self) {
        self.running.clear();
    }
}

/// Reads one file: YAML or JSON of a Pod.
///
/// # Errors
/// What is wrong with it, in the words of Kubernetes' validation where that speaks.
pub fn read(text: &str, node: &NodeName) -> Result<StaticPod, String> {
    let mut value: Value = yaml_serde::from_str(text).map_err(|err| format!("it is not YAML: {err}"))?;
    let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    if (field("apiVersion"), field("kind")) != ("v1", "Pod") {
        return Err(format!("it is {} {:?}, not v1 Pod", field("apiVersion"), field("kind")));
    }
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err("it has no metadata".to_owned());
    };
    let text_of = |field: Option<&Value>| field.and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = text_of(metadata.get("name"));
    if name.is_empty() {
        return Err("metadata.name: Required value".to_owned());
    }
    let namespace = match text_of(metadata.get("namespace")) {
        empty if empty.is_empty() => "default".to_owned(),
        namespace => namespace,
    };
    let uid = uid(node, text);
    for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers"] {
        metadata.remove(gone);
    }
    metadata.insert("name".to_owned(), format!("{name}-{node}").into());
    metadata.insert("namespace".to_owned(), namespace.clone().into());
    metadata.insert("uid".to_owned(), uid.clone().into());
    match metadata.entry("annotations").or_insert_with(|| json!({})) {
        Value::Object(annotations) => {
            annotations.insert(CONFIG_SOURCE.to_owned(), "file".into());
            annotations.insert(CONFIG_HASH.to_owned(), uid.clone().into());
        }
        _ => return Err("metadata.annotations is no map".to_owned()),
    }
    let object = value.as_object_mut();
    let spec = object.and_then(|object| {
        object.remove("status");
        object.get_mut("spec").and_then(Value::as_object_mut)
    });
    let Some(spec) = spec else { return Err("it has no spec".to_owned()) };
    let account = ["serviceAccountName", "serviceAccount"].map(|field| text_of(spec.get(field)));
    if account.iter().any(|account| !account.is_empty() && account != "default") {
        return Err("spec.serviceAccountName: a static pod may not refer to objects of the API".to_owned());
    }
    spec.insert("automountServiceAccountToken".to_owned(), false.into());
    spec.insert("nodeName".to_owned(), node.as_str().into());
    defaults::apply("Pod", &mut value);
    if let Some(error) = validate::create("Pod", &value).first() {
        return Err(format!("{}: {}", error.field, error.message));
    }
    let pod: Pod =
        serde::Deserialize::deserialize(&value).map_err(|err: serde_json::Error| err.to_string())?;
    if !references(&pod).is_empty() || !token_wants(&pod).is_empty() {
        return Err("spec: a static pod may not refer to configmaps, secrets or tokens of the API".to_owned());
    }
    Ok(StaticPod { listed_as: format!("{namespace}/{name}"), uid, value: Arc::new(value) })
}

/// The same file on the same node is the same pod, also after a restart.
fn uid(node: &NodeName, text: &str) -> String {
    let hash = sha256_hex(format!("{node}\0{text}").as_bytes());
    hash.get(..32).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec: { containers: [{ name: main, image: registry.local/hello:1 }] }
";

    fn node() -> NodeName {
        NodeName::parse("edge-1").expect("name")
    }

    fn folder(files: &[(&str, &str)]) -> BTreeMap<String, FileText> {
        files.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned()))).collect()
    }

    #[test]
    fn a_pod_of_a_file() {
        let pod = read(WEB, &node()).expect("pod");
        assert_eq!(pod.listed_as, "default/web");
        let metadata = &pod.value["metadata"];
        assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!("web-edge-1"), &json!("default")));
        assert_eq!(metadata["uid"], pod.uid);
        assert_eq!(metadata["annotations"][CONFIG_SOURCE], "file");
        let spec = &pod.value["spec"];
        assert_eq!((&spec["nodeName"], &spec["restartPolicy"]), (&json!("edge-1"), &json!("Always")));
        assert_eq!(read(WEB, &node()).expect("again"), pod, "the same uid");
        let elsewhere = read(WEB, &NodeName::parse("edge-2").expect("name")).expect("pod");
        assert_ne!(elsewhere.uid, pod.uid);
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"shop"},
            "spec":{"containers":[{"name":"c","image":"i"}]}}"#;
        assert_eq!(read(json, &node()).expect("JSON").listed_as, "shop/a");
    }

    #[test]
    fn files_that_are_none() {
        let with = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{ name: a }}\nspec: {spec}\n");
        for (case, text, want) in [
            ("no YAML", "{".to_owned(), "not YAML"),
            ("another kind", "apiVersion: v1\nkind: Node\n".to_owned(), "not v1 Pod"),
            ("no name", "apiVersion: v1\nkind: Pod\nmetadata: {}\n".to_owned(), "metadata.name"),
            ("no spec", "apiVersion: v1\nkind: Pod\nmetadata: { name: a }\n".to_owned(), "no spec"),
            ("no containers", with("{}"), "spec.containers"),
            ("a bad name", WEB.replace("web", "../etc"), "metadata.name"),
            (
                "an account",
                with("{ serviceAccountName: admin, containers: [{ name: c, image: i }] }"),
                "serviceAccountName",
            ),
            (
                "a secret",
                with("{ containers: [{ name: c, image: i, envFrom: [{ secretRef: { name: s } }] }] }"),
                "may not refer",
            ),
        ] {
            let err = read(&text, &node()).expect_err(case);
            assert!(err.contains(want), "{case}: {err}");
        }
    }

    #[test]
    fn files_come_change_and_go() {
        let allowed = ["default/web".to_owned()];
        let mut files = Files::default();
        let mut compare = |now: &BTreeMap<String, FileText>| files.compare(now, &node(), &allowed);
        let first = read(WEB, &node()).expect("pod");
        assert_eq!(compare(&folder(&[("web.yaml", WEB)])), [Change::Run(Arc::clone(&first.value))]);
        assert_eq!(compare(&folder(&[("web.yaml", WEB)])), [], "nothing new");

        // Half a file, and one that cannot be read: the pod stays, the reason is said once.
        let half = folder(&[("web.yaml", "apiVersion: v1\nkind: P")]);
        let changes = compare(&half);
        assert!(matches!(&changes[..], [Change::Refused { file, .. }] if file == "web.yaml"), "{changes:?}");
        assert_eq!(compare(&half), [], "said once");
        let unread = [("web.yaml".to_owned(), Err("permission denied".to_owned()))].into();
        assert!(matches!(&compare(&unread)[..], [Change::Refused { .. }]));

        let changed = WEB.replace("hello:1", "hello:2");
        let second = read(&changed, &node()).expect("pod");
        assert_eq!(
            compare(&folder(&[("web.yaml", &changed)])),
            [Change::End(first.uid.clone()), Change::Run(Arc::clone(&second.value))]
        );
        // Moved to another file: the same pod.
        assert_eq!(compare(&folder(&[("renamed.yaml", &changed)])), []);
        assert_eq!(compare(&folder(&[])), [Change::End(second.uid)]);
    }

    #[test]
    fn only_what_is_listed() {
        let other = WEB.replace("name: web", "name: other");
        let files = folder(&[("a.yaml", WEB), ("b.yaml", &WEB.replace(":1", ":2")), ("c.yaml", &other)]);
        let changes = Files::default().compare(&files, &node(), &["default/web".to_owned()]);
        let refused: Vec<(&str, &str)> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Refused { subject, why, .. } => Some((subject.as_str(), why.as_str())),
                Change::Run(_) | Change::End(_) => None,
            })
            .collect();
        assert_eq!(
            refused,
            [
                ("default/web", "another file is pod default/web already"),
                ("default/other", "identity.staticPods does not list default/other"),
            ]
        );
        assert_eq!(changes.iter().filter(|change| matches!(change, Change::Run(_))).count(), 1);
    }
}
