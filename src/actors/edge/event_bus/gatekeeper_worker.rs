//! Files that say who may come in: the password file, and the certificates of the TLS listeners.
//! They are read again when they change; what cannot be read leaves the last good state.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use ring::rand::SystemRandom;
use rustls::ServerConfig;
use tokio::sync::Semaphore;

use super::password::Passwords;
use crate::config::InternalBrokerConfig;
use crate::identity::{ClientAuth, KeyPair, server_tls};

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
    tls: RefCell<Option<Arc<ServerConfig>>>,
    remembered: RefCell<HashMap<String, hmac::Tag>>,
    /// Of this process: what is remembered is worth nothing elsewhere.
    key: Option<hmac::Key>,
    hashing: Semaphore,
}

/// What the files say now.
struct Found {
    passwords: Option<Result<Passwords, String>>,
    tls: Option<Result<Arc<ServerConfig>, String>>,
}

/// The files as they were read last.
#[derive(Clone, Default, PartialEq)]
struct Contents {
    passwords: Option<String>,
    tls: Option<[String; 3]>,
}

impl Gatekeeper {
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            passwords: RefCell::default(),
            tls: RefCell::default(),
            remembered: RefCell::default(),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        })
    }

    /// For the next TLS handshake; `None` while there is no certificate.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.borrow().clone()
    }

    /// Checks a password off this thread. `None`: too many are being checked.
    pub async fn verify(&self, user: &str, password: &[u8]) -> bool {
        if let (Some(key), Some(tag)) = (&self.key, self.remembered.borrow().get(user))
            && hmac::verify(key, password, tag.as_ref()).is_ok()
        {
            return true;
        }
        // The caller's deadline bounds the wait.
        let Ok(place) = self.hashing.acquire().await else { return false };
        let passwords = Arc::clone(&self.passwords.borrow());
        let (name, word) = (user.to_owned(), password.to_vec());
        let is_right = tokio::task::spawn_blocking(move || passwords.verify(&name, &word)).await;
        // Others need not wait for the pause: wrong passwords must not keep right ones out.
        drop(place);
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

    /// Reads the files, now and again, for ever.
    pub async fn keep_reading(self: Rc<Self>, config: InternalBrokerConfig) {
        let wants_tls = !config.tls_address.is_empty() || config.websocket_tls;
        if config.password_file.as_os_str().is_empty() && !wants_tls {
            return;
        }
        let mut before = Contents::default();
        let mut said = String::new();
        loop {
            let (config, known) = (config.clone(), before.clone());
            let read = tokio::task::spawn_blocking(move || read(&config, wants_tls, known)).await;
            if let Ok((contents, found)) = read {
                before = contents;
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
                match found.tls {
                    Some(Ok(tls)) => drop(self.tls.replace(Some(tls))),
                    Some(Err(why)) => wrong.push_str(&why),
                    None => {}
                }
                if !wrong.is_empty() && wrong != said {
                    tracing::error!(error = %wrong, "the MQTT broker keeps what it had");
                    said = wrong;
                }
            }
            tokio::time::sleep(RELOAD_EVERY).await;
        }
    }
}

fn read(config: &InternalBrokerConfig, wants_tls: bool, before: Contents) -> (Contents, Found) {
    let mut now = before.clone();
    let mut found = Found { passwords: None, tls: None };
    if !config.password_file.as_os_str().is_empty() {
        match text("modules.eventBus.internal.passwordFile", &config.password_file) {
            Ok(text) if before.passwords.as_deref() == Some(&text) => {}
            Ok(text) => {
                let file = config.password_file.display();
                found.passwords = Some(Passwords::parse(&text).map_err(|err| format!("{file}: {err}; ")));
                now.passwords = Some(text);
            }
            Err(why) => found.passwords = Some(Err(why)),
        }
    }
    if wants_tls {
        match certificate(config) {
            Ok(texts) if before.tls.as_ref() == Some(&texts) => {}
            Ok(texts) => {
                found.tls = Some(tls(config, &texts));
                now.tls = Some(texts);
            }
            Err(why) => found.tls = Some(Err(why)),
        }
    }
    (now, found)
}

fn certificate(config: &InternalBrokerConfig) -> Result<[String; 3], String> {
    let key = |name: &str| format!("modules.eventBus.internal.{name}");
    Ok([
        text(&key("tlsCaFile"), &config.tls_ca_file)?,
        text(&key("tlsCertFile"), &config.tls_cert_file)?,
        text(&key("tlsPrivateKeyFile"), &config.tls_private_key_file)?,
    ])
}

fn tls(config: &InternalBrokerConfig, texts: &[String; 3]) -> Result<Arc<ServerConfig>, String> {
    let [ca, cert_pem, key_pem] = texts;
    let pair = KeyPair { cert_pem: cert_pem.clone(), key_pem: key_pem.clone() };
    let auth = if config.require_client_certificate { ClientAuth::Required } else { ClientAuth::Optional };
    server_tls(&pair, ca, auth).map_err(|err| format!("modules.eventBus.internal.tlsCertFile: {err}; "))
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
