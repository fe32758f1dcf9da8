//! The trie against the naive matcher, and its memory.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::topic::{check_filter, filter_parts, fixed_prefix};
use super::super::trie::{Matches, Options, Trie};
use super::*;

const OPTIONS: Options = Options { qos: Q1, no_local: false, retain_as_published: false, id: None };

fn level() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "", "$x", "été"]).prop_map(str::to_owned)
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |t| !t.is_empty())
}

fn any_filter() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => level(), 2 => Just("+".to_owned())];
    let group = prop::option::of(prop::sample::select(vec!["g", "h"]));
    (prop::collection::vec(part, 1..5), any::<bool>(), group)
        .prop_map(|(mut levels, hash, group)| {
            if hash {
                *levels.last_mut().unwrap() = "#".into();
            }
            let filter = levels.join("/");
            group.map_or(filter.clone(), |group| format!("$share/{group}/{filter}"))
        })
        .prop_filter("valid", |filter| check_filter(filter, &Limits::default()).is_ok())
}

proptest! {
    #[test]
    fn the_trie_finds_what_the_naive_matcher_finds(
        filters in prop::collection::vec((any_filter(), 0..6usize), 0..40),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        topics in prop::collection::vec(topic(), 1..10),
    ) {
        let mut trie = Trie::default();
        let mut naive = BTreeSet::new();
        for (filter, session) in &filters {
            let new = naive.insert((filter.clone(), *session));
            prop_assert_eq!(trie.insert(filter, *session, OPTIONS), !new);
        }
        for index in removed {
            if let Some((filter, session)) = (!filters.is_empty()).then(|| index.get(&filters)) {
                let was = naive.remove(&(filter.clone(), *session));
                prop_assert_eq!(trie.remove(filter, *session), was);
            }
        }
        prop_assert_eq!(trie.len(), naive.len());
        for topic in &topics {
            let mut found = Matches::default();
            trie.find(topic, &mut found);
            let mut got: Vec<(String, usize)> =
                found.subscribers.iter().map(|subscriber| (String::new(), subscriber.session)).collect();
            for at in &found.groups {
                let group = trie.group(*at).unwrap();
                got.extend(group.members.iter().map(|member| (group.filter.to_string(), member.session)));
            }
            let matching = naive.iter().filter(|(filter, _)| matches(filter_parts(filter).filter, topic));
            let mut want: Vec<(String, usize)> = matching
                .map(|(filter, session)| {
                    let shared = filter.starts_with("$share/");
                    (if shared { filter.clone() } else { String::new() }, *session)
                })
                .collect();
            got.sort();
            want.sort();
            prop_assert_eq!(got, want, "{}", topic);
        }
        for (filter, session) in naive {
            prop_assert!(trie.remove(&filter, session));
        }
        prop_assert_eq!((trie.len(), trie.nodes()), (0, 1));
    }

    #[test]
    fn the_prefix_of_a_filter_bounds_its_topics(filter in any_filter(), topic in topic()) {
        let filter = filter_parts(&filter).filter;
        prop_assert!(!matches(filter, &topic) || topic.starts_with(fixed_prefix(filter)));
    }

    #[test]
    fn any_text_is_judged_without_panic(text in ".{0,40}", topic in topic()) {
        let limits = Limits::default();
        if let Ok(parts) = check_filter(&text, &limits) {
            let mut trie = Trie::default();
            trie.insert(&text, 1, OPTIONS);
            let mut found = Matches::default();
            trie.find(&topic, &mut found);
            let hit = !found.subscribers.is_empty() || !found.groups.is_empty();
            prop_assert_eq!(hit, matches(parts.filter, &topic));
            trie.remove(&text, 1);
            prop_assert_eq!(trie.nodes(), 1);
        }
        if check_topic(&text, &limits).is_ok() {
            prop_assert!(check_filter(&text, &limits).is_ok() || text.starts_with("$share"));
        }
    }
}
