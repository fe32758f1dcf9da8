//! Roles and bindings, found by subject: what is looked at for one request are the bindings that
//! name its user or one of its groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::rule::{Ask, Rule, rules_of};
use super::service_account_user;

/// Who asks: names as bindings name them.
#[derive(Debug, Clone, Copy)]
pub struct Subjects<'a> {
    pub user: &'a str,
    pub groups: &'a [String],
}

/// Namespace and name; the namespace is empty for what belongs to the cluster.
type Place = (Arc<str>, Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Binding {
    /// A Role of the binding's namespace, or a ClusterRole (no namespace).
    role: Place,
    users: BTreeSet<Arc<str>>,
    groups: BTreeSet<Arc<str>>,
}

/// Rules by the name of their role.
type Roles = HashMap<Arc<str>, Arc<[Rule]>>;

/// Bindings by place.
type Named = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Access {
    /// By namespace.
    roles: HashMap<Arc<str>, Roles>,
    bindings: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Binding>>,
    by_user: HashMap<Arc<str>, Named>,
    by_group: HashMap<Arc<str>, Named>,
}

impl Access {
    /// Takes a new or changed object of one of the four kinds; others are ignored.
    pub fn put(&mut self, kind: &str, object: &Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        match kind {
            "Role" | "ClusterRole" => {
                let names = self.roles.entry(namespace.into()).or_default();
                names.insert(name.into(), rules_of(object).into());
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                self.forget(namespace, name);
                self.bind(namespace, name, Binding::read(namespace, object));
            }
            _ => {}
        }
    }

    /// Takes an object away.
    pub fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        match kind {
            "Role" | "ClusterRole" => {
                if let Some(names) = self.roles.get_mut(namespace) {
                    names.remove(name);
                    if names.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            }
            "RoleBinding" | "ClusterRoleBinding" => self.forget(namespace, name),
            _ => {}
        }
    }

    fn bind(&mut self, namespace: &str, name: &str, binding: Binding) {
        let (namespace, name): Place = (namespace.into(), name.into());
        for (subjects, index) in [(&binding.users, &mut self.by_user), (&binding.groups, &mut self.by_group)]
        {
            for subject in subjects {
                let named = index.entry(Arc::clone(subject)).or_default();
                named.entry(Arc::clone(&namespace)).or_default().insert(Arc::clone(&name));
            }
        }
        self.bindings.entry(namespace).or_default().insert(name, binding);
    }

    fn forget(&mut self, namespace: &str, name: &str) {
        let Some(names) = self.bindings.get_mut(namespace) else { return };
        let Some(binding) = names.remove(name) else { return };
        if names.is_empty() {
            self.bindings.remove(namespace);
        }
        for (subjects, index) in [(&binding.users, &mut self.by_user), (&binding.groups, &mut self.by_group)]
        {
            for subject in subjects {
                let Some(named) = index.get_mut(subject) else { continue };
                if let Some(names) = named.get_mut(namespace) {
                    names.remove(name);
                    if names.is_empty() {
                        named.remove(namespace);
                    }
                }
                if named.is_empty() {
                    index.remove(subject);
                }
            }
        }
    }

    /// Does some rule allow it?
    #[must_use]
    pub fn allows(&self, who: Subjects<'_>, ask: &Ask<'_>) -> bool {
        self.rules_for(who, ask.namespace()).any(|rule| rule.allows(ask))
    }

    /// Every rule that counts for somebody in a namespace (empty: for the whole cluster). Rules may
    /// come more than once.
    pub fn rules_for<'a>(&'a self, who: Subjects<'a>, namespace: &'a str) -> impl Iterator<Item = &'a Rule> {
        let users = self.by_user.get(who.user).into_iter();
        let groups = who.groups.iter().filter_map(|group| self.by_group.get(&**group));
        users.chain(groups).flat_map(move |named| {
            let places = if namespace.is_empty() { [Some(""), None] } else { [Some(""), Some(namespace)] };
            places.into_iter().flatten().flat_map(move |place| {
                let names = named.get(place).into_iter().flatten();
                names.flat_map(move |name| self.rules_of_binding(place, name))
            })
        })
    }

    fn rules_of_binding(&self, namespace: &str, name: &str) -> &[Rule] {
        let binding = self.bindings.get(namespace).and_then(|names| names.get(name));
        binding.and_then(|binding| self.role(&binding.role.0, &binding.role.1)).unwrap_or(&[])
    }

    /// The rules of a role; a ClusterRole has no namespace. `None`: there is no such role.
    #[must_use]
    pub fn role(&self, namespace: &str, name: &str) -> Option<&[Rule]> {
        self.roles.get(namespace)?.get(name).map(|rules| &**rules)
    }
}

impl Binding {
    fn read(namespace: &str, object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        // A ClusterRoleBinding names a ClusterRole, whatever it says.
        let of = if text("/roleRef/kind") == "Role" { namespace } else { "" };
        let mut binding = Self {
            role: (of.into(), text("/roleRef/name").into()),
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
        };
        for subject in object.get("subjects").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
            match text("kind") {
                "User" => drop(binding.users.insert(text("name").into())),
                "Group" => drop(binding.groups.insert(text("name").into())),
                "ServiceAccount" => {
                    let user = service_account_user(text("namespace"), text("name"));
                    binding.users.insert(user.into());
                }
                _ => {}
            }
        }
        binding
    }
}
