//! X.509-SVIDs and their streams.

use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt};
use spiffe::{TrustDomain, WorkloadApiError, X509Context, X509Source};

use super::world::{World, base64, caller, registration, soon, spiffe_id};
use crate::actors::edge::identity::{Refusal, Workload};
use crate::identity::test_authority::{Authority, DAY, TRUST_DOMAIN};
use crate::identity::{SvidIssuer, verify_x509_svid};

const HOUR: Duration = Duration::from_secs(3_600);

fn ids(context: &X509Context) -> Vec<String> {
    context.svids().iter().map(|svid| svid.spiffe_id().to_string()).collect()
}

fn chain(context: &X509Context) -> Vec<Vec<u8>> {
    let svid = context.default_svid().unwrap();
    svid.cert_chain().iter().map(|cert| cert.as_bytes().to_vec()).collect()
}

async fn next<S: Stream<Item = Result<X509Context, WorkloadApiError>> + Unpin>(
    stream: &mut S,
) -> X509Context {
    soon("the next update", stream.next()).await.expect("the stream goes on").expect("a good update")
}

#[actix::test]
async fn a_pod_has_the_identity_of_its_service_account_and_of_registrations() {
    let world = World::start(HOUR).await;
    let mut extra = registration("/ns/shop/till/main");
    extra.hint = "inside".into();
    extra.dns_names = vec!["till.edge-1.nodes.kubeedge.local".into(), "till.other.example".into()];
    extra.ttl_secs = 60;
    world.register(&[extra, registration("/ns/other/x")], "1").await;
    let context = world.client().await.fetch_x509_context().await.unwrap();
    assert_eq!(ids(&context), [spiffe_id("/ns/shop/sa/till"), spiffe_id("/ns/shop/till/main")]);
    assert_eq!(context.svids()[1].hint(), Some("inside"));

    let bundle = world.authority.bundle();
    for (svid, life) in context.svids().iter().zip([HOUR, Duration::from_secs(60)]) {
        let chain: Vec<Vec<u8>> = svid.cert_chain().iter().map(|cert| cert.as_bytes().to_vec()).collect();
        let verified = verify_x509_svid(&chain, &bundle, SystemTime::now()).unwrap();
        assert!(matches!(verified.issuer, SvidIssuer::Node(node) if node.as_str() == "edge-1"));
        assert!(verified.not_after <= SystemTime::now() + life);
    }
    let names = context.svids()[1].leaf().as_bytes().to_vec();
    let dns = b"till.edge-1.nodes.kubeedge.local";
    assert!(names.windows(dns.len()).any(|window| window == dns), "the name this node may give");
    assert!(!names.windows(5).any(|window| window == b"other"), "the name it may not give is left out");

    let trust_domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
    let roots = context.bundle_set().get(&trust_domain).unwrap();
    assert_eq!(roots.authorities().len(), 1);
    assert_eq!(world.facts("spiffe://"), 2, "{:?}", world.facts.lock());
}

#[actix::test]
async fn all_callers_of_a_container_share_what_was_issued_and_other_pods_do_not() {
    let world = World::start(HOUR).await;
    let client = world.client().await;
    let first = chain(&client.fetch_x509_context().await.unwrap());
    assert_eq!(chain(&world.client().await.fetch_x509_context().await.unwrap()), first);
    let mut other = caller();
    other.pod_uid = "u-2".into();
    world.callers_are(Ok(other));
    assert_ne!(chain(&client.fetch_x509_context().await.unwrap()), first);
    assert_eq!(world.facts("spiffe://"), 2);
}

/// The source other programs use, over rotations: always usable, always newer.
#[actix::test]
async fn a_source_is_kept_fresh() {
    let world = World::start(Duration::from_secs(4)).await;
    let source = X509Source::builder().endpoint(world.endpoint()).build().await.unwrap();
    let mut updates = source.updated();
    let mut seen = vec![source.svid().unwrap().leaf().as_bytes().to_vec()];
    for _ in 0..3 {
        soon("a rotation", updates.changed()).await.unwrap();
        let svid = source.svid().unwrap();
        assert_eq!(svid.spiffe_id().to_string(), spiffe_id("/ns/shop/sa/till"));
        let chain: Vec<Vec<u8>> = svid.cert_chain().iter().map(|cert| cert.as_bytes().to_vec()).collect();
        verify_x509_svid(&chain, &world.authority.bundle(), SystemTime::now()).unwrap();
        assert!(!seen.contains(&chain[0]), "it is a new one");
        seen.push(chain[0].clone());
    }
    source.shutdown().await;
}

#[actix::test]
async fn streams_follow_registrations_bundle_and_labels() {
    let world = World::start(HOUR).await;
    let mut stream = world.client().await.stream_x509_contexts().await.unwrap();
    assert_eq!(ids(&next(&mut stream).await).len(), 1);
    world.register(&[registration("/ns/shop/one"), registration("/ns/shop/two")], "1").await;
    assert_eq!(ids(&next(&mut stream).await).len(), 3);
    world.register(&[registration("/ns/shop/two")], "2").await;
    assert_eq!(ids(&next(&mut stream).await), [spiffe_id("/ns/shop/sa/till"), spiffe_id("/ns/shop/two")]);

    // The next root is published: everybody learns it, and nobody's certificate changes.
    let next_root = Authority::new();
    let mut spec = world.spec(&[registration("/ns/shop/two")]);
    spec.bundle.roots.push(base64(&next_root.root.der));
    world.tell(world.document(&spec, "3")).await;
    let before = chain(&world.client().await.fetch_x509_context().await.unwrap());
    let context = next(&mut stream).await;
    let trust_domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
    assert_eq!(context.bundle_set().get(&trust_domain).unwrap().authorities().len(), 2);
    assert_eq!(chain(&context), before);
    assert_eq!(world.roots.lock().last().unwrap().roots.len(), 2, "EdgeHub was told");
}

/// A root is retired: what leads to it is replaced at once by what the renewed node CA signs.
#[actix::test]
async fn certificates_of_a_retired_root_are_replaced() {
    let world = World::start(HOUR).await;
    let mut stream = world.client().await.stream_x509_contexts().await.unwrap();
    let before = chain(&next(&mut stream).await);
    let authority = Authority::new();
    let (credentials, _) = authority.credentials("edge-1");
    world.credentials.send_replace(Some(std::sync::Arc::new(credentials)));
    let after = chain(&next(&mut stream).await);
    assert_ne!(after, before);
    verify_x509_svid(&after, &authority.bundle(), SystemTime::now()).unwrap();
}

#[actix::test]
async fn a_stream_ends_when_the_caller_is_nobody_any_more() {
    let world = World::start(HOUR).await;
    let mut stream = world.client().await.stream_x509_contexts().await.unwrap();
    next(&mut stream).await;
    world.callers_are(Err(Refusal::Unavailable("the runtime does not answer".into())));
    world.register(&[registration("/ns/shop/one")], "1").await;
    world.callers_are(Err(Refusal::Unknown("the process that connected has ended".into())));
    let end = soon("the end", stream.next()).await.expect("a last word");
    assert!(
        matches!(end, Err(WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_))),
        "{end:?}"
    );
    assert!(soon("nothing more", stream.next()).await.is_none());
    assert_eq!(world.facts("process"), 1, "one record a connection");

    let refused = world.client().await.fetch_x509_context().await.unwrap_err();
    assert!(
        matches!(refused, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)),
        "{refused:?}"
    );
}

/// Offline until the node's own CA ended: what is held stays, nothing new is given.
#[actix::test]
async fn nothing_is_issued_beyond_the_node_ca() {
    let world = World::start_with(HOUR, None, false).await;
    let client = world.client().await;
    let refused = client.fetch_x509_context().await.unwrap_err().to_string();
    assert!(refused.contains("has not joined"), "{refused}");

    let authority = Authority { node_life: Duration::from_secs(8), ..Authority::new() };
    let (credentials, _) = authority.credentials("edge-1");
    world.credentials.send_replace(Some(std::sync::Arc::new(credentials)));
    let mut stream = client.stream_x509_contexts().await.unwrap();
    let held = next(&mut stream).await;
    let verified = verify_x509_svid(&chain(&held), &authority.bundle(), SystemTime::now()).unwrap();
    assert!(verified.not_after <= authority.now + Duration::from_secs(8), "no longer than its CA");
    let mut others = 2..;
    soon("the end of the node's CA", async {
        loop {
            // Another pod each time: nothing is held for it.
            let pod_uid = format!("u-{}", others.next().unwrap_or_default());
            world.callers_are(Ok(Workload { pod_uid, ..caller() }));
            match client.fetch_x509_context().await {
                Err(refused) if refused.to_string().contains("node's CA has ended") => return,
                Err(refused) => panic!("{refused}"),
                Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    })
    .await;

    // The cloud is back: the same stream goes on.
    world.callers_are(Ok(caller()));
    let (credentials, _) = Authority { node_life: DAY, ..authority }.credentials("edge-1");
    world.credentials.send_replace(Some(std::sync::Arc::new(credentials)));
    assert_ne!(chain(&next(&mut stream).await), chain(&held));
}

#[actix::test]
async fn the_bundle_is_served_to_workloads_alone() {
    let world = World::start(HOUR).await;
    let client = world.client().await;
    let bundles = client.fetch_x509_bundles().await.unwrap();
    assert_eq!(bundles.len(), 1);
    let trust_domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
    assert_eq!(bundles.get(&trust_domain).unwrap().authorities()[0].as_bytes(), world.authority.root.der);
    world.callers_are(Err(Refusal::Unknown("no pod".into())));
    assert!(client.fetch_x509_bundles().await.is_err());
    assert!(client.fetch_jwt_bundles().await.is_err());
}

/// A panic takes the cache and the streams; clients come back to the same identities.
#[actix::test]
async fn a_hundred_streams_are_served_at_once() {
    let world = World::start(HOUR).await;
    let client = world.client().await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = client.stream_x509_contexts().await.unwrap();
        next(&mut stream).await;
        streams.push(stream);
    }
    world.register(&[registration("/ns/shop/one")], "1").await;
    for stream in &mut streams {
        assert_eq!(ids(&next(stream).await).len(), 2);
    }
    assert_eq!(world.facts("spiffe://"), 2, "one certificate for each identity of the container");
}
