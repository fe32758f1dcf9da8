//! Nobody grants what he does not hold: which parts of some rules are not covered by others.

use std::fmt;

use super::rule::{Rule, has, resource_covers, url_covers};

/// The part of a rule that its author does not hold. Shown as kube-apiserver shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Rule);

/// Missing parts that are told; who asks for everything need not read all of it.
const MAX_MISSING: usize = 100;
/// Words compared: four lists of some thousand words would be more parts than there is memory for, and nobody
/// else is served meanwhile.
const MAX_LOOKS: usize = 20_000_000;

/// What of `wanted` none of the `held` rules covers. Each wanted rule is taken apart to one verb on
/// one resource; a held rule must cover such a part alone. A rule with more parts than can be looked at is
/// missing as a whole, unless one held rule covers all of it.
#[must_use]
pub fn missing(held: &[&Rule], wanted: &[Rule]) -> Vec<Missing> {
    let mut missing: Vec<Missing> = Vec::new();
    let held_words = held.iter().map(|own| size(own)).sum::<usize>().max(1);
    let mut looks = MAX_LOOKS;
    let mut afford = |times: Option<usize>| {
        let left = times.and_then(|times| times.checked_mul(held_words)).and_then(|it| looks.checked_sub(it));
        left.inspect(|left| looks = *left).is_some()
    };
    for rule in wanted {
        if missing.len() >= MAX_MISSING {
            break;
        }
        let fits = afford(Some(size(rule)));
        if fits && held.iter().any(|own| covers(own, rule)) {
            continue;
        }
        if !fits || !afford(count(rule)) {
            missing.push(Missing(rule.clone()));
            break;
        }
        for part in parts(rule) {
            if !held.iter().any(|own| covers(own, &part)) && !missing.contains(&Missing(part.clone())) {
                missing.push(Missing(part));
                if missing.len() >= MAX_MISSING {
                    break;
                }
            }
        }
    }
    missing
}

/// Words in a rule.
fn size(rule: &Rule) -> usize {
    let Rule { verbs, api_groups, resources, resource_names, non_resource_urls } = rule;
    [verbs, api_groups, resources, resource_names, non_resource_urls].iter().map(|list| list.len()).sum()
}

/// How many [`parts`] a rule has. `None`: more than can be counted.
fn count(rule: &Rule) -> Option<usize> {
    let of_one_verb = rule
        .api_groups
        .len()
        .checked_mul(rule.resources.len())?
        .checked_mul(rule.resource_names.len().max(1))?
        .checked_add(rule.non_resource_urls.len())?;
    of_one_verb.checked_mul(rule.verbs.len())
}

/// One verb on one resource of one group with at most one name, or one verb on one URL.
fn parts(rule: &Rule) -> impl Iterator<Item = Rule> {
    let one = |text: &String| vec![text.clone()];
    rule.verbs.iter().flat_map(move |verb| {
        let resources = rule.api_groups.iter().flat_map(move |group| {
            rule.resources.iter().flat_map(move |resource| {
                let part = Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                let names = rule.resource_names.iter();
                let all = rule.resource_names.is_empty().then(|| part.clone());
                all.into_iter()
                    .chain(names.map(move |name| Rule { resource_names: one(name), ..part.clone() }))
            })
        });
        let urls = rule.non_resource_urls.iter().map(move |url| Rule {
            verbs: one(verb),
            non_resource_urls: one(url),
            ..Rule::default()
        });
        resources.chain(urls)
    })
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
