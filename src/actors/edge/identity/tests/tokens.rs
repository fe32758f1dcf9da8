//! JWT-SVIDs.

use std::sync::Arc;
use std::time::Duration;

use spiffe::{SpiffeId, TrustDomain};

use super::world::{World, registration, spiffe_id};
use crate::identity::test_authority::{Authority, TRUST_DOMAIN};
use crate::identity::verify_jwt_svid;

const HOUR: Duration = Duration::from_secs(3_600);

#[actix::test]
async fn tokens_for_audiences_that_others_can_verify() {
    let world = World::start(HOUR).await;
    world.register(&[registration("/ns/shop/till/main")], "1").await;
    let client = world.client().await;
    let all = client.fetch_all_jwt_svids(["api", "db"], None).await.unwrap();
    let ids: Vec<String> = all.iter().map(|svid| svid.spiffe_id().to_string()).collect();
    assert_eq!(ids, [spiffe_id("/ns/shop/sa/till"), spiffe_id("/ns/shop/till/main")]);
    assert_eq!(all[0].audience(), ["api", "db"]);

    // The JWK set that is served has the key.
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    let trust_domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
    let bundle = bundles.get(&trust_domain).unwrap();
    assert!(bundle.find_jwt_authority(all[0].key_id()).is_some());

    let wanted = SpiffeId::new(&ids[1]).unwrap();
    let one = client.fetch_jwt_svid(["api"], Some(&wanted)).await.unwrap();
    assert_eq!(one.spiffe_id().to_string(), ids[1]);
    let issued = world
        .facts
        .lock()
        .iter()
        .filter(|fact| fact.details.get("kind").is_some_and(|kind| kind == "jwt"))
        .count();
    assert_eq!(issued, 3);
}

#[actix::test]
async fn an_identity_that_is_not_the_callers_is_not_given() {
    let world = World::start(HOUR).await;
    let client = world.client().await;
    for path in ["/ns/shop/sa/other", "/ns/other/sa/till", "/node/edge-1", "/cloudcore"] {
        let wanted = SpiffeId::new(spiffe_id(path)).unwrap();
        let refused = client.fetch_jwt_svid(["api"], Some(&wanted)).await;
        assert!(refused.is_err(), "{path}: {refused:?}");
    }
    assert_eq!(world.facts("spiffe://"), 0, "nothing was issued");
    assert_eq!(world.facts("process"), 1, "and it is on record");
}

#[actix::test]
async fn tokens_are_validated_for_workloads() {
    let world = World::start(HOUR).await;
    let client = world.client().await;
    let token = client.fetch_jwt_svid(["api"], None).await.unwrap();
    let valid = client.validate_jwt_token("api", token.token()).await.unwrap();
    assert_eq!(valid.spiffe_id().to_string(), spiffe_id("/ns/shop/sa/till"));

    let strangers = Authority::new();
    let (credentials, _) = strangers.credentials("edge-1");
    let issuer = crate::identity::WorkloadIssuer::new(&credentials).unwrap();
    let id = crate::identity::SpiffeId::parse(&spiffe_id("/ns/shop/sa/till")).unwrap();
    let (foreign, _) = issuer.jwt(&id, &["api".to_owned()], HOUR, std::time::SystemTime::now()).unwrap();
    let mut cut = token.token().to_owned();
    cut.truncate(cut.len() - 3);
    for (case, audience, token) in [
        ("another audience", "db", token.token()),
        ("another domain's key", "api", &foreign),
        ("cut", "api", &cut),
        ("no token", "api", "x"),
    ] {
        assert!(client.validate_jwt_token(audience, token).await.is_err(), "{case}");
    }
}

/// The cloud publishes every node's key: tokens of one node hold on the others.
#[actix::test]
async fn tokens_of_other_nodes_hold_once_their_key_is_published() {
    let world = World::start(HOUR).await;
    let (credentials, bundle) = world.authority.credentials("edge-2");
    let issuer = crate::identity::WorkloadIssuer::new(&Arc::new(credentials)).unwrap();
    let id = crate::identity::SpiffeId::parse(&spiffe_id("/ns/shop/sa/cook")).unwrap();
    let (token, _) = issuer.jwt(&id, &["api".to_owned()], HOUR, std::time::SystemTime::now()).unwrap();
    let client = world.client().await;
    assert!(client.validate_jwt_token("api", &token).await.is_err());

    let mut spec = world.spec(&[]);
    spec.bundle.jwt_keys = bundle.jwt_keys;
    world.tell(world.document(&spec, "1")).await;
    world.eventually("the key is published", || world.policies.borrow().is_some()).await;
    assert_eq!(
        client.validate_jwt_token("api", &token).await.unwrap().spiffe_id().to_string(),
        id.to_string()
    );
    // Its own tokens hold too, although its key is not in that document.
    let own = client.fetch_jwt_svid(["api"], None).await.unwrap();
    assert!(client.validate_jwt_token("api", own.token()).await.is_ok());
    let bundle = world.authority.bundle();
    assert!(
        verify_jwt_svid(own.token(), "api", &bundle, std::time::SystemTime::now()).is_err(),
        "no key, no trust"
    );
}
