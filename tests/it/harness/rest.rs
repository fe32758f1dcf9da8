//! The Kubernetes API as a fast client sees it: one request a connection, the answer or the loss of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kubeedge::identity::{KeyPair, client_tls};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;

use super::process::unchunk;

/// Longer than any answer takes, shorter than a test waits.
const DEADLINE: Duration = Duration::from_secs(15);

/// A client with an administrator's kubeconfig.
#[derive(Clone)]
pub struct Rest {
    address: String,
    tls: Arc<ClientConfig>,
}

impl Rest {
    pub fn from(kubeconfig: &Path) -> Self {
        let config: Value = yaml_serde::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap();
        let pem = |pointer: &str| String::from_utf8(STANDARD.decode(text(pointer)).unwrap()).unwrap();
        let pair = KeyPair {
            cert_pem: pem("/users/0/user/client-certificate-data"),
            key_pem: pem("/users/0/user/client-key-data"),
        };
        let ca = pem("/clusters/0/cluster/certificate-authority-data");
        let address = text("/clusters/0/cluster/server").trim_start_matches("https://").to_owned();
        Self { address, tls: client_tls(&ca, Some(&pair)).unwrap() }
    }

    /// Status and body; or the connection's error, and then nobody knows whether it was done.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), String> {
        let error = |err: std::io::Error| err.to_string();
        let tcp = TcpStream::connect(&self.address).map_err(error)?;
        tcp.set_read_timeout(Some(DEADLINE)).map_err(error)?;
        tcp.set_write_timeout(Some(DEADLINE)).map_err(error)?;
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(Arc::clone(&self.tls), name).map_err(|err| err.to_string())?;
        let mut tls = StreamOwned::new(session, tcp);
        let kind = match (method, body) {
            ("PATCH", Some(Value::Array(_))) => "application/json-patch+json",
            ("PATCH", _) => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: application/json\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        tls.write_all(&[head.as_bytes(), body.as_bytes()].concat()).map_err(error)?;
        let mut answer = Vec::new();
        let end = tls.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) =
            answer.split_once("\r\n\r\n").ok_or_else(|| format!("the answer ended early: {end:?}"))?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or("no status")?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        let body = serde_json::from_str(&body).map_err(|err| format!("{err} in {body:?}, {end:?}"))?;
        Ok((status, body))
    }

    /// An object or a list that must be there.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        match self.call("GET", path, None)? {
            (200, value) => Ok(value),
            (status, value) => Err(format!("GET {path}: {status} {value}")),
        }
    }
}
