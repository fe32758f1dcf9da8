//! A real Prometheus on loopback.
#![allow(dead_code, reason = "the benchmarks share this harness")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::{PATIENCE, Process, free_port, http, until};

/// Of [`Prometheus::scraping`]: the interval, and how long a scrape may take.
pub const SCRAPE_SECS: u32 = 5;

/// Prometheus with a configuration of the test's. Ends when the test lets go of it.
pub struct Prometheus {
    pub address: String,
    process: Process,
}

impl Prometheus {
    /// Starts it under `dir` and waits until it is ready. `config` is the whole `prometheus.yml`.
    fn start(dir: &Path, address: String, config: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("prometheus.yml"), config).unwrap();
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

    /// Starts it with `config/prometheus`, the cloudcore whose monitor this is in it, at this pace (`1s`).
    pub fn shipped(dir: &Path, monitor: &str, pace: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus");
        let shipped = fs::read_to_string(folder.join("prometheus.yml")).unwrap();
        let address = local();
        let changed = [
            ("\"cloudcore:9091\"", format!("\"{monitor}\"")),
            ("\"localhost:9090\"", format!("\"{address}\"")),
            ("- rules/*.yml", format!("- {}/rules/*.yml", folder.display())),
            ("scrape_interval: 5s", format!("scrape_interval: {pace}")),
            ("scrape_timeout: 4s", format!("scrape_timeout: {pace}")),
            ("evaluation_interval: 15s", format!("evaluation_interval: {pace}")),
        ];
        let config = changed.iter().fold(shipped, |text, (from, to)| {
            assert!(text.contains(from), "{from} in prometheus.yml");
            text.replace(from, to)
        });
        Self::start(dir, address, &config)
    }

    /// Starts it with one job for each (name, address), scraped every five seconds with as much time for the answer.
    pub fn scraping(dir: &Path, jobs: &[(&str, &str)]) -> Self {
        let pace = SCRAPE_SECS;
        let mut config =
            format!("global: {{ scrape_interval: {pace}s, scrape_timeout: {pace}s }}\nscrape_configs:\n");
        for (job, target) in jobs {
            config.push_str(&format!("- job_name: {job}\n  static_configs: [{{ targets: ['{target}'] }}]\n"));
        }
        Self::start(dir, local(), &config)
    }

    /// The vector that an expression gives now: labels and value of each element.
    pub fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let data = self.ask("query", &[("query", expression)])?;
        let rows = data["result"].as_array().ok_or(format!("{expression}: {data}"))?;
        let value = |row: &Value| row["value"][1].as_str()?.parse().ok();
        Ok(rows.iter().filter_map(|row| Some((row["metric"].clone(), value(row)?))).collect())
    }

    /// The value of an expression that gives one element.
    pub fn value(&self, expression: &str) -> Result<f64, String> {
        match self.query(expression)?.as_slice() {
            [(_, value)] => Ok(*value),
            other => Err(format!("{expression}: {other:?}")),
        }
    }

    /// Waits until the expression gives one element with this value.
    pub fn wait_for(&self, expression: &str, want: f64) {
        until(&format!("{expression} is {want}"), PATIENCE, || match self.value(expression)? {
            is if is == want => Ok(()),
            other => Err(format!("it is {other}")),
        });
    }

    /// A figure of Prometheus itself.
    pub fn own(&self, name: &str) -> f64 {
        let (_, text) = http("GET", &self.address, "/metrics", &[]).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("Prometheus has no {name}")).parse().unwrap()
    }
}

fn local() -> String {
    format!("127.0.0.1:{}", free_port())
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
