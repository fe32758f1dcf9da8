//! `POST /identity/node`, single-use tokens, renewal over the session, revocation, clones.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::harness::*;
use crate::bus::identity::AuditAction;
use crate::identity::{
    KeyPair, MintOptions, NodeKeys, NodeRequest, PeerIdentity, REENTRY_CONTEXT, TrustBundle,
    cert_ders_from_pem, new_node_csr, prove, proven, split_join_token,
};
use crate::model::identity::{AttestationRequest, Evidence, RenewalReply, RenewalRequest};
use crate::model::{Body, Envelope, Resource, unix_secs};

const MINUTE: Duration = Duration::from_secs(60);

fn token(world: &World, options: MintOptions) -> Evidence {
    let (token, _) = world.tokens.mint(&world.ca.hash_hex(), options, SystemTime::now());
    Evidence::JoinToken { token: split_join_token(&token).unwrap().1 }
}

async fn attest(
    world: &World,
    name: &str,
    evidence: Evidence,
    request: RenewalRequest,
    pair: Option<&KeyPair>,
) -> Result<RenewalReply, (u16, String)> {
    let body = AttestationRequest { node: name.to_owned(), evidence, request };
    let body = serde_json::to_vec(&body).unwrap();
    match world.send("POST", "/identity/node", pair, &[], &body).await {
        (200, answer) => Ok(serde_json::from_slice(&answer).unwrap()),
        (code, why) => Err((code, String::from_utf8(why).unwrap())),
    }
}

/// Joins by a fresh token: what the node then holds.
async fn join(world: &World, name: &str) -> (RenewalReply, NodeKeys, KeyPair) {
    let (request, keys) = NodeRequest::new(&node(name)).unwrap();
    let reply = attest(world, name, token(world, MintOptions::once(MINUTE)), request, None).await.unwrap();
    let pair = keys.clone().credentials(&node(name), &reply).unwrap().svid;
    (reply, keys, pair)
}

#[actix::test]
async fn a_node_of_ours_joins_comes_back_and_renews() {
    let world = World::start(|_| {});
    let (request, keys) = NodeRequest::new(&node("edge-1")).unwrap();
    let evidence = token(&world, MintOptions::once(MINUTE));
    let reply = attest(&world, "edge-1", evidence.clone(), request.clone(), None).await.unwrap();
    let credentials = keys.credentials(&node("edge-1"), &reply).unwrap();
    assert_eq!(credentials.trust_domain, "kubeedge.local");
    assert!(credentials.node_ca.is_some());

    // A lost answer is given again, to the same key only.
    let first = request.clone();
    let again = attest(&world, "edge-1", evidence.clone(), request, None).await.unwrap();
    assert_eq!(again.svid.len(), reply.svid.len());
    let (other, _) = NodeRequest::new(&node("edge-1")).unwrap();
    let token_again = evidence.clone();
    let (code, why) = attest(&world, "edge-1", evidence, other, None).await.unwrap_err();
    assert_eq!(code, 401, "{why}");
    assert!(why.contains("used by node edge-1"), "{why}");
    let (thief, _) = NodeRequest::new(&node("edge-1")).unwrap();
    let mixed = RenewalRequest { csr: first.csr, ..thief };
    let (code, why) = attest(&world, "edge-1", token_again, mixed, None).await.unwrap_err();
    assert_eq!(code, 401, "the SVID's key was seen, the others are a thief's: {why}");

    // With its certificate on the connection; the evidence is not looked at.
    let nothing = || Evidence::JoinToken { token: String::new() };
    let (request, keys) = NodeRequest::new(&node("edge-1")).unwrap();
    let renewed = attest(&world, "edge-1", nothing(), request, Some(&credentials.svid)).await.unwrap();
    let newer = keys.credentials(&node("edge-1"), &renewed).unwrap();
    let (request, _) = NodeRequest::new(&node("edge-2")).unwrap();
    let (code, why) = attest(&world, "edge-2", nothing(), request, Some(&newer.svid)).await.unwrap_err();
    assert_eq!((code, why.as_str()), (403, "the certificate of node edge-1 cannot ask for node edge-2"));

    // By proof of its key.
    let (request, _) = NodeRequest::new(&node("edge-1")).unwrap();
    let chain = cert_ders_from_pem(&newer.svid.cert_pem);
    let proof =
        prove(REENTRY_CONTEXT, &node("edge-1"), &proven(&request), chain, &newer.svid.key_pem).unwrap();
    // Somebody who saw it gets nothing for keys of his own.
    let (thief, _) = NodeRequest::new(&node("edge-1")).unwrap();
    for changed in [
        RenewalRequest { ca_csr: thief.ca_csr, ..request.clone() },
        RenewalRequest { jwt_key: thief.jwt_key, ..request.clone() },
    ] {
        let evidence = Evidence::Svid { proof: proof.clone() };
        let (code, why) = attest(&world, "edge-1", evidence, changed, None).await.unwrap_err();
        assert_eq!(code, 401, "{why}");
    }
    attest(&world, "edge-1", Evidence::Svid { proof }, request, None).await.unwrap();

    let facts = world.facts.lock().clone();
    let told: Vec<(AuditAction, bool, &str)> = facts
        .iter()
        .map(|fact| (fact.action, fact.allowed, fact.details.get("way").map_or("", String::as_str)))
        .collect();
    let want = [
        (AuditAction::Join, true, "joinToken"),
        (AuditAction::Join, true, "joinToken"),
        (AuditAction::Refuse, false, ""),
        (AuditAction::Refuse, false, ""),
        (AuditAction::Renew, true, "certificate"),
        (AuditAction::Refuse, false, ""),
        (AuditAction::Refuse, false, ""),
        (AuditAction::Refuse, false, ""),
        (AuditAction::Join, true, "svid"),
    ];
    assert_eq!(told, want, "{facts:?}");
    assert!(facts.iter().all(|fact| fact.subject == "edge-1" || fact.subject == "edge-2"), "{facts:?}");
    let keys = world.keys.lock();
    assert_eq!(keys.len(), 4);
    assert!(
        keys.iter().all(|key| key.node == node("edge-1") && key.node_ca_expires_at > key.svid_expires_at)
    );
    assert!(keys.iter().all(|key| key.jwt_key["kid"].is_string()));
}

#[actix::test]
async fn of_two_machines_with_one_token_one_joins() {
    let world = World::start(|_| {});
    for round in 0..5 {
        let evidence = token(&world, MintOptions::once(MINUTE));
        let machines = (0..4).map(|at| {
            let (name, evidence, world) = (format!("edge-{round}-{at}"), evidence.clone(), &world);
            let (request, _) = NodeRequest::new(&node(&name)).unwrap();
            async move { attest(world, &name, evidence, request, None).await }
        });
        let answers = futures_util::future::join_all(machines).await;
        let joined = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(joined, 1, "{answers:?}");
        for (code, why) in answers.into_iter().filter_map(Result::err) {
            assert_eq!(code, 401, "{why}");
        }
    }
    let facts = world.facts.lock();
    let used = |fact: &&crate::bus::identity::AuditFact| {
        fact.details.get("cause").is_some_and(|c| c == "token_used")
    };
    assert_eq!(facts.iter().filter(used).count(), 15);
}

#[actix::test]
async fn go_edges_use_single_and_reusable_tokens() {
    let world = World::start_with(|_| {}, |identities| identities.reusable_tokens = true);
    let bearer = |options: MintOptions| {
        let Evidence::JoinToken { token } = token(&world, options) else { panic!("a token") };
        format!("Bearer {token}")
    };
    let ask = async |name: &str, auth: &str, csr: &[u8]| {
        world.get("/edge.crt", None, &[("NodeName", name), ("Authorization", auth)], csr).await
    };
    let csr = |name: &str| new_node_csr(&node(name)).unwrap().0;
    let many = bearer(MintOptions { reusable: true, ..MintOptions::once(MINUTE) });
    for name in ["go-1", "go-2", "go-1"] {
        let (code, der) = ask(name, &many, &csr(name)).await;
        assert_eq!(code, 200, "{}", String::from_utf8_lossy(&der));
        assert_eq!(PeerIdentity::from_der(&der).unwrap().node(), Some(node(name)), "one certificate, DER");
    }
    let once = bearer(MintOptions::once(MINUTE));
    assert_eq!(ask("go-3", &once, b"").await.0, 400, "it is good, but nothing was asked for");
    let first = csr("go-3");
    for (name, body, want) in [
        ("go-3", first.clone(), 200),
        ("go-3", first.clone(), 200),
        ("go-3", csr("go-3"), 401),
        ("go-4", csr("go-4"), 401),
    ] {
        let (code, why) = ask(name, &once, &body).await;
        assert_eq!(code, want, "{name}: {}", String::from_utf8_lossy(&why));
    }
    assert_eq!(ask("go-3", &once, b"").await.0, 400);
    assert_eq!(ask("go-4", &once, b"").await.0, 401, "used by another node");
    let bound = bearer(MintOptions { node: Some(node("go-5")), ..MintOptions::once(MINUTE) });
    let (code, why) = ask("go-6", &bound, &csr("go-6")).await;
    assert_eq!(code, 401, "{}", String::from_utf8_lossy(&why));
    world.revoke("go-1", None).await;
    let (code, why) = ask("go-1", &many, &csr("go-1")).await;
    assert_eq!(code, 403);
    assert!(String::from_utf8(why).unwrap().contains("was revoked: stolen"));
    let of_go = world.keys.lock().iter().filter(|told| told.jwt_key.is_null()).count();
    assert_eq!(of_go, 5);
}

#[actix::test]
async fn the_bundle_is_public() {
    let world = World::start(|_| {});
    let (code, body) = world.get("/bundle.json", None, &[], b"").await;
    assert_eq!(code, 200);
    let bundle: Value = serde_json::from_slice(&body).unwrap();
    let want: TrustBundle = world.ca.bundle();
    assert_eq!(bundle, want.spiffe_bundle());
    assert_eq!(bundle["keys"][0]["use"], "x509-svid");
}

async fn renewal(edge: &mut Edge, request: &RenewalRequest) -> Option<Envelope> {
    let body = Body::Object(serde_json::to_value(request).unwrap());
    let ask = Envelope::new("edgehub", "identity", "query", Resource::IdentityRenewal, body, 1);
    say(edge, &ask).await;
    loop {
        let answer = hear(edge).await?;
        if answer.header.parent_msg_id.as_ref() == Some(&ask.header.msg_id) {
            assert_eq!(
                (answer.route.source.as_str(), answer.route.operation.as_str()),
                ("cloudhub", "response")
            );
            say(edge, &answer.ack(2)).await;
            return Some(answer);
        }
    }
}

#[actix::test]
async fn renewal_over_the_session_outlives_the_certificate() {
    let world = World::start_with(|_| {}, |identities| identities.svid_ttl = Duration::from_secs(3));
    let (_, _, pair) = join(&world, "edge-1").await;
    let mut edge = world.connect_ours(&pair, "11111111-1111").await.unwrap();
    let (_, _, silent) = join(&world, "edge-2").await;
    let mut silent = world.connect_ours(&silent, "22222222-2222").await.unwrap();
    let mut ends = Vec::new();
    for _ in 0..5 {
        let (request, keys) = NodeRequest::new(&node("edge-1")).unwrap();
        let answer = renewal(&mut edge, &request).await.expect("the session lives");
        let Body::Object(reply) = answer.body else { panic!("{:?}", answer.body) };
        let reply: RenewalReply = serde_json::from_value(reply).unwrap();
        keys.credentials(&node("edge-1"), &reply).unwrap();
        ends.push(world.keys.lock().last().unwrap().svid_expires_at);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(ends.last() > ends.first().map(|first| first + 2).as_ref(), "{ends:?}");
    assert_eq!(hear(&mut silent).await, None, "unrenewed, it ends with its certificate");
    assert_eq!(world.connected().await, [node("edge-1")]);
    // What is not signed is said, and the session goes on.
    let (other, _) = NodeRequest::new(&node("edge-3")).unwrap();
    let answer = renewal(&mut edge, &other).await.unwrap();
    assert!(matches!(&answer.body, Body::Text(why) if why.contains("csr: ")), "{:?}", answer.body);
    let nonsense = Envelope::new("edgehub", "identity", "query", Resource::IdentityRenewal, Body::Null, 1);
    say(&mut edge, &nonsense).await;
    let answer = hear(&mut edge).await.unwrap();
    assert!(
        matches!(&answer.body, Body::Text(why) if why.contains("no renewal request")),
        "{:?}",
        answer.body
    );
}

#[actix::test]
async fn a_revoked_node_is_cut_off_until_it_is_allowed_again() {
    let world = World::start(|_| {});
    let (_, _, pair) = join(&world, "edge-1").await;
    let mut edge = world.connect_ours(&pair, "11111111-1111").await.unwrap();
    world.revoke("edge-1", None).await;
    assert_eq!(hear(&mut edge).await, None);
    let refused = |result: Result<Edge, tokio_tungstenite::tungstenite::Error>| match result {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status().as_u16(),
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert_eq!(refused(world.connect_ours(&pair, "11111111-1111").await), 403);
    let fresh = |options| token(&world, options);
    let nothing = || Evidence::JoinToken { token: String::new() };
    let request = || NodeRequest::new(&node("edge-1")).unwrap();
    for (evidence, pair) in [(fresh(MintOptions::once(MINUTE)), None), (nothing(), Some(&pair))] {
        let (code, why) = attest(&world, "edge-1", evidence, request().0, pair).await.unwrap_err();
        assert_eq!(code, 403, "{why}");
        assert!(why.contains("revoked: stolen"), "{why}");
    }
    let (csr, _) = new_node_csr(&node("edge-1")).unwrap();
    assert_eq!(world.get("/edge.crt", Some(&pair), &[("NodeName", "edge-1")], &csr).await.0, 403);

    // A cloudcore that starts lets nobody in before the API has told who is revoked.
    let known = world.revoked.send_replace(None);
    let told = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.revoked.send_replace(known);
    };
    let (code, _) =
        futures_util::join!(async { refused(world.connect_ours(&pair, "11111111-1111").await) }, told);
    assert_eq!(code, 403);

    // Allowed again, the old certificate stays refused and a new one is good at once.
    world.revoke("edge-1", Some(unix_secs(SystemTime::now()))).await;
    assert_eq!(refused(world.connect_ours(&pair, "11111111-1111").await), 403);
    let (code, why) = attest(&world, "edge-1", nothing(), request().0, Some(&pair)).await.unwrap_err();
    assert_eq!(code, 403, "{why}");
    let (_, _, newer) = join(&world, "edge-1").await;
    let _edge = world.connect_ours(&newer, "11111111-1111").await.unwrap();
    let refusals = world.facts.lock().iter().filter(|fact| fact.action == AuditAction::Refuse).count();
    assert_eq!(refusals, 7, "each is on the record");
}

#[actix::test]
async fn two_machines_with_one_certificate_are_told() {
    let mut world = World::start(|_| {});
    let (_, _, pair) = join(&world, "edge-1").await;
    let mut live = Vec::new();
    for instance in ["aaaaaaaa", "bbbbbbbb", "aaaaaaaa", "bbbbbbbb"] {
        live.push(world.connect_ours(&pair, instance).await.unwrap());
    }
    let cloned = loop {
        if let Told::Cloned(cloned) = world.next_told().await {
            break cloned;
        }
    };
    assert_eq!(cloned.node, node("edge-1"));
    assert!(cloned.addresses.iter().all(|address| address.starts_with("127.0.0.1:")), "{cloned:?}");
    assert_eq!(world.connected().await, [node("edge-1")], "what is done about it is decided elsewhere");
    // One machine that restarts is none of it.
    for instance in ["aaaaaaaa", "cccccccc", "dddddddd"] {
        live.push(world.connect_ours(&pair, instance).await.unwrap());
    }
    while let Ok(told) = world.told.try_recv() {
        assert!(!matches!(told, Told::Cloned(_)), "{told:?}");
    }
}

/// A node may renew early, but not without end: each time is a record and a key for all.
#[actix::test]
async fn a_node_that_renews_without_end_is_slowed_down() {
    let world = World::start(|_| {});
    let (_, _, pair) = join(&world, "edge-1").await;
    let (_, _, other) = join(&world, "edge-2").await;
    let nothing = || Evidence::JoinToken { token: String::new() };
    let mut given = 0;
    let (code, why) = loop {
        let (request, _) = NodeRequest::new(&node("edge-1")).unwrap();
        match attest(&world, "edge-1", nothing(), request, Some(&pair)).await {
            Ok(_) => given += 1,
            Err(refused) => break refused,
        }
        assert!(given < 90, "the address's own limit is 100");
    };
    assert_eq!(code, 429, "{why}");
    assert!(why.contains("node edge-1 asks for certificates too often"), "{why}");
    let (request, _) = NodeRequest::new(&node("edge-2")).unwrap();
    attest(&world, "edge-2", nothing(), request, Some(&other)).await.unwrap();
    assert!(world.facts.lock().iter().all(|fact| fact.allowed), "who is over a limit writes no records");
}
