//! Joining, coming back and renewing at a cloud of ours.

use tokio::time::timeout;

use super::authority::{Authority, HOUR};
use super::cloud::Cloud;
use super::*;
use crate::actors::edge::edge_hub::join_error::JoinError;
use crate::bus::identity::AuditAction;
use crate::model::identity::RenewalRequest;

const PATIENCE: Duration = Duration::from_secs(20);

fn stored(cloud: &Cloud) -> Identity {
    let node = NodeName::parse("edge-1").unwrap();
    credential_files::load(&Places::new(&cloud.config), &node).unwrap().unwrap()
}

fn joiner(cloud: &Cloud) -> Joiner {
    let node = NodeName::parse("edge-1").unwrap();
    let (sender, _) = watch::channel(None);
    Joiner::new(node, cloud.config.clone(), cloud.identity.clone(), sender, Link::from_fn(|_| ()))
}

fn actions(edge: &Edge) -> Vec<(AuditAction, bool)> {
    edge.facts.lock().iter().map(|fact| (fact.action, fact.allowed)).collect()
}

/// Reads the question for a renewal from the session and answers it.
async fn renew(cloud: &Cloud, session: &mut cloud::Session) {
    let question = renewal_question(session).await;
    let reply = renewed(cloud, &question);
    session.write(&question.response(reply, 2)).await;
}

async fn renewal_question(session: &mut cloud::Session) -> Envelope {
    let question = timeout(PATIENCE, session.read()).await.expect("a question");
    let route = &question.route;
    assert_eq!((route.source.as_str(), route.group.as_str()), ("edgehub", "identity"));
    assert_eq!(
        (route.resource.to_string().as_str(), route.operation.as_str()),
        ("identity/renewal", "query")
    );
    question
}

fn renewed(cloud: &Cloud, question: &Envelope) -> Body {
    let Body::Object(request) = &question.body else { panic!("{question:?}") };
    let request: RenewalRequest = serde_json::from_value(request.clone()).unwrap();
    let ttl = cloud.manners.lock().svid_ttl;
    let reply = cloud.authority.reply("edge-1", &request, ttl, SystemTime::now());
    Body::Object(serde_json::to_value(reply).unwrap())
}

async fn published(edge: &mut Edge) -> Arc<NodeCredentials> {
    timeout(PATIENCE, edge.credentials.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap()
}

#[actix::test]
async fn joins_with_a_single_use_token_and_gets_everything() {
    let mut cloud = Cloud::ours().await.with_token();
    let mut edge = edge(&cloud);
    let session = cloud.session().await;
    assert!(uuid::Uuid::parse_str(session.header("kubeedge-instance").unwrap()).is_ok());
    let silence = patience(&cloud.config).as_secs().to_string();
    assert_eq!(session.header("kubeedge-silence"), Some(silence.as_str()));
    let credentials = published(&mut edge).await;
    assert!(credentials.node_ca.is_some() && credentials.jwt_key_pem.is_some());
    assert_eq!(credentials.trust_domain, "kubeedge.local");
    assert!(!cloud.config.bootstrap_file.exists(), "the token is gone");
    let places = Places::new(&cloud.config);
    for file in [&places.svid_key, &places.node_ca, &places.node_ca_key, &places.jwt_key] {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    assert_eq!(cloud.asked(), ["GET /ca.crt", "POST /identity/node"]);
    assert_eq!(actions(&edge), [(AuditAction::Join, true)]);

    // The token is spent: nobody else joins with it.
    let thief = tempfile::tempdir().unwrap();
    cloud.config.tls_cert_file = thief.path().join("server.crt");
    cloud.config.tls_private_key_file = thief.path().join("server.key");
    std::fs::write(&cloud.config.bootstrap_file, &cloud.token).unwrap();
    let second = super::edge(&cloud);
    second.down_because("401 Unauthorized: the token was used").await;
    assert_eq!(actions(&second), [(AuditAction::Join, false)], "one record, not one for each attempt");
    assert!(cloud.config.bootstrap_file.exists());
}

#[actix::test]
async fn a_lost_answer_does_not_strand_the_machine() {
    let mut cloud = Cloud::ours().await.with_token();
    cloud.manners.lock().lost_answers = 1;
    // The machine is switched off before it hears the answer.
    let err = joiner(&cloud).ensure().await.unwrap_err();
    assert!(matches!(err, JoinError::Http { .. }), "{err}");
    let _edge = edge(&cloud);
    cloud.session().await;
    assert!(stored(&cloud).node_ca.is_some());
    assert_eq!(
        Places::new(&cloud.config).all().iter().filter(|file| file.exists()).count(),
        6,
        "no leftovers"
    );
}

#[actix::test]
async fn renewed_over_the_session_without_ending_it() {
    let mut cloud = Cloud::ours().await.with_token();
    cloud.manners.lock().svid_ttl = Duration::from_secs(4);
    let mut edge = edge(&cloud);
    let mut session = cloud.session().await;
    let first = published(&mut edge).await;
    edge.credentials.mark_unchanged();

    // Refused, garbled, for other keys: the old set stays, and it asks again.
    let question = renewal_question(&mut session).await;
    session.write(&question.response(Body::Text("not now".into()), 2)).await;
    let old = question;
    let question = renewal_question(&mut session).await;
    session.write(&question.response(Body::Null, 2)).await;
    let question = renewal_question(&mut session).await;
    session.write(&question.response(renewed(&cloud, &old), 2)).await;
    let question = renewal_question(&mut session).await;
    assert!(!edge.credentials.has_changed().unwrap());
    assert_eq!(stored(&cloud).credentials.svid.cert_pem, first.svid.cert_pem);

    // What is under way goes on.
    let asked = ask(&edge, query());
    let request = session.read().await;
    session.write(&question.response(renewed(&cloud, &question), 2)).await;
    timeout(PATIENCE, edge.credentials.changed()).await.unwrap().unwrap();
    let second = edge.credentials.borrow_and_update().clone().unwrap();
    assert_ne!(second.svid.cert_pem, first.svid.cert_pem);
    assert_eq!(stored(&cloud).credentials.svid.cert_pem, second.svid.cert_pem, "saved before it is told");
    session.write(&answer(&request, Body::Null)).await;
    asked.await.unwrap().unwrap();

    renew(&cloud, &mut session).await;
    timeout(PATIENCE, edge.credentials.changed()).await.unwrap().unwrap();
    assert!(cloud.sessions.try_recv().is_err(), "the same session");
    assert_eq!(edge.news.lock().len(), 2, "{:?}", edge.news.lock());
    let records = actions(&edge);
    for record in [(AuditAction::Join, true), (AuditAction::Renew, false), (AuditAction::Renew, true)] {
        assert!(records.contains(&record), "{record:?} in {records:?}");
    }

    // The next handshake shows the newest certificate.
    drop(session);
    let session = cloud.session().await;
    let newest = edge.credentials.borrow().clone().unwrap();
    assert_eq!(crate::identity::cert_pem_from_der(&session.certificate), first_pem(&newest.svid.cert_pem));
}

fn first_pem(chain: &str) -> String {
    crate::identity::cert_pem_from_der(&crate::identity::cert_der_from_pem(chain).unwrap())
}

#[actix::test]
async fn a_node_of_a_kubeedge_cloud_gets_its_ca_when_the_cloud_is_ours() {
    let mut cloud = Cloud::start().await.with_token();
    let mut edge = edge(&cloud);
    let session = cloud.session().await;
    assert!(published(&mut edge).await.node_ca.is_none());
    assert_eq!(cloud.asked(), ["GET /ca.crt", "POST /identity/node", "GET /edge.crt"]);
    cloud.manners.lock().ours = true;
    drop(session);
    let mut session = cloud.session().await;
    renew(&cloud, &mut session).await;
    let has_ca = |held: &Option<Arc<NodeCredentials>>| held.as_ref().is_some_and(|c| c.node_ca.is_some());
    drop(timeout(PATIENCE, edge.credentials.wait_for(has_ca)).await.unwrap().unwrap());
}

#[actix::test]
async fn at_a_kubeedge_cloud_a_renewed_certificate_means_a_new_session() {
    let mut cloud = Cloud::start().await.with_token();
    cloud.manners.lock().svid_ttl = Duration::from_secs(4);
    let edge = edge(&cloud);
    let session = cloud.session().await;
    let renewed = cloud.session().await;
    assert_ne!(session.certificate, renewed.certificate);
    assert!(actions(&edge).contains(&(AuditAction::Renew, true)), "{:?}", actions(&edge));
}

/// A cloud of ours and a node whose SVID ran out `ago`.
async fn expired(ago: Duration) -> Cloud {
    let then = SystemTime::now() - HOUR - ago;
    let cloud = Cloud::with(Authority::since(then)).await;
    cloud.manners.lock().ours = true;
    let old = cloud.authority.credentials_for("edge-1", HOUR, then);
    credential_files::save(&Places::new(&cloud.config), &old).unwrap();
    cloud
}

#[actix::test]
async fn comes_back_with_the_proof_of_its_old_key() {
    let mut cloud = expired(HOUR / 2).await;
    let edge = edge(&cloud);
    cloud.session().await;
    assert_eq!(cloud.asked(), ["GET /ca.crt", "POST /identity/node"]);
    assert_eq!(actions(&edge), [(AuditAction::Join, true)]);
    assert!(stored(&cloud).certificate.not_after > SystemTime::now());
}

#[actix::test]
async fn after_the_grace_a_token_is_needed_and_one_line_says_so() {
    let mut cloud = expired(HOUR * 2).await;
    let edge = edge(&cloud);
    let line = "the certificate expired while this node was offline and the cloud did not take it back (401 \
                Unauthorized: the grace is over): put a fresh join token into";
    edge.down_because(line).await;
    assert!(edge.credentials.borrow().is_some(), "workloads still get what the node CA can sign");
    cloud = cloud.with_token();
    cloud.session().await;
    assert_eq!(actions(&edge), [(AuditAction::Join, false), (AuditAction::Join, true)]);
}

#[actix::test]
async fn a_revoked_node_joins_with_a_new_token_only() {
    let mut cloud = Cloud::ours().await.with_token();
    let edge = edge(&cloud);
    let session = cloud.session().await;
    cloud.manners.lock().revoked = true;
    drop(session);
    edge.down_because("403 Forbidden: node edge-1 was revoked: stolen: the cloud refuses this node's").await;
    let before = stored(&cloud);
    std::fs::write(&cloud.config.bootstrap_file, cloud.mint()).unwrap();
    edge.down_because("joined anew").await;
    cloud.manners.lock().revoked = false;
    cloud.session().await;
    assert_ne!(stored(&cloud).credentials.svid.cert_pem, before.credentials.svid.cert_pem);
}

#[actix::test]
async fn a_factory_certificate_joins_without_a_token() {
    let mut cloud = Cloud::ours().await;
    let factory = Authority::new().credentials("edge-1").svid;
    let at = |name: &str| cloud.dir.path().join(name);
    cloud.identity.factory_cert_file = at("factory.crt");
    cloud.identity.factory_key_file = at("factory.key");
    std::fs::write(&cloud.identity.factory_cert_file, &factory.cert_pem).unwrap();
    std::fs::write(&cloud.identity.factory_key_file, &factory.key_pem).unwrap();
    let err = joiner(&cloud).ensure().await.unwrap_err().to_string();
    assert!(err.contains("copy the cloud's root certificate to") && err.contains("rootCA.crt"), "{err}");

    crate::identity::write_atomic(&cloud.config.tls_ca_file, cloud.authority.ca.cert_pem().as_bytes(), 0o600)
        .unwrap();
    let err = joiner(&cloud).ensure().await.unwrap_err().to_string();
    assert!(err.contains("401 Unauthorized: another factory"), "{err}");

    let leaf = crate::identity::cert_der_from_pem(&factory.cert_pem).unwrap();
    cloud.manners.lock().factory = vec![leaf];
    let edge = edge(&cloud);
    cloud.session().await;
    assert!(stored(&cloud).node_ca.is_some());
    assert_eq!(actions(&edge), [(AuditAction::Join, true)]);
}

/// Our clock is an hour ahead of the cloud's: by ours the certificate ran out, by the cloud's not.
#[actix::test]
async fn a_clock_that_is_wrong_throws_no_certificate_away() {
    let cloud = expired(HOUR / 2).await;
    let earlier = SystemTime::now() - HOUR;
    let date = jiff::Timestamp::try_from(earlier).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    cloud.manners.lock().date = Some(date.leak());
    let before = stored(&cloud);
    let joiner = joiner(&cloud);
    let found = joiner.ensure().await.unwrap();
    assert_eq!(found.credentials.svid.cert_pem, before.credentials.svid.cert_pem);
    assert_eq!(cloud.asked(), ["GET /ca.crt"], "it asked for the time only");
    let apart = joiner.cloud_now().duration_since(earlier - Duration::from_secs(1)).unwrap();
    assert!(apart < HOUR / 2, "renewal follows the cloud's clock: {apart:?}");
}

/// Our clock is behind: by ours the certificate is good, by the cloud's it ran out.
#[actix::test]
async fn a_clock_that_is_behind_does_not_hide_that_the_certificate_ran_out() {
    let mut cloud = Cloud::ours().await.with_token();
    let edge = edge(&cloud);
    let session = cloud.session().await;
    let before = stored(&cloud).credentials.svid.cert_pem;
    let later = SystemTime::now() + HOUR * 2;
    let date = jiff::Timestamp::try_from(later).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    cloud.manners.lock().date = Some(date.leak());
    cloud.manners.lock().revoked = true;
    drop(session);
    edge.down_because("joined anew").await;
    assert_ne!(stored(&cloud).credentials.svid.cert_pem, before);
    let facts = edge.facts.lock();
    assert!(facts.iter().any(|fact| fact.allowed && fact.reason == "proof of the old key"), "{facts:?}");
}

#[actix::test]
async fn roots_that_do_not_vouch_for_us_bring_a_renewal() {
    let mut cloud = Cloud::ours().await.with_token();
    let edge = edge(&cloud);
    let mut session = cloud.session().await;
    let before = std::fs::read_to_string(&cloud.config.tls_ca_file).unwrap();
    let foreign = Authority::new().ca.bundle().to_document();
    edge.hub.send(RootsChanged(foreign)).await.unwrap();
    renew(&cloud, &mut session).await;
    assert_eq!(std::fs::read_to_string(&cloud.config.tls_ca_file).unwrap(), before);
}
