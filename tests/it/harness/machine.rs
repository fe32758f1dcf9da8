//! A machine that speaks to cloudcore by hand: raw HTTPS to the join server, raw sessions.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubeedge::identity::{
    KeyPair, NodeCredentials, NodeKeys, NodeRequest, REENTRY_CONTEXT, cert_ders_from_pem, client_tls, prove,
    proven, split_join_token,
};
use kubeedge::model::NodeName;
use kubeedge::model::identity::{AttestationRequest, Evidence, RenewalReply, RenewalRequest};
use rustls::{ClientConnection, StreamOwned};

use super::cluster::Cloud;
use super::process::PATIENCE;

type Tls = StreamOwned<ClientConnection, TcpStream>;

pub fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

/// keadm on the cloud's machine: its output, or its complaint.
pub fn keadm(cloud: &Cloud, args: &[&str]) -> Result<String, String> {
    let config = cloud.dir.join("cloudcore.yaml");
    let out =
        Command::new(env!("CARGO_BIN_EXE_keadm")).args(args).arg("--config").arg(config).output().unwrap();
    let (said, complaint) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    if out.status.success() { Ok(said) } else { Err(complaint) }
}

/// A join token without the CA's hash.
pub fn jwt(cloud: &Cloud, args: &[&str]) -> String {
    let token = keadm(cloud, &[&["gettoken"], args].concat()).unwrap();
    split_join_token(&token).unwrap().1
}

pub fn token(cloud: &Cloud, args: &[&str]) -> Evidence {
    Evidence::JoinToken { token: jwt(cloud, args) }
}

fn dial(cloud: &Cloud, port: u16, pair: Option<&KeyPair>) -> Tls {
    let ca = std::fs::read_to_string(cloud.dir.join("ca/rootCA.crt")).unwrap();
    let config = client_tls(&ca, pair).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(&config), name).unwrap(), tcp)
}

/// One request to the join server. The error is that of the connection.
pub fn call(
    cloud: &Cloud,
    line: &str,
    pair: Option<&KeyPair>,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(u16, Vec<u8>), String> {
    let mut tls = dial(cloud, cloud.join_port, pair);
    let mut head =
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    tls.write_all(&[head.as_bytes(), body].concat()).map_err(|err| err.to_string())?;
    let mut answer = Vec::new();
    if let Err(err) = tls.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(err.to_string());
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no answer")?;
    let code = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    Ok((code, answer[end + 4..].to_vec()))
}

/// `POST /identity/node`: what the cloud gave, or status and text.
pub fn attest(
    cloud: &Cloud,
    name: &str,
    evidence: Evidence,
    request: &RenewalRequest,
    pair: Option<&KeyPair>,
) -> Result<RenewalReply, (u16, String)> {
    let body = AttestationRequest { node: name.to_owned(), evidence, request: request.clone() };
    let body = serde_json::to_vec(&body).unwrap();
    match call(cloud, "POST /identity/node", pair, &[], &body) {
        Ok((200, answer)) => Ok(serde_json::from_slice(&answer).unwrap()),
        Ok((code, why)) => Err((code, String::from_utf8(why).unwrap())),
        Err(why) => Err((0, why)),
    }
}

/// Fresh keys, a join, and what the node then holds.
pub fn join(cloud: &Cloud, name: &str, evidence: Evidence) -> Result<NodeCredentials, (u16, String)> {
    let (request, keys): (RenewalRequest, NodeKeys) = NodeRequest::new(&node(name)).unwrap();
    let reply = attest(cloud, name, evidence, &request, None)?;
    Ok(keys.credentials(&node(name), &reply).unwrap())
}

/// Comes back with proof of the key of `last`.
pub fn reenter(cloud: &Cloud, name: &str, last: &KeyPair) -> Result<NodeCredentials, (u16, String)> {
    let (request, keys) = NodeRequest::new(&node(name)).unwrap();
    let chain = cert_ders_from_pem(&last.cert_pem);
    let proof = prove(REENTRY_CONTEXT, &node(name), &proven(&request), chain, &last.key_pem).unwrap();
    let reply = attest(cloud, name, Evidence::Svid { proof }, &request, None)?;
    Ok(keys.credentials(&node(name), &reply).unwrap())
}

/// A session as KubeEdge opens it. It says nothing and acknowledges nothing.
pub struct Session(Tls);

impl Session {
    /// The session, or status and text of the refusal.
    pub fn open(cloud: &Cloud, node_id: &str, pair: &KeyPair) -> Result<Self, (u16, String)> {
        Self::open_with(cloud, node_id, pair, "")
    }

    /// The same with extensions of ours, separated by commas.
    pub fn open_with(
        cloud: &Cloud,
        node_id: &str,
        pair: &KeyPair,
        extensions: &str,
    ) -> Result<Self, (u16, String)> {
        let mut tls = dial(cloud, cloud.hub_port, Some(pair));
        let head = format!(
            "GET /e632aba927ea4ac2b575ec1603d56f10/{node_id}/events HTTP/1.1\r\nHost: x\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: zJAdv+Yl9/VYB7b+LNYF0g==\r\nConnectionUse: msg\r\nnode_id: {node_id}\r\n\
             Kubeedge-Extensions: {extensions}\r\n\r\n"
        );
        let lost = |err: std::io::Error| (0, err.to_string());
        tls.write_all(head.as_bytes()).map_err(lost)?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            if tls.read(&mut byte).map_err(lost)? == 0 {
                return Err((0, "closed".to_owned()));
            }
            answer.push(byte[0]);
        }
        let code = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        if code == 101 {
            return Ok(Self(tls));
        }
        let mut why = String::new();
        drop(tls.read_to_string(&mut why));
        Err((code, why))
    }

    /// One text frame, whole. Clients mask (RFC 6455, 5.3); a key of zeros leaves it readable.
    pub fn say(&mut self, text: &[u8]) -> std::io::Result<()> {
        let mut frame = vec![0x81];
        match u16::try_from(text.len()) {
            Ok(length @ ..126) => frame.push(0x80 | length as u8),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((text.len() as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text);
        self.0.write_all(&frame)?;
        self.0.flush()
    }

    /// Raw bytes, again and again until the cloud takes no more: how many it took.
    pub fn pour(&mut self, head: &[u8], piece: &[u8], most: u64) -> u64 {
        super::hostile::pour(&mut self.0, head, piece, most)
    }

    /// What the cloud has said so far, at the end of `heard`.
    pub fn hear(&mut self, heard: &mut Vec<u8>) {
        self.0.sock.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut piece = [0; 16 << 10];
        while let Ok(count @ 1..) = self.0.read(&mut piece) {
            heard.extend_from_slice(&piece[..count]);
        }
        self.0.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Waits until the cloud closes it: how long that took.
    pub fn closed(mut self) -> Duration {
        let begun = Instant::now();
        let mut rest = [0; 4096];
        loop {
            match self.0.read(&mut rest) {
                Ok(0) => return begun.elapsed(),
                Ok(_) => assert!(begun.elapsed() < PATIENCE, "it stays open"),
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("it stays open: {err}")
                }
                Err(_) => return begun.elapsed(),
            }
        }
    }
}
