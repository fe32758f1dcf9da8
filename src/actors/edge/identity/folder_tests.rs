use std::os::unix::fs::symlink;

use super::*;

#[test]
fn the_socket_has_a_folder_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/spiffe.sock");
    prepare_folder(&path).unwrap();
    let folder = path.parent().unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    // A socket of before does not matter, nor do tight modes.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    prepare_folder(&path).unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn what_pods_must_not_see_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/spiffe.sock");
    prepare_folder(&path).unwrap();
    fs::write(dir.path().join("run/secret.key"), "x").unwrap();
    let err = prepare_folder(&path).unwrap_err().to_string();
    assert!(err.contains("run/secret.key") && err.contains("workloadApiSocket"), "{err}");
    symlink(dir.path().join("run"), dir.path().join("link")).unwrap();
    let err = prepare_folder(&dir.path().join("link/spiffe.sock")).unwrap_err().to_string();
    assert!(err.contains("is no folder"), "{err}");
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, owner) = if nix::unistd::geteuid().is_root() {
        let folder = dir.path().join("theirs");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(65_534), None).unwrap();
        (folder, 65_534)
    } else {
        (PathBuf::from("/usr"), 0)
    };
    let err = prepare_folder(&folder.join("spiffe.sock")).unwrap_err().to_string();
    assert!(err.contains(&format!("belongs to user {owner} ")), "{err}");
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/spiffe.sock");
    prepare_folder(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = bind(&path).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(bind(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn audiences() {
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert!(check_audiences(&named(&["a"])).is_ok());
    let long = "x".repeat(MAX_AUDIENCE_BYTES + 1);
    for bad in [&[] as &[&str], &[""], &["a", ""], &[&long], &["a"; MAX_AUDIENCES + 1]] {
        assert!(matches!(check_audiences(&named(bad)), Err(Refusal::Invalid(_))), "{bad:?}");
    }
}
