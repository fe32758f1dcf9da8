//! May an image run in a namespace? Pure: `(policies, what is known of the image) -> decision`.

use std::collections::BTreeSet;

use crate::model::identity::{ImagePolicy, ImageRule, PolicyMode};

/// Registry of names that give none, and the folder of its own images.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_FOLDER: &str = "library/";
/// Rules that a refusal explains one by one.
const EXPLAINED: usize = 4;

/// What is known of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// [`repository`] of the name in the pod's spec; `None` when that is an id.
    pub repository: Option<String>,
    /// Repositories under which the runtime has it.
    pub repositories: BTreeSet<String>,
    /// Of its manifest, and of indexes that hold it.
    pub digests: Vec<String>,
    /// Those of the policies' keys (PEM, as written) with which it is signed.
    pub signed_by: BTreeSet<String>,
}

/// Why a policy does not allow an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `namespace/name`.
    pub policy: String,
    /// Rule by rule.
    pub why: String,
}

/// The outcome: an image runs if nothing is `denied`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    pub denied: Option<Finding>,
    /// Policies in mode warn that would have refused it.
    pub warned: Vec<Finding>,
}

/// Every policy of the namespace must allow the image; one in mode warn only says that it does not.
#[must_use]
pub fn decide(policies: &[ImagePolicy], namespace: &str, facts: &Facts) -> Decision {
    let mut decision = Decision::default();
    for policy in of(policies, namespace) {
        if policy.allow.iter().any(|rule| refusal(rule, facts).is_none()) {
            continue;
        }
        let policy_name = format!("{}/{}", policy.namespace, policy.name);
        let finding = Finding { policy: policy_name, why: explain(&policy.allow, facts) };
        match policy.mode {
            PolicyMode::Warn => decision.warned.push(finding),
            PolicyMode::Enforce if decision.denied.is_none() => decision.denied = Some(finding),
            PolicyMode::Enforce => {}
        }
    }
    decision
}

/// The policies of one namespace.
pub fn of<'a>(policies: &'a [ImagePolicy], namespace: &'a str) -> impl Iterator<Item = &'a ImagePolicy> {
    policies.iter().filter(move |policy| policy.namespace == namespace)
}

/// The cosign keys that the namespace's rules name, each once.
#[must_use]
pub fn keys(policies: &[ImagePolicy], namespace: &str) -> BTreeSet<String> {
    of(policies, namespace).flat_map(|p| &p.allow).filter_map(|rule| rule.cosign_key.clone()).collect()
}

fn explain(rules: &[ImageRule], facts: &Facts) -> String {
    if rules.is_empty() {
        return "it has no rules and so allows nothing".to_owned();
    }
    let reasons = rules
        .iter()
        .zip(1_usize..)
        .take(EXPLAINED)
        .filter_map(|(rule, number)| refusal(rule, facts).map(|why| format!("rule {number}: {why}")));
    let mut text = reasons.collect::<Vec<_>>().join("; ");
    if rules.len() > EXPLAINED {
        text.push_str(&format!("; and {} more rules", rules.len().saturating_sub(EXPLAINED)));
    }
    text
}

/// Why a rule does not allow the image; `None` when it does.
fn refusal(rule: &ImageRule, facts: &Facts) -> Option<String> {
    if *rule == ImageRule::default() {
        return Some("it is empty".to_owned());
    }
    if let Some(registry) = &rule.registry {
        match &facts.repository {
            None => return Some(format!("an image by its id is not from {registry}")),
            Some(repository) if !below(repository, registry) => {
                return Some(format!("{repository} is not from {registry}"));
            }
            // A short id can look like a name: then the runtime has the image under other names.
            Some(repository) if !facts.repositories.contains(repository) => {
                return Some(format!("the runtime does not have this image as {repository}"));
            }
            Some(_) => {}
        }
    }
    if let Some(digest) = &rule.digest
        && !facts.digests.contains(digest)
    {
        let is = if facts.digests.is_empty() { "unknown".to_owned() } else { facts.digests.join(", ") };
        return Some(format!("its digest is {is}, not {digest}"));
    }
    match &rule.cosign_key {
        Some(key) if !facts.signed_by.contains(key) => {
            Some("no attached signature verifies with its key".into())
        }
        _ => None,
    }
}

/// Is a repository `registry` or below it?
fn below(repository: &str, registry: &str) -> bool {
    let registry = registry.trim_end_matches('/');
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let host = if host == "index.docker.io" { DEFAULT_REGISTRY } else { host };
    let (own_host, own_path) = repository.split_once('/').unwrap_or((repository, ""));
    let inside = own_path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    !host.is_empty() && host == own_host && (path.is_empty() || inside)
}

/// `host/path` of an image name without tag and digest, completed as Docker does (`busybox` is
/// `docker.io/library/busybox`). `None` for ids and for what is no name.
#[must_use]
pub fn repository(image: &str) -> Option<String> {
    let name = image.split('@').next().unwrap_or_default();
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit());
    if hex(name) || name.strip_prefix("sha256:").is_some_and(hex) {
        return None;
    }
    let is_host =
        |part: &str| part.contains(['.', ':']) || part == "localhost" || part != part.to_lowercase();
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    let last = path.rfind('/').map_or(0, |at| at.saturating_add(1));
    let tag = path.get(last..).and_then(|end| end.find(':')).map(|at| last.saturating_add(at));
    let path = path.get(..tag.unwrap_or(path.len())).unwrap_or_default();
    let host = if host == "index.docker.io" { DEFAULT_REGISTRY } else { host };
    let folder = if host == DEFAULT_REGISTRY && !path.contains('/') { DEFAULT_FOLDER } else { "" };
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    let part = |part: &str| !part.is_empty() && !matches!(part, "." | "..") && part.bytes().all(legal);
    path.split('/').all(part).then(|| format!("{host}/{folder}{path}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const OTHER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn rule(registry: &str, digest: &str, key: &str) -> ImageRule {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        ImageRule { registry: some(registry), digest: some(digest), cosign_key: some(key) }
    }

    fn policy(name: &str, mode: PolicyMode, allow: Vec<ImageRule>) -> ImagePolicy {
        ImagePolicy { namespace: "shop".into(), name: name.into(), mode, allow }
    }

    fn facts() -> Facts {
        let repository = "registry.local/shop/web".to_owned();
        Facts {
            repositories: [repository.clone()].into(),
            repository: Some(repository),
            digests: vec![DIGEST.into()],
            signed_by: ["KEY".to_owned()].into(),
        }
    }

    #[test]
    fn names() {
        for (image, want) in [
            ("busybox", Some("docker.io/library/busybox")),
            ("busybox:1.36", Some("docker.io/library/busybox")),
            ("acme/web", Some("docker.io/acme/web")),
            ("docker.io/busybox", Some("docker.io/library/busybox")),
            ("index.docker.io/acme/web:2", Some("docker.io/acme/web")),
            ("localhost/web", Some("localhost/web")),
            ("localhost:5000/a/b/web:1", Some("localhost:5000/a/b/web")),
            ("registry.local/web:1@sha256:aa", Some("registry.local/web")),
            ("10.0.0.1:5000/web", Some("10.0.0.1:5000/web")),
            (DIGEST, None),
            (&DIGEST[7..], None),
            ("registry.local/good/../evil", None),
            ("registry.local//web", None),
            ("registry.local/", None),
            ("", None),
        ] {
            assert_eq!(repository(image).as_deref(), want, "{image}");
        }
    }

    #[test]
    fn one_rule() {
        let unnamed = Facts { repository: None, ..facts() };
        let by_short_id = Facts { repositories: ["registry.local/other".to_owned()].into(), ..facts() };
        let unsigned = Facts { signed_by: BTreeSet::new(), ..facts() };
        for (case, rule, facts, want) in [
            ("host", rule("registry.local", "", ""), facts(), None),
            ("host and path", rule("registry.local/shop", "", ""), facts(), None),
            ("the whole name", rule("registry.local/shop/web/", "", ""), facts(), None),
            (
                "half a path part",
                rule("registry.local/sho", "", ""),
                facts(),
                Some("is not from registry.local/sho"),
            ),
            ("another host", rule("registry.local.evil", "", ""), facts(), Some("is not from")),
            ("a longer name", rule("registry.local/shop/web/x", "", ""), facts(), Some("is not from")),
            ("no host", rule("/", "", ""), facts(), Some("is not from")),
            ("an id", rule("registry.local", "", ""), unnamed, Some("by its id")),
            ("a short id", rule("registry.local", "", ""), by_short_id, Some("does not have this image as")),
            ("digest", rule("", DIGEST, ""), facts(), None),
            ("another digest", rule("", OTHER, ""), facts(), Some("its digest is sha256:aaaa")),
            ("key", rule("", "", "KEY"), facts(), None),
            ("unsigned", rule("", "", "KEY"), unsigned.clone(), Some("no attached signature")),
            ("all", rule("registry.local", DIGEST, "KEY"), facts(), None),
            ("all but one", rule("registry.local", DIGEST, "KEY"), unsigned, Some("no attached signature")),
            ("nothing", ImageRule::default(), facts(), Some("empty")),
        ] {
            let got = refusal(&rule, &facts);
            match (&got, want) {
                (None, None) => {}
                (Some(why), Some(part)) if why.contains(part) => {}
                _ => panic!("{case}: {got:?}"),
            }
        }
    }

    #[test]
    fn policies_together() {
        use PolicyMode::{Enforce, Warn};
        let yes = || rule("registry.local", "", "");
        let no = || rule("elsewhere.example", "", "");
        for (case, policies, denied, warned) in [
            ("none", vec![], None, 0),
            ("allowed", vec![policy("a", Enforce, vec![no(), yes()])], None, 0),
            ("no rules", vec![policy("a", Enforce, vec![])], Some("shop/a"), 0),
            (
                "each must allow",
                vec![policy("a", Enforce, vec![yes()]), policy("b", Enforce, vec![no()])],
                Some("shop/b"),
                0,
            ),
            ("warned", vec![policy("a", Warn, vec![no()])], None, 1),
            (
                "both",
                vec![policy("a", Warn, vec![no()]), policy("b", Enforce, vec![no()])],
                Some("shop/b"),
                1,
            ),
        ] {
            let decision = decide(&policies, "shop", &facts());
            assert_eq!(decision.denied.as_ref().map(|found| found.policy.as_str()), denied, "{case}");
            assert_eq!(decision.warned.len(), warned, "{case}");
            assert_eq!(
                decide(&policies, "other", &facts()),
                Decision::default(),
                "{case}: another namespace"
            );
        }
        let many = policy("a", Enforce, vec![no(), no(), no(), no(), no(), no()]);
        let why = decide(&[many], "shop", &facts()).denied.expect("denied").why;
        assert!(why.starts_with("rule 1: ") && why.ends_with("; and 2 more rules"), "{why}");
    }

    fn any_rule() -> impl Strategy<Value = ImageRule> {
        let registry =
            proptest::option::of(prop_oneof![Just("registry.local"), Just("evil.example"), Just("")]);
        let digest = proptest::option::of(prop_oneof![Just(DIGEST), Just(OTHER)]);
        let key = proptest::option::of(prop_oneof![Just("KEY"), Just("OTHER KEY")]);
        (registry, digest, key).prop_map(|(registry, digest, key)| ImageRule {
            registry: registry.map(str::to_owned),
            digest: digest.map(str::to_owned),
            cosign_key: key.map(str::to_owned),
        })
    }

    proptest! {
        /// More policies never allow more, more rules never allow less, and nothing known of an
        /// image never satisfies anything.
        #[test]
        fn monotone(
            lists in proptest::collection::vec(proptest::collection::vec(any_rule(), 0..4), 1..4),
            more in any_rule(),
        ) {
            let policies: Vec<ImagePolicy> =
                lists.iter().map(|rules| policy("p", PolicyMode::Enforce, rules.clone())).collect();
            let allowed = |policies: &[ImagePolicy], facts: &Facts| decide(policies, "shop", facts).denied.is_none();
            if allowed(&policies, &facts()) {
                for count in 0..policies.len() {
                    prop_assert!(allowed(&policies[..count], &facts()));
                }
                let mut wider = policies.clone();
                wider[0].allow.push(more);
                prop_assert!(allowed(&wider, &facts()));
            }
            prop_assert!(!allowed(&policies, &Facts::default()));
        }

        #[test]
        fn any_name(image in ".{0,80}") {
            if let Some(name) = repository(&image) {
                prop_assert_eq!(repository(&name), Some(name.clone()), "complete names stay");
                prop_assert!(name.split('/').count() >= 2 && !name.contains(['@', '\n']), "{}", name);
            }
        }
    }
}
