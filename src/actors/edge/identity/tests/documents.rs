//! The document of registrations and policies.

use std::time::Duration;

use serde_json::json;

use super::world::{World, eventually, registration};
use crate::bus::identity::EdgeIdentityChanged;
use crate::identity::test_authority::Authority;

const HOUR: Duration = Duration::from_secs(3_600);

fn registrations(world: &World) -> Option<usize> {
    world.policies.borrow().as_ref().map(|spec| spec.registrations.len())
}

#[actix::test]
async fn what_was_stored_is_in_force_without_the_cloud() {
    let first = World::start(HOUR).await;
    let document = first.document(&first.spec(&[registration("/ns/shop/x")]), "1");
    let second = World::start_with(HOUR, Some(document), true).await;
    // Sealed by another cloud.
    eventually("it is turned down", || second.facts("edge-1") == 1).await;
    assert_eq!(registrations(&second), None);
    let document = second.document(&second.spec(&[registration("/ns/shop/x")]), "1");
    second.tell(document).await;
    eventually("in force", || registrations(&second) == Some(1)).await;
}

#[actix::test]
async fn a_bad_document_changes_nothing_and_is_on_record() {
    let world = World::start(HOUR).await;
    world.register(&[registration("/ns/shop/one")], "5").await;
    let good = world.document(&world.spec(&[registration("/ns/shop/a"), registration("/ns/shop/b")]), "6");
    let mut tampered = good.clone();
    tampered["spec"]["registrations"][0]["path"] = json!("/ns/shop/evil");
    let mut dropped = good.clone();
    dropped["spec"]["imagePolicies"] = json!([{"namespace": "x"}]);
    let mut other_node = good.clone();
    other_node["metadata"]["name"] = json!("edge-2");
    let mut unsealed = good.clone();
    unsealed["seal"] = json!(null);
    let older = world.document(&world.spec(&[]), "4");
    let mut foreign = world.spec(&[]);
    foreign.bundle.trust_domain = "evil.example".into();
    let foreign = world.document(&foreign, "7");
    for (refused, (case, document)) in (1..).zip([
        ("tampered", tampered),
        ("with another policy", dropped),
        ("of another node", other_node),
        ("without a seal", unsealed),
        ("an old one", older),
        ("of another trust domain", foreign),
        ("no document", json!("x")),
    ]) {
        world.tell(document).await;
        eventually(case, || world.facts("edge-1") == refused).await;
        assert_eq!(registrations(&world), Some(1), "{case}");
    }
    world.actor.send(EdgeIdentityChanged(None)).await.unwrap();
    assert_eq!(registrations(&world), Some(1), "what is gone without a signature stays");
    world.tell(good).await;
    eventually("the good one", || registrations(&world) == Some(2)).await;
}

/// A document that came before the node's credentials, or before a root it needs, is looked at again.
#[actix::test]
async fn a_document_waits_for_credentials() {
    let joined = World::start(HOUR).await;
    let waiting = World::start_with(HOUR, None, false).await;
    let document = joined.document(&joined.spec(&[registration("/ns/shop/x")]), "1");
    waiting.tell(document).await;
    assert_eq!(registrations(&waiting), None);
    let other = Authority::new().credentials("edge-1").0;
    waiting.credentials.send_replace(Some(std::sync::Arc::new(other)));
    eventually("turned down", || waiting.facts("edge-1") == 1).await;
    waiting.credentials.send_replace(joined.credentials.borrow().clone());
    eventually("in force", || registrations(&waiting) == Some(1)).await;
}
