//! `config/prometheus`: what promtool says, what each alert must have, and the whole of it on a real
//! Prometheus that scrapes real programs at ease.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use regex_lite::Regex;
use serde_json::Value;

use super::boards::{repository, text};
use super::harness::process::{PATIENCE, Process, until};
use super::harness::prometheus::Prometheus;
use super::main_job::World;

/// Its entries; none where it is left out.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn folder(name: &str) -> Vec<(PathBuf, Value)> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(repository(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let value = yaml_serde::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        (path, value)
    };
    files.into_iter().map(read).collect()
}

/// Every rule, alert or record.
fn rules() -> Vec<Value> {
    let files = folder("config/prometheus/rules");
    let groups = files.iter().flat_map(|(_, file)| items(&file["groups"]));
    groups.flat_map(|group| items(&group["rules"]).cloned()).collect()
}

fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule["alert"].is_string()).collect()
}

fn promtool(args: &[&str]) {
    let out = Command::new("promtool").args(args).current_dir(repository("config/prometheus")).output();
    let out = out.expect("promtool (deploy/tools.sh test installs it)");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "promtool {args:?}\n{}{}", said(&out.stdout), said(&out.stderr));
}

#[test]
fn promtool_takes_the_configuration_and_every_rule_does_what_its_test_says() {
    promtool(&["check", "config", "prometheus.yml"]);
    for (path, _) in folder("config/prometheus/tests") {
        promtool(&["test", "rules", path.to_str().unwrap()]);
    }
}

#[test]
fn every_alert_says_what_it_is_and_has_a_section_in_the_runbook() {
    let runbook = fs::read_to_string(repository("docs/RUNBOOK.md")).unwrap();
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = text(&alert["alert"]).to_owned();
        assert!(name.starts_with("KubeEdge"), "{name}");
        let severity = text(&alert["labels"]["severity"]);
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for annotation in ["summary", "description"] {
            assert!(text(&alert["annotations"][annotation]).len() > 10, "{name} has no {annotation}");
        }
        let url = format!("docs/RUNBOOK.md#{}", name.to_lowercase());
        assert_eq!(text(&alert["annotations"]["runbook_url"]), url, "{name}");
        let at =
            runbook.find(&format!("### {name}\n")).unwrap_or_else(|| panic!("{name} is not in the runbook"));
        let section =
            runbook[at + 4..].split("\n## ").next().and_then(|text| text.split("\n### ").next()).unwrap();
        for part in ["**Means**: ", "**Users notice**: ", "```console\n", "**Mend**: "] {
            assert!(section.contains(part), "{name}: no {part} in the runbook");
        }
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
    let left: Vec<_> = sections.iter().filter(|section| !names.contains(**section)).collect();
    assert!(left.is_empty(), "sections without an alert: {left:?}");
}

#[test]
fn every_rule_is_tested_and_every_alert_both_ways() {
    let mut fires: BTreeMap<String, usize> = BTreeMap::new();
    let mut is_quiet: BTreeSet<String> = BTreeSet::new();
    let mut recorded: BTreeSet<String> = BTreeSet::new();
    for (path, file) in folder("config/prometheus/tests") {
        for test in items(&file["tests"]) {
            recorded.extend(items(&test["promql_expr_test"]).map(|one| text(&one["expr"]).to_owned()));
            for one in items(&test["alert_rule_test"]) {
                let name = text(&one["alertname"]).to_owned();
                let expected: Vec<&Value> = items(&one["exp_alerts"]).collect();
                for alert in &expected {
                    let shown = alert["exp_annotations"].to_string();
                    for broken in ["<no value>", "<error", "{{", "NaN"] {
                        assert!(!shown.contains(broken), "{}: {name}: {shown}", path.display());
                    }
                }
                if expected.is_empty() {
                    is_quiet.insert(name);
                } else {
                    *fires.entry(name).or_default() += expected.len();
                }
            }
        }
    }
    for rule in rules() {
        if let Some(name) = rule["alert"].as_str() {
            assert!(fires.contains_key(name), "no test makes {name} fire");
            assert!(is_quiet.contains(name), "no test keeps {name} quiet");
        } else {
            let name = text(&rule["record"]);
            assert!(recorded.contains(name), "{name} is not tested");
        }
    }
}

/// The families an expression asks for.
fn families_in(expr: &str) -> BTreeSet<String> {
    // A recorded name has a colon.
    let name = Regex::new(r"[a-z_]*:?kubeedge_[a-z0-9_:]+|process_[a-z_]+").unwrap();
    let found = name.find_iter(expr).map(|found| found.as_str()).filter(|name| !name.contains(':'));
    found
        .map(|name| {
            let parts = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            parts.unwrap_or(name).to_owned()
        })
        .collect()
}

#[test]
fn every_figure_that_a_rule_looks_at_is_in_the_reference() {
    let reference = fs::read_to_string(repository("config/prometheus/METRICS.md")).unwrap();
    let known: BTreeSet<&str> = Regex::new(r"(kubeedge|process)_[a-z0-9_]+")
        .unwrap()
        .find_iter(&reference)
        .map(|it| it.as_str())
        .collect();
    let mut asked = 0;
    for rule in rules() {
        for family in families_in(text(&rule["expr"])) {
            assert!(known.contains(family.as_str()), "{family} in {rule} is not in METRICS.md");
            asked += 1;
        }
    }
    assert!(asked > 80, "{asked} names found");
}

/// Families whose series appear with the first event, which does not happen here.
const WITH_THE_FIRST: [&str; 4] = [
    "kubeedge_identity_refused_total",
    "kubeedge_console_refused_total",
    "kubeedge_federate_refused_total",
    "kubeedge_edgehub_clock_offset_seconds",
];

#[test]
fn a_healthy_cloud_and_edge_give_every_rule_its_figures_and_no_reason_to_fire() {
    let world = World::with(&[], &["modules.edgeHub.reportIntervalSecs=1"]);
    let kubectl = world.kubectl();
    let mut mapper = Command::new(env!("CARGO_BIN_EXE_mapper-sim"));
    mapper.arg("--dmi-socket").arg(&world.edge.dmi_socket);
    let _mapper = Process::start("mapper-sim", world.dir.path(), &mut mapper);
    for file in ["thermometer.yaml", "hello-pod.yaml"] {
        kubectl.run(&["apply", "-f", repository("config/examples").join(file).to_str().unwrap()]);
    }
    kubectl.wait_running("hello");
    let prometheus = Prometheus::shipped(&world.dir.path().join("prometheus"), &world.cloud.monitor, "1s");

    let wanted: BTreeSet<String> = rules().iter().flat_map(|rule| families_in(text(&rule["expr"]))).collect();
    let wanted: Vec<&String> =
        wanted.iter().filter(|family| !WITH_THE_FIRST.contains(&family.as_str())).collect();
    until("every figure is there", PATIENCE, || {
        let have = prometheus.ask("label/__name__/values", &[])?;
        let have: BTreeSet<&str> = items(&have).map(text).collect();
        let is_there =
            |family: &str| have.contains(family) || have.contains(format!("{family}_count").as_str());
        let missing: Vec<_> = wanted.iter().filter(|family| !is_there(family)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    });
    until("every rule was evaluated", PATIENCE, || {
        let groups = prometheus.ask("rules", &[])?;
        let all: Vec<&Value> = items(&groups["groups"]).flat_map(|group| items(&group["rules"])).collect();
        let waiting = all.iter().find(|rule| rule["health"] != "ok");
        assert!(all.iter().all(|rule| rule["health"] != "err"), "{groups}");
        if all.len() == rules().len() && waiting.is_none() { Ok(()) } else { Err(format!("{waiting:?}")) }
    });
    until("the edge is known to be up", PATIENCE, || {
        let up = prometheus.ask("query", &[("query", "cluster_node:kubeedge_federate_edge_up:max == 1")])?;
        if up["result"][0]["metric"]["node"] == "edge-1" { Ok(()) } else { Err(up.to_string()) }
    });
    let active = prometheus.ask("alerts", &[]).unwrap();
    let firing: Vec<&Value> = items(&active["alerts"]).filter(|alert| alert["state"] == "firing").collect();
    assert!(firing.is_empty(), "{firing:?}");
}
