//! What says who may come in: the password file, and the certificates of the TLS listeners, which are
//! the node's identity or files of the configuration. Files are read again when they change, the
//! identity is taken when it was renewed; what cannot be read leaves the last good state.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::hmac;
use ring::rand::SystemRandom;
use rustls::ServerConfig;
use tokio::sync::Semaphore;

use super::certificate::{self, Shown};
use super::password::Passwords;
use crate::bus::identity::Credentials;
use crate::config::InternalBrokerConfig;
use crate::identity::{ClientAuth, EdgeDoor, KeyPair, NodeCredentials, TrustBundle};
use crate::model::NodeName;

const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// Passwords hashed at once: more would take the node's processors from everybody else.
const HASHES_AT_ONCE: usize = 2;
/// Good logins that are remembered, so that reconnecting clients cost no hash.
const REMEMBERED: usize = 1_024;
/// A wrong password is answered so much later.
const WRONG_PAUSE: Duration = Duration::from_millis(500);

/// Knows passwords and certificates.
pub struct Gatekeeper {
    passwords: RefCell<Arc<Passwords>>,
    door: RefCell<Option<Door>>,
    remembered: RefCell<HashMap<String, hmac::Tag>>,
    /// Of this process: what is remembered is worth nothing elsewhere.
    key: Option<hmac::Key>,
    hashing: Semaphore,
}

/// What a TLS handshake is done with: what is shown, and who is let in.
#[derive(Clone)]
pub struct Door {
    pub tls: Arc<ServerConfig>,
    pub rule: Arc<EdgeDoor>,
}

/// What the files say now.
struct Found {
    passwords: Option<Result<Passwords, String>>,
    door: Option<Result<Door, String>>,
}

/// What was read last, and what is needed to read it again.
#[derive(Clone)]
struct Reader {
    node: NodeName,
    config: InternalBrokerConfig,
    passwords: Option<String>,
    files: Option<[String; 3]>,
    credentials: Option<Arc<NodeCredentials>>,
    /// When the certificate that the node's CA signed for this broker is to be replaced.
    renew_at: Option<SystemTime>,
}

impl Gatekeeper {
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            passwords: RefCell::default(),
            door: RefCell::default(),
            remembered: RefCell::default(),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        })
    }

    /// For the next TLS handshake; `None` while there is no certificate.
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        self.door.borrow().clone()
    }

    /// Checks a password off this thread, by the file as it is when the answer is given.
    pub async fn verify(&self, user: &str, password: &[u8]) -> bool {
        if let (Some(key), Some(tag)) = (&self.key, self.remembered.borrow().get(user))
            && hmac::verify(key, password, tag.as_ref()).is_ok()
        {
            return true;
        }
        let is_right = loop {
            // The caller's deadline bounds the wait.
            let Ok(_place) = self.hashing.acquire().await else { return false };
            let passwords = Arc::clone(&self.passwords.borrow());
            let (name, word, by) = (user.to_owned(), password.to_vec(), Arc::clone(&passwords));
            let is_right = tokio::task::spawn_blocking(move || by.verify(&name, &word)).await;
            if Arc::ptr_eq(&passwords, &self.passwords.borrow()) {
                break is_right;
            }
            // The file was replaced meanwhile: what was right by the old one may not be remembered.
        };
        // Others need not wait for the pause: wrong passwords must not keep right ones out.
        if !matches!(is_right, Ok(true)) {
            tokio::time::sleep(WRONG_PAUSE).await;
            return false;
        }
        if let Some(key) = &self.key {
            let mut remembered = self.remembered.borrow_mut();
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
            remembered.insert(user.to_owned(), hmac::sign(key, password));
        }
        true
    }

    /// Reads the files, now and again, and the node's credentials whenever they change, for ever.
    pub async fn keep_reading(
        self: Rc<Self>,
        node: NodeName,
        config: InternalBrokerConfig,
        mut credentials: Credentials,
    ) {
        if config.password_file.as_os_str().is_empty() && !config.speaks_tls() {
            return;
        }
        let mut reader =
            Reader { node, config, passwords: None, files: None, credentials: None, renew_at: None };
        let mut said = String::new();
        loop {
            let now_credentials = credentials.borrow_and_update().clone();
            let mut next = reader.clone();
            let read = tokio::task::spawn_blocking(move || {
                let found = next.read(now_credentials, SystemTime::now());
                (next, found)
            });
            if let Ok((next, found)) = read.await {
                reader = next;
                let wrong = self.take(found);
                if !wrong.is_empty() && wrong != said {
                    tracing::error!(error = %wrong, "the MQTT broker keeps what it had");
                }
                said = wrong;
            }
            tokio::select! {
                changed = credentials.changed() => if changed.is_err() {
                    // The writer is gone with the program, or there never was one.
                    tokio::time::sleep(RELOAD_EVERY).await;
                },
                () = tokio::time::sleep(RELOAD_EVERY) => {}
            }
        }
    }

    /// Takes over what is good; what is not, in words.
    fn take(&self, found: Found) -> String {
        let mut wrong = String::new();
        match found.passwords {
            Some(Ok(passwords)) => {
                self.remembered.borrow_mut().clear();
                tracing::info!(?passwords, "password file read");
                self.passwords.replace(Arc::new(passwords));
            }
            Some(Err(why)) => wrong.push_str(&why),
            None => {}
        }
        match found.door {
            Some(Ok(door)) => drop(self.door.replace(Some(door))),
            Some(Err(why)) => wrong.push_str(&why),
            None => {}
        }
        wrong
    }
}

impl Reader {
    fn read(&mut self, credentials: Option<Arc<NodeCredentials>>, now: SystemTime) -> Found {
        let mut found = Found { passwords: None, door: None };
        if !self.config.password_file.as_os_str().is_empty() {
            match text("modules.eventBus.internal.passwordFile", &self.config.password_file) {
                Ok(text) if self.passwords.as_deref() == Some(&text) => {}
                Ok(text) => {
                    let file = self.config.password_file.display();
                    found.passwords = Some(Passwords::parse(&text).map_err(|err| format!("{file}: {err}; ")));
                    self.passwords = Some(text);
                }
                Err(why) => found.passwords = Some(Err(why)),
            }
        }
        if self.config.speaks_tls() {
            found.door = if self.config.has_tls_files() {
                self.door_of_files(credentials)
            } else {
                self.door_of_identity(credentials, now)
            };
        }
        found
    }

    /// `None`: nothing has changed.
    fn door_of_files(&mut self, credentials: Option<Arc<NodeCredentials>>) -> Option<Result<Door, String>> {
        let texts = match self.certificate_files() {
            Ok(texts) => texts,
            Err(why) => return Some(Err(why)),
        };
        if self.files.as_ref() == Some(&texts) && same(&self.credentials, &credentials) {
            return None;
        }
        let made = self.with_files(&texts, credentials.as_deref());
        (self.files, self.credentials) = (Some(texts), credentials);
        Some(made.map_err(|err| format!("modules.eventBus.internal.tlsCertFile: {err}; ")))
    }

    fn with_files(&self, texts: &[String; 3], node: Option<&NodeCredentials>) -> Result<Door, String> {
        let [ca, cert_pem, key_pem] = texts;
        let pair = KeyPair { cert_pem: cert_pem.clone(), key_pem: key_pem.clone() };
        let bundle = node.map(bundle).transpose()?.flatten();
        let rule = EdgeDoor::new(self.node.clone(), bundle, self.auth());
        self.door(rule.with_named(ca).map_err(|err| err.to_string())?, &pair)
    }

    /// `None`: nothing has changed.
    fn door_of_identity(
        &mut self,
        credentials: Option<Arc<NodeCredentials>>,
        now: SystemTime,
    ) -> Option<Result<Door, String>> {
        let is_fresh = self.renew_at.is_some_and(|at| now < at);
        if is_fresh && same(&self.credentials, &credentials) {
            return None;
        }
        let key = "modules.eventBus.internal.tlsAddress";
        let Some(node) = credentials else {
            return Some(Err(format!("{key}: this node has no identity yet; ")));
        };
        let made = certificate::issue(&node, now).and_then(|Shown { pair, renew_at }| {
            let bundle = bundle(&node)?;
            Ok((self.door(EdgeDoor::new(self.node.clone(), bundle, self.auth()), &pair)?, renew_at))
        });
        self.credentials = Some(node);
        match made {
            Ok((door, renew_at)) => {
                self.renew_at = Some(renew_at);
                Some(Ok(door))
            }
            Err(why) => {
                self.renew_at = None;
                Some(Err(format!("{key}: {why}; ")))
            }
        }
    }

    fn door(&self, rule: EdgeDoor, pair: &KeyPair) -> Result<Door, String> {
        let rule = Arc::new(rule);
        Ok(Door { tls: rule.tls(pair).map_err(|err| err.to_string())?, rule })
    }

    fn auth(&self) -> ClientAuth {
        if self.config.require_client_certificate { ClientAuth::Required } else { ClientAuth::Optional }
    }

    fn certificate_files(&self) -> Result<[String; 3], String> {
        let key = |name: &str| format!("modules.eventBus.internal.{name}");
        Ok([
            text(&key("tlsCaFile"), &self.config.tls_ca_file)?,
            text(&key("tlsCertFile"), &self.config.tls_cert_file)?,
            text(&key("tlsPrivateKeyFile"), &self.config.tls_private_key_file)?,
        ])
    }
}

/// The node's trust bundle; `None` when its cloud is KubeEdge's, which has no trust domain.
fn bundle(node: &NodeCredentials) -> Result<Option<TrustBundle>, String> {
    if node.trust_domain.is_empty() {
        return Ok(None);
    }
    TrustBundle::from_pem(&node.trust_domain, &node.roots_pem).map(Some).map_err(|err| err.to_string())
}

fn same(one: &Option<Arc<NodeCredentials>>, other: &Option<Arc<NodeCredentials>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// Small text files only.
fn text(key: &str, path: &Path) -> Result<String, String> {
    let shown: PathBuf = path.to_owned();
    let fail = |why: &dyn std::fmt::Display| format!("{key}: cannot read {}: {why}; ", shown.display());
    let size = std::fs::metadata(path).map_err(|err| fail(&err))?.len();
    if size > 1 << 20 {
        return Err(fail(&"it is larger than 1 MiB"));
    }
    std::fs::read_to_string(path).map_err(|err| fail(&err))
}
