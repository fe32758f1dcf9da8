//! A console without a browser: signs in, and hears a stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::cluster::Kubectl;
use super::process::{PATIENCE, until};

/// A token of a service account of namespace `default`, which it makes where it is not there.
pub fn token(kubectl: &Kubectl, account: &str) -> String {
    lasting_token(kubectl, account, 3_600)
}

/// The same with a life of so many seconds.
pub fn lasting_token(kubectl: &Kubectl, account: &str, seconds: u32) -> String {
    kubectl.apply(&format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: {account} }}\n"));
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {"name": account, "namespace": "default"}, "spec": {"expirationSeconds": seconds}});
    let file = kubectl.file(&format!("{account}.token.json"), &request.to_string());
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    let answer = kubectl.run(&["create", "--raw", &path, "-f", &file]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// Lets a service account of namespace `default` list and watch these resources everywhere.
pub fn allow(kubectl: &Kubectl, account: &str, resources: &[&str]) {
    let rules: Vec<Value> = resources
        .iter()
        .map(|resource| {
            let (name, group) = resource.split_once('.').unwrap_or((resource, ""));
            json!({"apiGroups": [group], "resources": [name], "verbs": ["get", "list", "watch"]})
        })
        .collect();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": account}, "rules": rules});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": account}]});
    kubectl.apply(&role.to_string());
    kubectl.apply(&binding.to_string());
}

/// All that the console shows.
pub const EVERYTHING: [&str; 6] = [
    "nodes",
    "pods",
    "events",
    "devices.devices.kubeedge.io",
    "devicemodels.devices.kubeedge.io",
    "devicestatuses.devices.kubeedge.io",
];

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// As it came, with the status line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let fits = |line: &&str| line.split(':').next().is_some_and(|own| own.eq_ignore_ascii_case(name));
        self.head
            .lines()
            .skip(1)
            .find(fits)
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }
}

/// One request with these headers, `Host` among them where it is not the address.
pub fn ask(method: &str, address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(head(method, address, path, headers, body).as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A refusal may come before all of the body was sent, and then the rest is reset.
    socket.read_to_end(&mut answer).ok();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("no end of the head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

fn head(method: &str, address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n" + body
}

/// Signs in; the `Cookie` header that a browser sends from then on.
pub fn sign_in(address: &str, token: &str) -> Result<String, Answer> {
    let body = json!({ "token": token }).to_string();
    let answer = ask("POST", address, "/console/session", &[("Content-Type", "application/json")], &body);
    match answer.header("set-cookie") {
        Some(cookie) if answer.status == 204 => Ok(cookie.split(';').next().unwrap().to_owned()),
        _ => Err(answer),
    }
}

/// A stream, heard by a thread of its own.
pub struct Stream {
    socket: TcpStream,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    changes: Vec<Value>,
    ended: bool,
}

impl Stream {
    /// Opens it, or gives the answer that refuses.
    pub fn open(address: &str, cookie: &str) -> Result<Self, Answer> {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = head("GET", address, "/console/stream", &[("Cookie", cookie)], "");
        socket.write_all(request.as_bytes()).unwrap();
        let mut lines = BufReader::new(socket.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "it ended in its head: {head:?}");
        }
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status != 200 {
            let mut body = Vec::new();
            lines.read_to_end(&mut body).ok();
            return Err(Answer { status, head, body });
        }
        assert!(head.contains("text/event-stream"), "{head}");
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let writes = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some(data) = line.strip_prefix("data: ") {
                    writes.lock().unwrap().changes.push(serde_json::from_str(data).unwrap());
                }
            }
            writes.lock().unwrap().ended = true;
        });
        Ok(Self { socket, heard })
    }

    /// Everything heard so far.
    pub fn changes(&self) -> Vec<Value> {
        self.heard.lock().unwrap().changes.clone()
    }

    /// Waits for the newest change that `fits`.
    pub fn wait(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(what, PATIENCE, || {
            let heard = self.heard.lock().unwrap();
            let found = heard.changes.iter().rev().find(|change| fits(change)).cloned();
            found.ok_or_else(|| {
                let start = |change: &Value| change.to_string().chars().take(200).collect::<String>();
                let last: Vec<String> = heard.changes.iter().rev().take(20).map(start).collect();
                format!("ended: {}, heard last: {}", heard.ended, last.join("\n"))
            })
        })
    }

    /// Waits until an object is shown so; what is shown.
    pub fn item(&self, kind: &str, key: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let change = self.wait(&format!("{kind} {key}"), |change| {
            let item = &change["item"];
            change["type"] == "put" && item["kind"] == kind && item["key"] == key && fits(item)
        });
        change["item"].clone()
    }

    pub fn wait_end(&self) {
        until("the stream ends", PATIENCE, || {
            if self.heard.lock().unwrap().ended { Ok(()) } else { Err("it goes on".to_owned()) }
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.socket.shutdown(Shutdown::Both).ok();
    }
}
