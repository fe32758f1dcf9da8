//! A running API server on a free port, and the real kubectl pointed at it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use actix::System;
use jiff::Timestamp;
use kubeedge::actors::cloud::api_server::{ApiServer, ApiServerParts};
use kubeedge::apiserver::http::Deadlines;
use kubeedge::apiserver::{ApiCore, ApiSettings, kubeconfig};
use kubeedge::identity::{self, Ca, CaSettings, KeyPair, ServiceAccountKeys};
use kubeedge::store::{RocksStore, Tuning};
use kubeedge::supervise::{MAIN_THREAD, Policy, Tree, TreeHandle, TreeSettings};

use super::process::{Process, eventually};

/// The server, its folder, and a HOME of its own for kubectl.
pub struct Api {
    pub core: Arc<ApiCore>,
    pub ca: Arc<Ca>,
    pub url: String,
    pub address: SocketAddr,
    pub tree: TreeHandle,
    pub dir: tempfile::TempDir,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Api {
    /// Starts on a free port of 127.0.0.1 and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(Deadlines::default())
    }

    pub fn start_with(deadlines: Deadlines) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let ca = Ca::open(
            CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key")),
            SystemTime::now(),
        )
        .expect("ca");
        let ca = Arc::new(ca);
        let keys = ServiceAccountKeys::load_or_create(&dir.path().join("sa.key")).expect("keys");
        let store = RocksStore::open(&dir.path().join("db"), Tuning::cloud()).expect("store");
        let core = ApiCore::start(ApiSettings {
            store: Arc::new(store),
            keys: Arc::new(keys),
            ca_pem: ca.cert_pem(),
            clock: Arc::new(Timestamp::now),
        })
        .expect("core");
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("address");
        let parts = ApiServerParts {
            core: Arc::clone(&core),
            ca: Arc::clone(&ca),
            tls: Arc::new(kubeconfig::server_tls(&ca, address, &[]).expect("tls")),
            listener: Arc::new(listener),
            kubeconfig: dir.path().join("admin.conf"),
            deadlines,
        };
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            System::new().block_on(async {
                let mut tree = Tree::new("api", TreeSettings::default());
                let slot = tree.slot("ApiServer", 16);
                tree.add(slot, MAIN_THREAD, Policy::default(), move || ApiServer::new(parts));
                let running = tree.start().expect("tree");
                send.send(running.handle()).expect("send");
                running.wait_for_end().await;
            });
        });
        let tree = receive.recv().expect("tree");
        let url = kubeconfig::server_url(address);
        let api = Self { core, ca, url, address, tree, dir, thread: Some(thread) };
        api.wait_for_file("admin.conf");
        api
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the folder and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("write");
        path.to_str().expect("utf-8").to_owned()
    }

    fn wait_for_file(&self, name: &str) {
        let path = self.path(name);
        eventually(&format!("{name} exists"), || path.exists());
    }

    /// A kubectl command line as the administrator.
    pub fn command(&self, kubectl: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(kubectl);
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KUBECONFIG", self.path("admin.conf"))
            .arg(format!("--cache-dir={}", self.path("cache").display()))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl to its end.
    pub fn run(&self, kubectl: &Path, args: &[&str]) -> Output {
        self.command(kubectl, args).output().expect("kubectl runs")
    }

    /// Runs kubectl and expects success; returns what it printed.
    pub fn ok(&self, kubectl: &Path, args: &[&str]) -> String {
        let output = self.run(kubectl, args);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?} failed\nstdout: {out}\nstderr: {err}");
        out
    }

    /// Runs kubectl and expects failure; returns what it complained.
    pub fn fails(&self, kubectl: &Path, args: &[&str]) -> String {
        let output = self.run(kubectl, args);
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "kubectl {args:?} succeeded: {out}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts kubectl and leaves it running; its output is the log of the process.
    pub fn spawn(&self, kubectl: &Path, args: &[&str], name: &str) -> Process {
        Process::start(name, self.dir.path(), &mut self.command(kubectl, args))
    }

    /// Writes bytes into a TLS connection and returns what comes back until the server closes it.
    pub fn raw(&self, client: Option<&KeyPair>, text: &[u8]) -> String {
        let tls = identity::client_tls(&self.ca.cert_pem(), client).expect("client tls");
        let name = "localhost".try_into().expect("name");
        let mut session = rustls::ClientConnection::new(tls, name).expect("session");
        let mut socket = TcpStream::connect(self.address).expect("connect");
        let mut stream = rustls::Stream::new(&mut session, &mut socket);
        stream.write_all(text).expect("write");
        let mut answer = Vec::new();
        // Closing without a farewell is fine: what was read counts.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.tree.shut_down();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The kubectl binaries to test with: `$KUBECTL` or the one in PATH, and in its place the
/// versioned ones (1.30 and newer) beside it if there are any. Fails when there is none.
pub fn kubectls() -> Vec<PathBuf> {
    let given = std::env::var_os("KUBECTL").map(PathBuf::from).filter(|path| path.is_absolute());
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let in_path = || std::env::split_paths(&paths).map(|dir| dir.join("kubectl")).find(|path| path.is_file());
    let found = given.or_else(in_path).expect("kubectl 1.30 or newer in PATH, or its path in KUBECTL");
    let real = found.canonicalize().expect("kubectl resolves");
    let beside: Vec<PathBuf> = ["kubectl.1.30", "kubectl.1.31", "kubectl.1.32", "kubectl.1.33"]
        .iter()
        .map(|name| real.with_file_name(name))
        .filter(|path| path.is_file())
        .collect();
    if beside.is_empty() { vec![found] } else { beside }
}
