//! The only parser and printer of KubeEdge's resource paths (protocol section 3).

use std::fmt;

use super::DeviceId;

/// Names one Kubernetes object on the wire: `{namespace|null}/{kind}[/{name}]`.
///
/// `kind` is KubeEdge's lower-case singular word (`pod`, `configmap`, `podpatch`, `nodepatch`,
/// `lease`, ...), kept as text so that kinds we do not know survive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// `None` is printed as the literal `null` (cluster-scoped objects).
    pub namespace: Option<String>,
    pub kind: String,
    /// Absent in lists such as `default/pod`.
    pub name: Option<String>,
}

impl ObjectKey {
    #[must_use]
    pub fn namespaced(namespace: &str, kind: &str, name: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), kind: kind.to_owned(), name: Some(name.to_owned()) }
    }

    #[must_use]
    pub fn cluster(kind: &str, name: &str) -> Self {
        Self { namespace: None, kind: kind.to_owned(), name: Some(name.to_owned()) }
    }

    /// The same object under another wire kind: a pod's `podpatch`, a node's `nodepatch`.
    #[must_use]
    pub fn with_kind(&self, kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..self.clone() }
    }

    /// Empty when the key names a list.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Empty for cluster-scoped objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace.as_deref().unwrap_or("null"), self.kind)?;
        match &self.name {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

/// What a message is about. Parsing never fails: what fits no known shape is [`Resource::Other`],
/// and printing gives back the exact text that was parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `default/pod/nginx`, `null/node/edge1`, `default/pod`.
    Object(ObjectKey),
    /// `device/{namespace}/{name}/twin/edge_updated`.
    DeviceTwin { namespace: String, name: String },
    /// `device/{namespace}/{name}/state/update`.
    DeviceState { namespace: String, name: String },
    /// `membership`.
    Membership,
    /// `membership/detail`.
    MembershipDetail,
    /// `twin`: the cloud's confirmation of twin and state updates.
    Twin,
    /// `node`: keepalive.
    Keepalive,
    /// `k8s/ca.crt`.
    ClusterCa,
    /// `identity/renewal`: a node renews its certificates over the session (ours, design D8).
    IdentityRenewal,
    /// `node/report`: an edge says how it does (ours).
    NodeReport,
    /// MQTT topics, URLs, jobs, MetaServer paths and whatever the future brings.
    Other(String),
}

impl Resource {
    /// Parses the wire form (without the cloud-internal `node/{node}/` prefix).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let other = || Self::Other(text.to_owned());
        match text {
            "membership" => return Self::Membership,
            "membership/detail" => return Self::MembershipDetail,
            "twin" => return Self::Twin,
            "node" => return Self::Keepalive,
            "k8s/ca.crt" => return Self::ClusterCa,
            "identity/renewal" => return Self::IdentityRenewal,
            "node/report" => return Self::NodeReport,
            _ => {}
        }
        let mut parts = text.split('/');
        let (first, second, third) = (parts.next(), parts.next(), parts.next());
        let (fourth, fifth, rest) = (parts.next(), parts.next(), parts.next());
        match (first, second, third, fourth, fifth, rest) {
            (Some("device"), Some(ns), Some(name), Some("twin"), Some("edge_updated"), None)
                if !ns.is_empty() && !name.is_empty() =>
            {
                Self::DeviceTwin { namespace: ns.to_owned(), name: name.to_owned() }
            }
            (Some("device"), Some(ns), Some(name), Some("state"), Some("update"), None)
                if !ns.is_empty() && !name.is_empty() =>
            {
                Self::DeviceState { namespace: ns.to_owned(), name: name.to_owned() }
            }
            (Some(ns), Some(kind), name, None, None, None) if is_kind(kind) && is_namespace(ns) => {
                if name.is_some_and(|name| !is_name(name)) {
                    return other();
                }
                Self::Object(ObjectKey {
                    namespace: (ns != "null").then(|| ns.to_owned()),
                    kind: kind.to_owned(),
                    name: name.map(str::to_owned),
                })
            }
            _ => other(),
        }
    }

    /// The device of `device/{namespace}/{name}/twin/cloud_updated` (protocol section 7.2), whatever
    /// the first word is.
    #[must_use]
    pub fn cloud_updated(&self) -> Option<DeviceId> {
        let Self::Other(text) = self else { return None };
        let id = text.strip_suffix("/twin/cloud_updated")?.split_once('/')?.1;
        DeviceId::parse(id)
    }

    /// The object key, if this is one.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectKey> {
        match self {
            Self::Object(key) => Some(key),
            _ => None,
        }
    }
}

/// KubeEdge's kinds are lower-case words: a topic such as `sensors/T1/x` is not an object.
fn is_kind(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_lowercase())
}

/// Namespaces are DNS labels: a port such as `8080:` is none.
fn is_namespace(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

/// Names become parts of URL paths: nothing in them may lead out of their part.
fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | ':' | '_' | '@' | '~' | '+' | '=');
    !text.is_empty() && text != "." && text != ".." && text.chars().all(legal)
}

impl From<ObjectKey> for Resource {
    fn from(key: ObjectKey) -> Self {
        Self::Object(key)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(key) => key.fmt(f),
            Self::DeviceTwin { namespace, name } => write!(f, "device/{namespace}/{name}/twin/edge_updated"),
            Self::DeviceState { namespace, name } => write!(f, "device/{namespace}/{name}/state/update"),
            Self::Membership => f.write_str("membership"),
            Self::MembershipDetail => f.write_str("membership/detail"),
            Self::Twin => f.write_str("twin"),
            Self::Keepalive => f.write_str("node"),
            Self::ClusterCa => f.write_str("k8s/ca.crt"),
            Self::IdentityRenewal => f.write_str("identity/renewal"),
            Self::NodeReport => f.write_str("node/report"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(namespace: Option<&str>, kind: &str, name: Option<&str>) -> Resource {
        Resource::Object(ObjectKey {
            namespace: namespace.map(str::to_owned),
            kind: kind.to_owned(),
            name: name.map(str::to_owned),
        })
    }

    /// The shapes of protocol section 3, in its order.
    #[test]
    fn wire_shapes() {
        let other = |text: &str| Resource::Other(text.to_owned());
        let device = || ("default".to_owned(), "sensor-1".to_owned());
        let ((namespace, name), (ns2, name2)) = (device(), device());
        for (text, want) in [
            ("default/pod/nginx", object(Some("default"), "pod", Some("nginx"))),
            ("default/podlist", object(Some("default"), "podlist", None)),
            ("default/podpatch/nginx", object(Some("default"), "podpatch", Some("nginx"))),
            ("default/podstatus", object(Some("default"), "podstatus", None)),
            ("default/configmap/a.b", object(Some("default"), "configmap", Some("a.b"))),
            ("default/secret/s", object(Some("default"), "secret", Some("s"))),
            ("ns/serviceaccounttoken/sa", object(Some("ns"), "serviceaccounttoken", Some("sa"))),
            ("null/node/edge1", object(None, "node", Some("edge1"))),
            ("null/nodepatch/edge1", object(None, "nodepatch", Some("edge1"))),
            ("default/nodestatus/e", object(Some("default"), "nodestatus", Some("e"))),
            ("default/pod", object(Some("default"), "pod", None)),
            ("kube-node-lease/lease/edge1", object(Some("kube-node-lease"), "lease", Some("edge1"))),
            ("default/event/nginx.17a", object(Some("default"), "event", Some("nginx.17a"))),
            ("null/persistentvolume/pv", object(None, "persistentvolume", Some("pv"))),
            ("default/device/sensor-1", object(Some("default"), "device", Some("sensor-1"))),
            ("default/devicemodel/m", object(Some("default"), "devicemodel", Some("m"))),
            ("k8s/ca.crt", Resource::ClusterCa),
            ("identity/renewal", Resource::IdentityRenewal),
            ("node/report", Resource::NodeReport),
            ("membership", Resource::Membership),
            ("membership/detail", Resource::MembershipDetail),
            ("device/default/sensor-1/twin/edge_updated", Resource::DeviceTwin { namespace, name }),
            ("device/default/sensor-1/state/update", Resource::DeviceState { namespace: ns2, name: name2 }),
            ("twin", Resource::Twin),
            ("node", Resource::Keepalive),
            ("null", other("null")),
            ("ignore/Application/ignore", other("ignore/Application/ignore")),
            ("task/t1/node/edge1", other("task/t1/node/edge1")),
            (
                "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/n",
                other("operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/n"),
            ),
            ("8080:/path", other("8080:/path")),
            ("", other("")),
            ("/", other("/")),
            ("default/pod/", other("default/pod/")),
            ("/pod/nginx", other("/pod/nginx")),
            ("default//nginx", other("default//nginx")),
            ("default/pod/a/b", other("default/pod/a/b")),
            ("device//sensor-1/state/update", other("device//sensor-1/state/update")),
        ] {
            let got = Resource::parse(text);
            assert_eq!(got, want, "{text}");
            assert_eq!(got.to_string(), text);
        }
    }

    #[test]
    fn cloud_updated_names_a_device() {
        let of = |text: &str| Resource::parse(text).cloud_updated().map(|id| id.to_string());
        assert_eq!(of("device/default/s/twin/cloud_updated").as_deref(), Some("default/s"));
        assert_eq!(of("x/default/s/twin/cloud_updated").as_deref(), Some("default/s"));
        for text in [
            "device/s/twin/cloud_updated",
            "default/s/twin/cloud_updated",
            "device/a/b/c/twin/cloud_updated",
            "twin/cloud_updated",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn printing_gives_back_what_was_parsed(text in "(null|default|device|node|k8s|[a-z]{0,3})(/([a-z]{0,6}|T1|null|twin|state|update|edge_updated)){0,6}|.*") {
            prop_assert_eq!(Resource::parse(&text).to_string(), text);
        }

        #[test]
        fn keys_come_back(ns in proptest::option::of("[a-z0-9-]{1,8}"), kind in "[a-z]{1,12}", name in "[a-z0-9][a-z0-9.:-]{0,11}") {
            prop_assume!(ns.as_deref() != Some("null"));
            prop_assume!((ns.as_deref(), kind.as_str()) != (Some("node"), "report"));
            let key = ObjectKey { namespace: ns, kind, name: Some(name) };
            let parsed = Resource::parse(&key.to_string());
            prop_assert_eq!(parsed.object(), Some(&key));
        }
    }
}
