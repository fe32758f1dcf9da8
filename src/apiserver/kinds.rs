//! The kinds served. A new kind is one entry of [`KINDS`].

use serde_json::Value;

use super::custom;
use crate::kube::patch::PatchError;
use crate::kube::schema::Report;
use crate::kube::validate::FieldError;
use crate::kube::{defaults, patch, schema, validate};
use crate::model::identity::IDENTITY_GROUP;

/// One resource of the API.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub subresources: &'static [Sub],
    /// Fields a field selector may name, besides `metadata.name` and `metadata.namespace`.
    pub fields: &'static [Field],
    pub hooks: &'static Hooks,
    pub nature: Nature,
    /// A PUT on a name that does not exist creates it (leases, events).
    pub create_on_update: bool,
    /// `metadata.generation` counts changes of everything but metadata, and but status where that
    /// is a subresource.
    pub generation: bool,
    /// Deleting answers with the object instead of a `Status`.
    pub returns_deleted: bool,
    /// What a key sorts by in the tables of the registry: the position in [`KINDS`].
    pub id: usize,
}

/// How a kind lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Kept in the store, all verbs.
    Stored,
    /// Create only: the answer is computed and nothing is kept.
    Review,
}

/// What hangs below an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sub {
    Status,
    Binding,
    Eviction,
    Token,
}

impl Sub {
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Token => "token",
        }
    }
}

/// A field that selectors may name.
#[derive(Debug)]
pub struct Field {
    pub label: &'static str,
    /// JSON pointers, the first that is there counts.
    pub pointers: &'static [&'static str],
    /// Text when the field is absent.
    pub absent: &'static str,
}

/// What is known about the content of a kind.
#[derive(Debug)]
pub struct Hooks {
    pub check: fn(&str, &str, &Value) -> Option<Report>,
    pub defaults: fn(&str, &mut Value),
    pub create: fn(&str, &Value) -> Vec<FieldError>,
    pub update: fn(&str, &Value, &Value) -> Vec<FieldError>,
    pub name: fn(&str, &str) -> Option<String>,
    /// `None`: strategic merge patch is refused, as for custom resources.
    pub strategic: Option<StrategicPatch>,
    /// A write to `/status` leaves labels, annotations and finalizers alone (custom resources).
    pub status_keeps_metadata: bool,
    /// A PUT need not say which version it replaces.
    pub unconditional_update: bool,
}

/// [`patch::strategic`].
pub type StrategicPatch = fn(&str, &Value, &Value) -> Result<Value, PatchError>;

static BUILT_IN: Hooks = Hooks {
    check: schema::check,
    defaults: defaults::apply,
    create: validate::create,
    update: validate::update,
    name: validate::name,
    strategic: Some(patch::strategic),
    status_keeps_metadata: false,
    unconditional_update: true,
};

static SCHEMALESS: Hooks = Hooks {
    check: |_, _, _| None,
    defaults: |_, _| {},
    create: |_, _| Vec::new(),
    update: |_, _, _| Vec::new(),
    name: validate::name,
    strategic: None,
    status_keeps_metadata: true,
    unconditional_update: true,
};

/// Kinds whose rules stand in `config/crds/`. Their fields are checked by [`custom::tidy`].
static CUSTOM: Hooks = Hooks {
    check: |_, _, _| None,
    defaults: custom::set_defaults,
    create: custom::create,
    update: custom::update,
    name: validate::name,
    strategic: None,
    status_keeps_metadata: true,
    unconditional_update: false,
};

const BASE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    fields: &[],
    hooks: &BUILT_IN,
    nature: Nature::Stored,
    create_on_update: false,
    generation: false,
    returns_deleted: false,
    id: 0,
};

const fn field(label: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { label, pointers, absent: "" }
}

/// Position of namespaces in [`KINDS`].
pub const NAMESPACES: usize = 0;
/// Position of nodes in [`KINDS`].
pub const NODES: usize = 1;
/// Position of pods in [`KINDS`].
pub const PODS: usize = 2;
/// Position of configmaps in [`KINDS`].
pub const CONFIGMAPS: usize = 3;
/// Position of secrets in [`KINDS`].
pub const SECRETS: usize = 4;
/// Position of serviceaccounts in [`KINDS`].
pub const SERVICEACCOUNTS: usize = 5;
/// Position of events in [`KINDS`].
pub const EVENTS: usize = 6;
/// Position of leases in [`KINDS`].
pub const LEASES: usize = 7;
/// Position of devices in [`KINDS`].
pub const DEVICES: usize = 14;
/// Position of devicestatuses in [`KINDS`].
pub const DEVICESTATUSES: usize = 16;
/// Position of roles in [`KINDS`].
pub const ROLES: usize = 20;
/// Position of clusterroles in [`KINDS`].
pub const CLUSTERROLES: usize = 21;
/// Position of rolebindings in [`KINDS`].
pub const ROLEBINDINGS: usize = 22;
/// Position of clusterrolebindings in [`KINDS`].
pub const CLUSTERROLEBINDINGS: usize = 23;

/// Every kind. Positions are only used inside one run: the store knows kinds by group and plural.
pub static KINDS: [Kind; 24] = [
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        subresources: &[Sub::Status],
        fields: &[field("status.phase", &["/status/phase"])],
        returns_deleted: true,
        id: NAMESPACES,
        ..BASE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        subresources: &[Sub::Status],
        fields: &[Field { label: "spec.unschedulable", pointers: &["/spec/unschedulable"], absent: "false" }],
        id: NODES,
        ..BASE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[Sub::Status, Sub::Binding, Sub::Eviction],
        fields: &[
            field("spec.nodeName", &["/spec/nodeName"]),
            field("status.phase", &["/status/phase"]),
            field("spec.restartPolicy", &["/spec/restartPolicy"]),
            field("spec.schedulerName", &["/spec/schedulerName"]),
            field("spec.serviceAccountName", &["/spec/serviceAccountName"]),
            Field { label: "spec.hostNetwork", pointers: &["/spec/hostNetwork"], absent: "false" },
            field("status.podIP", &["/status/podIP"]),
            field("status.nominatedNodeName", &["/status/nominatedNodeName"]),
        ],
        generation: true,
        returns_deleted: true,
        id: PODS,
        ..BASE
    },
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        id: CONFIGMAPS,
        ..BASE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        fields: &[field("type", &["/type"])],
        id: SECRETS,
        ..BASE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[Sub::Token],
        returns_deleted: true,
        id: SERVICEACCOUNTS,
        ..BASE
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        fields: &[
            field("involvedObject.kind", &["/involvedObject/kind"]),
            field("involvedObject.namespace", &["/involvedObject/namespace"]),
            field("involvedObject.name", &["/involvedObject/name"]),
            field("involvedObject.uid", &["/involvedObject/uid"]),
            field("involvedObject.apiVersion", &["/involvedObject/apiVersion"]),
            field("involvedObject.resourceVersion", &["/involvedObject/resourceVersion"]),
            field("involvedObject.fieldPath", &["/involvedObject/fieldPath"]),
            field("reason", &["/reason"]),
            field("reportingComponent", &["/reportingComponent"]),
            field("source", &["/source/component", "/reportingComponent"]),
            field("type", &["/type"]),
        ],
        create_on_update: true,
        id: EVENTS,
        ..BASE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        create_on_update: true,
        id: LEASES,
        ..BASE
    },
    Kind {
        group: "reliablesyncs.kubeedge.io",
        version: "v1alpha1",
        kind: "ObjectSync",
        plural: "objectsyncs",
        singular: "objectsync",
        subresources: &[Sub::Status],
        hooks: &SCHEMALESS,
        generation: true,
        id: 8,
        ..BASE
    },
    Kind {
        group: "reliablesyncs.kubeedge.io",
        version: "v1alpha1",
        kind: "ClusterObjectSync",
        plural: "clusterobjectsyncs",
        singular: "clusterobjectsync",
        namespaced: false,
        subresources: &[Sub::Status],
        hooks: &SCHEMALESS,
        generation: true,
        id: 9,
        ..BASE
    },
    review("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview", 10),
    review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", 11),
    review(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        12,
    ),
    review(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        13,
    ),
    Kind {
        fields: &[field("spec.nodeName", &["/spec/nodeName"])],
        ..device("Device", "devices", "device", &["dev"], DEVICES)
    },
    device("DeviceModel", "devicemodels", "devicemodel", &["devmodel"], 15),
    device("DeviceStatus", "devicestatuses", "devicestatus", &["devstatus"], DEVICESTATUSES),
    identity("WorkloadIdentity", "workloadidentities", "workloadidentity", &["wid"], 17),
    identity("ImagePolicy", "imagepolicies", "imagepolicy", &["imgpol"], 18),
    identity("TopicPolicy", "topicpolicies", "topicpolicy", &["tpol"], 19),
    rbac("Role", "roles", "role", ROLES),
    Kind { namespaced: false, ..rbac("ClusterRole", "clusterroles", "clusterrole", CLUSTERROLES) },
    rbac("RoleBinding", "rolebindings", "rolebinding", ROLEBINDINGS),
    Kind {
        namespaced: false,
        ..rbac("ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", CLUSTERROLEBINDINGS)
    },
];

const fn rbac(kind: &'static str, plural: &'static str, singular: &'static str, id: usize) -> Kind {
    Kind { group: crate::kube::rbac::GROUP, kind, plural, singular, create_on_update: true, id, ..BASE }
}

/// A kind of `config/crds/`. A test compares the two.
const fn device(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    id: usize,
) -> Kind {
    let (group, version) = ("devices.kubeedge.io", "v1beta1");
    Kind { group, version, kind, plural, singular, short_names, hooks: &CUSTOM, generation: true, id, ..BASE }
}

/// A kind of `config/crds/` too.
const fn identity(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    id: usize,
) -> Kind {
    let (group, version) = (IDENTITY_GROUP, "v1alpha1");
    Kind { group, version, kind, plural, singular, short_names, hooks: &CUSTOM, generation: true, id, ..BASE }
}

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    id: usize,
) -> Kind {
    Kind { group, kind, plural, singular, namespaced: false, nature: Nature::Review, id, ..BASE }
}

impl Kind {
    /// `v1`, `coordination.k8s.io/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, `leases.coordination.k8s.io`: the kind in messages and in store keys.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// May all objects of a place be deleted at once? Namespaces only one by one, as in Kubernetes.
    #[must_use]
    pub fn deletes_collections(&self) -> bool {
        self.id != NAMESPACES
    }

    #[must_use]
    pub fn has(&self, sub: Sub) -> bool {
        self.subresources.contains(&sub)
    }

    /// The values of [`Kind::fields`] in an object, in their order.
    #[must_use]
    pub fn field_values(&self, object: &Value) -> Box<[Box<str>]> {
        let text = |field: &Field| {
            let found = field.pointers.iter().find_map(|at| object.pointer(at).filter(|v| !v.is_null()));
            match found {
                Some(Value::String(text)) => text.as_str().into(),
                Some(other) => other.to_string().into(),
                None => field.absent.into(),
            }
        };
        self.fields.iter().map(text).collect()
    }
}

/// The kind served under this group, version and plural.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The groups and their versions, core first, in table order.
#[must_use]
pub fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = Vec::new();
    for kind in &KINDS {
        if !groups.contains(&(kind.group, kind.version)) {
            groups.push((kind.group, kind.version));
        }
    }
    groups
}

/// The kind at a position of [`KINDS`] that the constants above name.
#[must_use]
pub fn at(id: usize) -> &'static Kind {
    KINDS.get(id).unwrap_or(&BASE_KIND)
}

static BASE_KIND: Kind = BASE;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn positions_are_right() {
        for (position, kind) in KINDS.iter().enumerate() {
            assert_eq!(kind.id, position, "{}", kind.plural);
        }
        for (id, plural) in [
            (NAMESPACES, "namespaces"),
            (NODES, "nodes"),
            (PODS, "pods"),
            (CONFIGMAPS, "configmaps"),
            (SECRETS, "secrets"),
            (SERVICEACCOUNTS, "serviceaccounts"),
            (EVENTS, "events"),
            (LEASES, "leases"),
            (DEVICES, "devices"),
            (DEVICESTATUSES, "devicestatuses"),
            (ROLES, "roles"),
            (CLUSTERROLES, "clusterroles"),
            (ROLEBINDINGS, "rolebindings"),
            (CLUSTERROLEBINDINGS, "clusterrolebindings"),
        ] {
            assert_eq!(at(id).plural, plural);
        }
    }

    #[test]
    fn fields_have_values_when_absent() {
        let values = at(NODES).field_values(&json!({"spec": {}}));
        assert_eq!(&*values[0], "false");
        let values = at(PODS).field_values(&json!({"spec": {"nodeName": "n", "hostNetwork": true}}));
        assert_eq!((&*values[0], &*values[1], &*values[5]), ("n", "", "true"));
    }
}
