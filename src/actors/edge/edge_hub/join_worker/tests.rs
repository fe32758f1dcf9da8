use super::*;
use crate::actors::edge::edge_hub::tests::authority::Authority;

fn config(folder: &std::path::Path) -> EdgeHubConfig {
    EdgeHubConfig {
        tls_ca_file: folder.join("ca/rootCA.crt"),
        tls_cert_file: folder.join("certs/server.crt"),
        tls_private_key_file: folder.join("certs/server.key"),
        bootstrap_file: folder.join("bootstrap.conf"),
        ..EdgeHubConfig::default()
    }
}

fn joiner(config: &EdgeHubConfig) -> (Joiner, crate::bus::identity::Credentials) {
    let (sender, credentials) = watch::channel(None);
    let node = NodeName::parse("edge-1").unwrap();
    let identity = EdgeIdentityConfig::default();
    (Joiner::new(node, config.clone(), identity, sender, Link::from_fn(|_| ())), credentials)
}

#[actix::test]
async fn what_is_on_disk_decides() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let config = config(dir.path());
    let places = Places::new(&config);
    let (joiner, credentials) = joiner(&config);

    let err = joiner.ensure().await.unwrap_err();
    assert!(matches!(err, JoinError::NeedsToken { .. }), "{err}");
    assert!(err.to_string().contains("keadm gettoken"), "{err}");

    std::fs::write(&config.bootstrap_file, "nonsense\n").unwrap();
    assert!(matches!(joiner.ensure().await.unwrap_err(), JoinError::Token(_)));

    files::save(&places, &authority.credentials("edge-2")).unwrap();
    let err = joiner.ensure().await.unwrap_err();
    assert!(matches!(&err, JoinError::OtherNode { found, .. } if found == "system:node:edge-2"), "{err}");
    assert!(config.bootstrap_file.exists(), "no silent join under another name");
    assert!(credentials.borrow().is_none(), "nobody uses another node's credentials");

    files::save(&places, &authority.credentials("edge-1")).unwrap();
    joiner.ensure().await.unwrap();
    let published = credentials.borrow().clone().expect("published");
    assert!(published.node_ca.is_some() && published.trust_domain == "kubeedge.local");
    std::fs::remove_file(&config.tls_ca_file).unwrap();
    let err = joiner.ensure().await.unwrap_err().to_string();
    assert!(err.contains("rootCA.crt"), "{err}");
}

#[actix::test]
async fn roots_follow_the_cloud_and_never_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let config = config(dir.path());
    let (joiner, mut credentials) = joiner(&config);
    let document = authority.ca.bundle().to_document();
    joiner.replace_roots(document.clone()).await.expect("nothing to replace before a join");
    files::save(&Places::new(&config), &authority.credentials("edge-1")).unwrap();
    joiner.load().await.unwrap();
    let before = std::fs::read_to_string(&config.tls_ca_file).unwrap();
    credentials.mark_unchanged();

    let foreign = stranger.ca.bundle().to_document();
    let empty = BundleDocument { roots: Vec::new(), ..document.clone() };
    for (case, bad, want) in [("foreign", foreign.clone(), "vouches"), ("empty", empty, "no root")] {
        let err = joiner.replace_roots(bad).await.unwrap_err().to_string();
        assert!(err.contains(want), "{case}: {err}");
    }
    joiner.replace_roots(document.clone()).await.unwrap();
    assert!(!credentials.has_changed().unwrap(), "the same roots are no news");
    assert_eq!(std::fs::read_to_string(&config.tls_ca_file).unwrap(), before);

    let both = BundleDocument { roots: [document.roots, foreign.roots].concat(), ..document };
    joiner.replace_roots(both).await.unwrap();
    let after = std::fs::read_to_string(&config.tls_ca_file).unwrap();
    assert_eq!(after.matches("BEGIN CERTIFICATE").count(), 2);
    let published = credentials.borrow_and_update().clone().unwrap();
    assert_eq!(published.roots_pem, after);
    assert!(published.node_ca.is_some(), "the rest of the set stays");
}
