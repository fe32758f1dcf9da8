//! One rule of a role, and whether it allows what is asked for.

use serde::Deserialize;
use serde_json::Value;

/// `PolicyRule`: a list that is absent is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    /// Empty: every name.
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

/// What somebody asks to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    Resource(ResourceAsk<'a>),
    /// A path that is no resource, such as `/version`; the verb is the HTTP method in small letters.
    Path {
        verb: &'a str,
        path: &'a str,
    },
}

/// A verb on a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResourceAsk<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// Plural, without its subresource.
    pub resource: &'a str,
    /// Empty: the object itself.
    pub subresource: &'a str,
    /// Empty: cluster-scoped, or all namespaces.
    pub namespace: &'a str,
    /// Empty: a collection, or a name that is not known yet.
    pub name: &'a str,
}

impl Ask<'_> {
    /// Where it happens; empty for the whole cluster.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Ask::Resource(ask) => ask.namespace,
            Ask::Path { .. } => "",
        }
    }
}

impl Rule {
    #[must_use]
    pub fn allows(&self, ask: &Ask<'_>) -> bool {
        match ask {
            Ask::Path { verb, path } => {
                has(&self.verbs, verb) && self.non_resource_urls.iter().any(|own| url_covers(own, path))
            }
            Ask::Resource(ask) => {
                has(&self.verbs, ask.verb)
                    && has(&self.api_groups, ask.group)
                    && self.resources.iter().any(|own| resource_covers(own, ask.resource, ask.subresource))
                    && (self.resource_names.is_empty()
                        || self.resource_names.iter().any(|own| own == ask.name))
            }
        }
    }
}

/// `*` or the word itself.
pub(super) fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|own| own == "*" || own == word)
}

/// `*` is everything, `pods` pods without their subresources, `pods/log` that subresource, and
/// `*/scale` that subresource of everything.
pub(super) fn resource_covers(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    }
}

/// A `*` at the end stands for any rest.
pub(super) fn url_covers(own: &str, path: &str) -> bool {
    own == path || own.ends_with('*') && path.starts_with(own.trim_end_matches('*'))
}

/// The rules of a Role or ClusterRole. Rules that cannot be read give nothing.
#[must_use]
pub fn rules_of(role: &Value) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    rules.iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}
