//! Nobody grants what he does not hold: which parts of some rules are not covered by others.

use std::fmt;

use super::rule::{Rule, has, resource_covers, url_covers};

/// The part of a rule that its author does not hold. Shown as kube-apiserver shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Rule);

/// What of `wanted` none of the `held` rules covers. Each wanted rule is taken apart to one verb on
/// one resource; a held rule must cover such a part alone.
#[must_use]
pub fn missing(held: &[&Rule], wanted: &[Rule]) -> Vec<Missing> {
    let mut missing = Vec::new();
    for rule in wanted {
        for part in parts(rule) {
            if !held.iter().any(|own| covers(own, &part)) && !missing.contains(&Missing(part.clone())) {
                missing.push(Missing(part));
            }
        }
    }
    missing
}

/// One verb on one resource of one group with at most one name, or one verb on one URL.
fn parts(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part = Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                    continue;
                }
                parts.extend(
                    rule.resource_names.iter().map(|name| Rule { resource_names: one(name), ..part.clone() }),
                );
            }
        }
        parts.extend(rule.non_resource_urls.iter().map(|url| Rule {
            verbs: one(verb),
            non_resource_urls: one(url),
            ..Rule::default()
        }));
    }
    parts
}

fn covers(own: &Rule, part: &Rule) -> bool {
    let resource = |wanted: &String| {
        let (plural, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
        own.resources.iter().any(|own| own == wanted || resource_covers(own, plural, sub))
    };
    part.verbs.iter().all(|verb| has(&own.verbs, verb))
        && part.api_groups.iter().all(|group| has(&own.api_groups, group))
        && part.resources.iter().all(resource)
        && part
            .non_resource_urls
            .iter()
            .all(|url| own.non_resource_urls.iter().any(|own| url_covers(own, url)))
        && (own.resource_names.is_empty()
            || !part.resource_names.is_empty()
                && part.resource_names.iter().all(|name| own.resource_names.contains(name)))
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("APIGroups", &self.0.api_groups),
            ("Resources", &self.0.resources),
            ("ResourceNames", &self.0.resource_names),
            ("NonResourceURLs", &self.0.non_resource_urls),
            ("Verbs", &self.0.verbs),
        ];
        f.write_str("{")?;
        let mut before = "";
        for (name, list) in fields.into_iter().filter(|(_, list)| !list.is_empty()) {
            write!(f, "{before}{name}:{list:?}")?;
            before = ", ";
        }
        f.write_str("}")
    }
}
