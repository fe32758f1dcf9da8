//! How the lists of each kind merge: the patchStrategy and patchMergeKey marks of the Kubernetes
//! API types (`x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key` in its OpenAPI).
//!
//! A new kind is one line in [`shape_of`] and a line per list that does not simply replace.

/// The fields of a map that have something to say; all others hold plain values.
#[derive(Debug)]
pub struct Shape(&'static [(&'static str, Field)]);

/// One field.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// What to do with a list.
    pub list: List,
    /// Shape of the map, or of the list's elements.
    pub shape: &'static Shape,
}

/// How a list in a patch meets the one in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// The patch's list replaces it.
    Replace,
    /// Elements are maps, matched by the value of this key.
    ByKey(&'static str),
    /// Elements are scalars, merged as a set.
    Set,
}

static PLAIN: Shape = Shape(&[]);

impl Shape {
    /// What is known about a field; a plain value if nothing is.
    pub fn field(&self, name: &str) -> Field {
        let known = self.0.iter().find(|(field, _)| *field == name).map(|(_, field)| *field);
        known.unwrap_or(Field { list: List::Replace, shape: &PLAIN })
    }
}

/// The shape of a kind; of an unknown kind only the metadata is known.
pub fn shape_of(kind: &str) -> &'static Shape {
    match kind {
        "Pod" => &POD,
        "Node" => &NODE,
        "Namespace" => &NAMESPACE,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        "PodTemplate" => &POD_TEMPLATE_KIND,
        _ => &OBJECT,
    }
}

const fn map(shape: &'static Shape) -> Field {
    Field { list: List::Replace, shape }
}

const fn by_key(key: &'static str) -> Field {
    by_key_of(key, &PLAIN)
}

const fn by_key_of(key: &'static str, shape: &'static Shape) -> Field {
    Field { list: List::ByKey(key), shape }
}

const fn set() -> Field {
    Field { list: List::Set, shape: &PLAIN }
}

static META: Shape = Shape(&[("ownerReferences", by_key("uid")), ("finalizers", set())]);
static OBJECT: Shape = Shape(&[("metadata", map(&META))]);

static POD: Shape =
    Shape(&[("metadata", map(&META)), ("spec", map(&POD_SPEC)), ("status", map(&POD_STATUS))]);
static POD_SPEC: Shape = Shape(&[
    ("containers", by_key_of("name", &CONTAINER)),
    ("initContainers", by_key_of("name", &CONTAINER)),
    ("ephemeralContainers", by_key_of("name", &CONTAINER)),
    ("volumes", by_key("name")),
    ("imagePullSecrets", by_key("name")),
    ("hostAliases", by_key("ip")),
    ("topologySpreadConstraints", by_key("topologyKey")),
    ("resourceClaims", by_key("name")),
    ("schedulingGates", by_key("name")),
]);
static CONTAINER: Shape = Shape(&[
    ("env", by_key("name")),
    ("ports", by_key("containerPort")),
    ("volumeMounts", by_key("mountPath")),
    ("volumeDevices", by_key("devicePath")),
]);
static POD_STATUS: Shape =
    Shape(&[("conditions", by_key("type")), ("podIPs", by_key("ip")), ("hostIPs", by_key("ip"))]);
/// `spec.template` of workloads and jobs.
static POD_TEMPLATE: Shape = Shape(&[("metadata", map(&META)), ("spec", map(&POD_SPEC))]);
static POD_TEMPLATE_KIND: Shape = Shape(&[("metadata", map(&META)), ("template", map(&POD_TEMPLATE))]);

static NODE: Shape =
    Shape(&[("metadata", map(&META)), ("spec", map(&NODE_SPEC)), ("status", map(&NODE_STATUS))]);
static NODE_SPEC: Shape = Shape(&[("podCIDRs", set())]);
static NODE_STATUS: Shape = Shape(&[("conditions", by_key("type")), ("addresses", by_key("type"))]);

static NAMESPACE: Shape = Shape(&[("metadata", map(&META)), ("status", map(&CONDITIONS))]);
static CONDITIONS: Shape = Shape(&[("conditions", by_key("type"))]);

static SERVICE_ACCOUNT: Shape = Shape(&[("metadata", map(&META)), ("secrets", by_key("name"))]);
