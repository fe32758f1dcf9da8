use super::*;
use crate::identity::{Ca, CaSettings, KEY_MODE};

fn config(folder: &Path) -> EdgeHubConfig {
    EdgeHubConfig {
        tls_ca_file: folder.join("ca/rootCA.crt"),
        tls_cert_file: folder.join("certs/server.crt"),
        tls_private_key_file: folder.join("certs/server.key"),
        bootstrap_file: folder.join("bootstrap.conf"),
        ..EdgeHubConfig::default()
    }
}

fn identity(ca: &Ca, node: &str) -> Identity {
    let node = NodeName::parse(node).unwrap();
    let (csr, key_pem) = new_node_csr(&node).unwrap();
    let hour = Duration::from_secs(3600);
    let der = ca.sign_node_csr(&csr, &node, hour, None, SystemTime::now()).unwrap().swap_remove(0);
    let pair = KeyPair { cert_pem: cert_pem_from_der(&der), key_pem };
    Identity { ca_pem: ca.cert_pem(), pair, certificate: Certificate::from_der(&der).unwrap() }
}

fn pair_of(config: &EdgeHubConfig) -> Option<(String, String)> {
    load(config).unwrap().map(|found| (found.pair.cert_pem, found.pair.key_pem))
}

#[test]
fn a_crash_between_the_writes_leaves_a_pair_that_belongs_together() {
    let dir = tempfile::tempdir().unwrap();
    let ca =
        Ca::open(CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key")), SystemTime::now())
            .unwrap();
    let (old, new) = (identity(&ca, "edge-1"), identity(&ca, "edge-1"));
    let pair = |identity: &Identity| Some((identity.pair.cert_pem.clone(), identity.pair.key_pem.clone()));
    for (case, steps, want) in [
        ("before anything", 0, pair(&old)),
        ("new key beside", 1, pair(&old)),
        ("both beside", 2, pair(&new)),
        ("key moved", 3, pair(&new)),
        ("both moved", 4, pair(&new)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        save(&config, &old).unwrap();
        let (cert, key) = (next(&config.tls_cert_file), next(&config.tls_private_key_file));
        if steps > 0 {
            write_atomic(&key, new.pair.key_pem.as_bytes(), KEY_MODE).unwrap();
        }
        if steps > 1 {
            write_atomic(&cert, new.pair.cert_pem.as_bytes(), KEY_MODE).unwrap();
        }
        if steps > 2 {
            rename(&key, &config.tls_private_key_file).unwrap();
        }
        if steps > 3 {
            rename(&cert, &config.tls_cert_file).unwrap();
        }
        assert_eq!(pair_of(&config), want, "{case}");
        save(&config, &new).unwrap();
        assert_eq!(pair_of(&config), pair(&new), "{case}: and it can be renewed again");
    }
}

#[actix::test]
async fn what_is_on_disk_decides() {
    let dir = tempfile::tempdir().unwrap();
    let ca =
        Ca::open(CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key")), SystemTime::now())
            .unwrap();
    let config = config(dir.path());
    let joiner = Joiner::new(NodeName::parse("edge-1").unwrap(), Arc::new(config.clone()));

    let err = joiner.ensure().await.unwrap_err();
    assert!(matches!(err, JoinError::NeedsToken { .. }), "{err}");
    assert!(err.to_string().contains("keadm gettoken"), "{err}");

    std::fs::write(&config.bootstrap_file, "nonsense\n").unwrap();
    assert!(matches!(joiner.ensure().await.unwrap_err(), JoinError::Token(_)));

    save(&config, &identity(&ca, "edge-2")).unwrap();
    let err = joiner.ensure().await.unwrap_err();
    assert!(matches!(&err, JoinError::OtherNode { found, .. } if found == "system:node:edge-2"), "{err}");
    assert!(config.bootstrap_file.exists(), "no silent join under another name");

    save(&config, &identity(&ca, "edge-1")).unwrap();
    joiner.ensure().await.unwrap();
    std::fs::remove_file(&config.tls_ca_file).unwrap();
    let err = joiner.ensure().await.unwrap_err().to_string();
    assert!(err.contains("rootCA.crt"), "{err}");
}
