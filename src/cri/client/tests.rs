use super::*;

#[test]
fn endpoints() {
    for (text, want) in [
        ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
        ("unix:/run/x.sock", Some("/run/x.sock")),
        ("/run/x.sock", Some("/run/x.sock")),
        ("tcp://127.0.0.1:1", None),
        ("unix://x.sock", None),
        ("", None),
    ] {
        assert_eq!(socket_path(text).ok(), want.map(PathBuf::from), "{text}");
    }
}

#[test]
fn statuses() {
    use tonic::{Code, Status};
    for (status, want) in [
        (Status::new(Code::NotFound, "x"), CriErrorKind::NotFound),
        (Status::new(Code::AlreadyExists, "x"), CriErrorKind::AlreadyExists),
        (Status::new(Code::Unavailable, "x"), CriErrorKind::Unavailable),
        (Status::new(Code::DeadlineExceeded, "x"), CriErrorKind::Timeout),
        (Status::new(Code::Unknown, "failed to start"), CriErrorKind::Other),
        (Status::new(Code::Unknown, "server is not initialized yet"), CriErrorKind::Unavailable),
        (Status::new(Code::Unknown, "name \"a\" is reserved for \"b\""), CriErrorKind::AlreadyExists),
        (Status::from_error(Box::new(std::io::Error::other("gone"))), CriErrorKind::Unavailable),
    ] {
        assert_eq!(error("Version", &status).kind, want, "{status}");
    }
}

#[tokio::test]
async fn an_absent_runtime_is_unavailable_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let client = CriClient::new(socket.to_str().unwrap(), Duration::from_secs(5)).unwrap();
    for _ in 0..2 {
        let error = client.version().await.unwrap_err();
        assert_eq!(error.kind, CriErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_runtime_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("silent.sock");
    let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let client = CriClient::new(socket.to_str().unwrap(), Duration::from_secs(2)).unwrap();
    let error = client.version().await.unwrap_err();
    assert_eq!(error.kind, CriErrorKind::Timeout, "{error}");
}
