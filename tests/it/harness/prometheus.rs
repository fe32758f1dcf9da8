//! Debian's Prometheus, scraping what a test names.
#![allow(dead_code, reason = "the benchmark shares this harness")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::{PATIENCE, Process, free_port, http, until};

pub struct Prometheus {
    /// Ends with the test.
    process: Process,
    address: String,
}

impl Prometheus {
    /// Starts it in `dir`, with one job for each (name, address), scraped every two seconds.
    pub fn start(dir: &Path, jobs: &[(&str, &str)]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let mut config = "global: { scrape_interval: 2s, scrape_timeout: 2s }\nscrape_configs:\n".to_owned();
        for (job, target) in jobs {
            config.push_str(&format!("- job_name: {job}\n  static_configs: [{{ targets: ['{target}'] }}]\n"));
        }
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = Process::start("prometheus", dir, &mut command);
        until("Prometheus is ready", PATIENCE, || match http("GET", &address, "/-/ready", &[])? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        Self { process, address }
    }

    /// The vector that an expression gives now: labels and value of each element.
    pub fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let (status, body) = http("GET", &self.address, &format!("/api/v1/query?query={encoded}"), &[])?;
        let answer: Value = serde_json::from_str(&body).map_err(|err| format!("{status} {err}: {body}"))?;
        let rows = answer["data"]["result"].as_array().ok_or(format!("{expression}: {body}"))?;
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
