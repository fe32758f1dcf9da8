use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use super::*;
use crate::actors::edge::edge_hub::tests::authority::Authority;
use crate::identity::{NodeRequest, write_atomic};

fn config(folder: &Path) -> EdgeHubConfig {
    EdgeHubConfig {
        tls_ca_file: folder.join("ca/rootCA.crt"),
        tls_cert_file: folder.join("certs/server.crt"),
        tls_private_key_file: folder.join("keys/server.key"),
        bootstrap_file: folder.join("bootstrap.conf"),
        ..EdgeHubConfig::default()
    }
}

fn node() -> NodeName {
    NodeName::parse("edge-1").unwrap()
}

/// Everything that decides whether two sets are the same.
fn parts(credentials: &NodeCredentials) -> [String; 6] {
    let ca = credentials.node_ca.clone();
    let (ca_cert, ca_key) = ca.map(|pair| (pair.cert_pem, pair.key_pem)).unwrap_or_default();
    [
        credentials.roots_pem.clone(),
        credentials.svid.cert_pem.clone(),
        credentials.svid.key_pem.clone(),
        ca_cert,
        ca_key,
        credentials.jwt_key_pem.clone().unwrap_or_default(),
    ]
}

fn loaded(places: &Places) -> Option<[String; 6]> {
    load(places, &node()).unwrap().map(|identity| parts(&identity.credentials))
}

/// As a KubeEdge cloud would have issued it.
fn bare(credentials: &NodeCredentials) -> NodeCredentials {
    NodeCredentials { node_ca: None, jwt_key_pem: None, ..credentials.clone() }
}

#[test]
fn a_crash_after_any_step_leaves_one_whole_set() {
    let authority = Authority::new();
    let (first, second) = (authority.credentials("edge-1"), authority.credentials("edge-1"));
    for (case, old, new) in [
        ("first join", None, &first),
        ("renewal", Some(&first), &second),
        ("from a KubeEdge cloud", Some(&bare(&first)), &second),
        ("to a KubeEdge cloud", Some(&first), &bare(&second)),
    ] {
        let steps = saving(&Places::new(&config(Path::new("/x"))), new).unwrap().len();
        assert_eq!(steps, 8, "{case}");
        for done in 0..=steps {
            let dir = tempfile::tempdir().unwrap();
            let places = Places::new(&config(dir.path()));
            if let Some(old) = old {
                save(&places, old).unwrap();
            }
            for step in saving(&places, new).unwrap().iter().take(done) {
                step.run().unwrap();
            }
            let want = if done == 0 { old.map(parts) } else { Some(parts(new)) };
            assert_eq!(loaded(&places), want, "{case}, {done} steps");
            assert!(!places.staged.exists(), "{case}, {done} steps");
            // Whoever finishes may be killed as well, and what comes next still works.
            save(&places, &second).unwrap();
            assert_eq!(loaded(&places), Some(parts(&second)), "{case}, {done} steps, and then renewed");
        }
    }
}

#[test]
fn a_crash_while_a_crash_is_mended() {
    let authority = Authority::new();
    let (old, new) = (authority.credentials("edge-1"), authority.credentials("edge-1"));
    for done in 0..7 {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(&config(dir.path()));
        save(&places, &old).unwrap();
        saving(&places, &new).unwrap()[0].run().unwrap();
        for step in Set::of(&new).install(&places).iter().take(done) {
            step.run().unwrap();
        }
        assert_eq!(loaded(&places), Some(parts(&new)), "{done}");
    }
}

#[test]
fn every_file_is_the_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::new(&config(dir.path()));
    save(&places, &Authority::new().credentials("edge-1")).unwrap();
    for file in
        [&places.roots, &places.svid, &places.svid_key, &places.node_ca, &places.node_ca_key, &places.jwt_key]
    {
        assert_eq!(
            std::fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
}

#[test]
fn damage_is_named_or_mended() {
    let authority = Authority::new();
    let (one, other) = (authority.credentials("edge-1"), authority.credentials("edge-1"));
    let dir = tempfile::tempdir().unwrap();
    let places = Places::new(&config(dir.path()));
    assert!(load(&places, &node()).unwrap().is_none());

    let rotten = |file: &Path, bytes: &[u8]| {
        save(&places, &one).unwrap();
        write_atomic(file, bytes, KEY_MODE).unwrap();
        load(&places, &node())
    };
    let broken = |file: &Path, text: &str| rotten(file, text.as_bytes());
    let foreign_key = other.svid.key_pem.as_str();
    for (case, file, text, want) in [
        ("no certificate", &places.svid, "x", "server.crt"),
        ("another key", &places.svid_key, foreign_key, "server.crt"),
        ("no roots", &places.roots, "", "server.crt"),
    ] {
        let err = broken(file, text).unwrap_err().to_string();
        assert!(err.contains(want), "{case}: {err}");
    }
    let other_ca = other.node_ca.clone().unwrap();
    for (case, file, text) in [
        ("damaged node CA", &places.node_ca, "x"),
        ("another's key", &places.node_ca_key, other_ca.key_pem.as_str()),
    ] {
        let found = broken(file, text).unwrap().unwrap();
        assert_eq!(parts(&found.credentials), parts(&bare(&one)), "{case}");
        assert!(found.node_ca.is_none(), "{case}");
    }
    for set in [&b"{\"roots\":"[..], b"\xff\0\xfe"] {
        let found = rotten(&places.staged, set).unwrap().unwrap();
        assert_eq!(parts(&found.credentials), parts(&one));
        assert!(!places.staged.exists());
    }
    save(&places, &one).unwrap();
    std::fs::remove_file(&places.roots).unwrap();
    let err = load(&places, &node()).unwrap_err().to_string();
    assert!(err.contains("rootCA.crt") && err.contains("missing"), "{err}");
}

#[test]
fn what_was_asked_with_a_token_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let places = Places::new(&config);
    let (request, keys) = NodeRequest::new(&node()).unwrap();
    let asked = Asked {
        token_hash: "aa".into(),
        request,
        svid_key: keys.svid_key_pem,
        ca_key: keys.ca_key_pem,
        jwt_key: keys.jwt_key_pem,
    };
    assert!(load_asked(&places, "aa").unwrap().is_none());
    save_asked(&places, &asked).unwrap();
    assert_eq!(load_asked(&places, "aa").unwrap(), Some(asked.clone()));
    assert!(load_asked(&places, "bb").unwrap().is_none(), "another token");
    assert!(!format!("{asked:?}").contains("PRIVATE"));
    write_atomic(&config.bootstrap_file, b"token", KEY_MODE).unwrap();
    forget_asked(&places, &config.bootstrap_file).unwrap();
    forget_asked(&places, &config.bootstrap_file).unwrap();
    assert!(load_asked(&places, "aa").unwrap().is_none() && !config.bootstrap_file.exists());
    for damaged in [&br#"{"tokenHash": 1}"#[..], b"\xff\0\xfe"] {
        write_atomic(&places.asked, damaged, KEY_MODE).unwrap();
        assert!(load_asked(&places, "aa").unwrap().is_none(), "asked anew");
    }
}

#[test]
fn the_node_cas_end_is_known() {
    let credentials = Authority::new().credentials("edge-1");
    let identity = Identity::new(credentials).unwrap();
    let hour = Duration::from_secs(3500);
    assert!(identity.node_ca.unwrap().not_after > SystemTime::now() + hour);
    assert_eq!(identity.certificate.node, Some(node()));
}

#[test]
fn what_killed_writes_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::new(&config(dir.path()));
    save(&places, &Authority::new().credentials("edge-1")).unwrap();
    let keys = dir.path().join("keys");
    let left: Vec<PathBuf> =
        [".server.key.0a1b2c3d.tmp", ".node-ca.key.ffffffff.tmp", ".credentials.next.00000000.tmp"]
            .map(|name| keys.join(name))
            .into();
    let kept: Vec<PathBuf> =
        [".server.key.tmp", ".server.key.0a1b2c3.tmp", ".other.key.0a1b2c3d.tmp", "server.key.0a1b2c3d.tmp"]
            .map(|name| keys.join(name))
            .into();
    for file in left.iter().chain(&kept) {
        std::fs::write(file, "x").unwrap();
    }
    let now = SystemTime::now();
    sweep(&places, now);
    assert!(left.iter().chain(&kept).all(|file| file.exists()), "somebody may be writing");
    sweep(&places, now + Duration::from_secs(120));
    assert!(!left.iter().any(|file| file.exists()) && kept.iter().all(|file| file.exists()));
    assert!(load(&places, &node()).unwrap().is_some());
}
