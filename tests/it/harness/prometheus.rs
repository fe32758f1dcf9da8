//! A real Prometheus on loopback.
#![allow(dead_code, reason = "the benchmarks share this harness")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::{PATIENCE, Process, free_port, http, until};

/// Prometheus with a configuration of the test's. Ends when the test lets go of it.
pub struct Prometheus {
    pub address: String,
    process: Process,
}

impl Prometheus {
    /// Starts it under `dir` and waits until it is ready. `config` is the whole `prometheus.yml`.
    pub fn start(dir: &Path, config: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let mut prometheus = Self { process: Process::start("prometheus", dir, &mut command), address };
        until("Prometheus is ready", PATIENCE, || prometheus.ready());
        prometheus
    }

    fn ready(&mut self) -> Result<(), String> {
        assert!(self.process.is_running(), "Prometheus ended\n{}", self.process.tail());
        match http("GET", &self.address, "/-/ready", &[])? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// `data` of an answer of `/api/v1/{path}`, or Prometheus' own words about the request.
    pub fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let pairs = parameters.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
        let target = format!("/api/v1/{path}?{}", pairs.collect::<Vec<_>>().join("&"));
        let (_, body) = http("GET", &self.address, &target, &[])?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e} in {body}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].to_string()),
        }
    }
}

fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap();
        }
        out
    })
}
