use proptest::prelude::*;

use super::*;
use crate::model::identity::{EdgeIdentity, Registration, Selectors};

fn bundle(root: &str) -> BundleDocument {
    BundleDocument { trust_domain: "td".into(), roots: vec![root.into()], jwt_keys: Vec::new() }
}

fn lists(count: usize, hint: usize) -> Lists {
    let one = |n: usize| Registration {
        namespace: "plant".into(),
        name: format!("r{n}"),
        path: format!("/ns/plant/r{n}"),
        selectors: Selectors { uid: Some(7), ..Selectors::default() },
        hint: "h".repeat(hint),
        ..Registration::default()
    };
    Lists { registrations: (0..count).map(one).collect(), ..Lists::default() }
}

#[test]
fn the_same_sources_make_the_same_text() {
    let first = compile(&bundle("r"), lists(3, 0), || None).unwrap();
    assert_eq!(compile(&bundle("r"), lists(3, 0), || None), Ok(first.clone()));
    assert_ne!(compile(&bundle("s"), lists(3, 0), || None).unwrap().text, first.text);
    assert_eq!(lists_of(&first.text), Some(lists(3, 0)));
    assert_eq!(lists_of("no document"), None);
}

/// Too much is never sent: registrations and policies stay as they were, trust goes on.
#[test]
fn what_is_too_long_keeps_the_last_that_fitted() {
    let (small, large) = (lists(2, 0), lists(1_000, 1_000));
    let fits = compile(&bundle("old"), small.clone(), || None).unwrap();
    assert_eq!(fits.too_long, None);
    let kept = compile(&bundle("new"), large.clone(), || lists_of(&fits.text)).unwrap();
    assert!(kept.too_long.unwrap() > MAX_SPEC && kept.text.len() <= MAX_SPEC);
    assert_eq!(lists_of(&kept.text), Some(small.clone()));
    assert_eq!(kept.text, compile(&bundle("new"), small.clone(), || None).unwrap().text, "with the new root");
    assert!(compile(&bundle("new"), large.clone(), || None).is_err(), "nothing to keep");
    let mut huge = bundle("r");
    huge.roots = vec!["x".repeat(MAX_SPEC)];
    assert!(compile(&huge, large, || Some(small)).is_err(), "the bundle alone is too long");
}

#[test]
fn a_message_holds_the_whole_object() {
    let node = NodeName::parse("edge-1").unwrap();
    let spec = compile(&bundle("r"), lists(1, 0), || None).unwrap().text;
    let sent = message(operation::UPDATE, &node, "17", &spec, "a seal", 1);
    assert_eq!(sent.route.resource.to_string(), "kubeedge/edgeidentity/edge-1");
    assert_eq!(sent.header.resource_version.as_deref(), Some("17"));
    let object = sent.object().unwrap().clone();
    assert_eq!(String::from_utf8(seal::canonical(&object["spec"])).unwrap(), *spec, "what was sealed");
    let read: EdgeIdentity = serde_json::from_value(object).unwrap();
    assert_eq!((&*read.metadata.name, &*read.metadata.uid), ("edge-1", "edgeidentity.edge-1"));
    assert_eq!((&*read.metadata.resource_version, &*read.seal), ("17", "a seal"));
    assert_eq!(read.spec.registrations.len(), 1);
    let gone = removal(key(&node), "old", 1);
    assert_eq!((gone.object().unwrap()["metadata"]["uid"].as_str(), gone.leaves()), (Some("old"), true));
}

#[test]
fn a_bundle_that_is_none_is_not_published() {
    assert_eq!(trust_bundle(&bundle("not a certificate")), None);
}

proptest! {
    /// The text reads back to what it was made of, and never exceeds the bound.
    #[test]
    fn texts_are_bounded(count in 0usize..40, hint in 0usize..60_000, kept in 0usize..3) {
        match compile(&bundle("r"), lists(count, hint), || Some(lists(kept, 1))) {
            Ok(compiled) => {
                prop_assert!(compiled.text.len() <= MAX_SPEC);
                let want = if compiled.too_long.is_some() { lists(kept, 1) } else { lists(count, hint) };
                prop_assert_eq!(lists_of(&compiled.text), Some(want));
            }
            Err(length) => prop_assert!(length > MAX_SPEC),
        }
    }
}
