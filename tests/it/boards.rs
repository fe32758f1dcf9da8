//! The boards of `grafana/` as files: what can be said about them without a Grafana. That their
//! queries are answered is shown by `boards_queries.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kubeedge::config::EdgeCoreConfig;
use regex_lite::Regex;
use serde_json::Value;

use super::harness::peer;

/// Panels of which `tests/boards/page` can make a picture, and rows.
const KINDS: [&str; 7] = ["stat", "timeseries", "table", "bargauge", "state-timeline", "heatmap", "row"];
const UNITS: [&str; 9] = ["none", "short", "s", "bytes", "Bps", "percentunit", "mps", "ops", "reqps"];
/// Variables that Grafana has itself.
const OWN: [&str; 6] = ["__all", "__rate_interval", "__range", "__url_time_range", "__value", "__field"];

/// A board and the name of its file.
pub struct Board {
    pub name: String,
    pub json: Value,
}

impl Board {
    pub fn uid(&self) -> &str {
        text(&self.json["uid"])
    }

    pub fn panels(&self) -> impl Iterator<Item = &Value> {
        items(&self.json["panels"]).filter(|panel| panel["type"] != "row")
    }

    pub fn annotations(&self) -> impl Iterator<Item = &Value> {
        items(&self.json["annotations"]["list"])
    }

    pub fn variables(&self) -> impl Iterator<Item = &Value> {
        items(&self.json["templating"]["list"])
    }

    /// Every expression, and what it belongs to.
    pub fn expressions(&self) -> Vec<(String, String)> {
        let of_panel = |panel: &Value| {
            let name = format!("{}: {}", self.name, text(&panel["title"]));
            items(&panel["targets"]).map(|t| (name.clone(), text(&t["expr"]).to_owned())).collect::<Vec<_>>()
        };
        let of_annotation = |a: &Value| {
            (format!("{}: annotation {}", self.name, text(&a["name"])), text(&a["expr"]).to_owned())
        };
        let panels = self.panels().flat_map(of_panel);
        panels.chain(self.annotations().map(of_annotation)).collect()
    }

    fn variable_names(&self) -> BTreeSet<&str> {
        self.variables().map(|variable| text(&variable["name"])).collect()
    }
}

pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).iter()
}

/// Every board, by file name.
pub fn boards() -> Vec<Board> {
    let files = fs::read_dir(repository("grafana/dashboards")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let read = |name: String| {
        let json = fs::read_to_string(repository("grafana/dashboards").join(&name)).unwrap();
        let json = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{name}: {e}"));
        Board { name, json }
    };
    names.into_iter().map(read).collect()
}

/// Metric names of an expression, without the endings of a histogram's series.
pub fn families(expr: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:kubeedge|process)_[a-z_]+").unwrap();
    let ending = Regex::new(r"_seconds_(?:bucket|sum|count)$").unwrap();
    name.find_iter(expr).map(|found| ending.replace(found.as_str(), "_seconds").into_owned()).collect()
}

/// Every text within a value.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|one| texts(one, found)),
        Value::Object(map) => map.values().for_each(|one| texts(one, found)),
        _ => {}
    }
}

#[test]
fn the_five_boards_are_there_and_say_what_they_are() {
    let found: BTreeMap<_, _> = boards().into_iter().map(|b| (b.name.clone(), b.uid().to_owned())).collect();
    let expected = ["actors", "cloud", "devices", "fleet", "node"]
        .map(|name| (format!("{name}.json"), format!("kubeedge-{name}")));
    assert_eq!(found, BTreeMap::from(expected));
    for board in boards() {
        let (name, json) = (&board.name, &board.json);
        assert!(json["schemaVersion"].as_u64().unwrap() >= 39, "{name}");
        assert!(text(&json["description"]).len() > 20, "{name}");
        assert_eq!(json["tags"], serde_json::json!(["kubeedge"]), "{name}: the links go by this tag");
        assert!(json["id"].is_null(), "{name}: an id belongs to one Grafana only");
    }
}

#[test]
fn every_panel_has_its_place() {
    for board in boards() {
        let mut cells = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for panel in items(&board.json["panels"]) {
            let title = format!("{}: {}", board.name, text(&panel["title"]));
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: the id is another panel's");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= 24, "{title}: outside of the 24 columns");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                let other = cells.insert(cell, title.clone());
                assert!(other.is_none(), "{title} lies on {other:?}");
            }
        }
    }
}

#[test]
fn every_panel_is_explained_and_has_a_unit() {
    for board in boards() {
        for panel in board.panels() {
            let title = format!("{}: {}", board.name, text(&panel["title"]));
            assert!(KINDS.contains(&text(&panel["type"])), "{title}");
            assert!(text(&panel["description"]).len() > 20, "{title}: no description");
            assert!(UNITS.contains(&text(&panel["fieldConfig"]["defaults"]["unit"])), "{title}: unit");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let letters: Vec<_> = items(&panel["targets"]).map(|t| text(&t["refId"])).collect();
            assert_eq!(letters.iter().collect::<BTreeSet<_>>().len(), letters.len(), "{title}: {letters:?}");
            let is_series =
                ["timeseries", "bargauge", "state-timeline", "heatmap"].contains(&text(&panel["type"]));
            for target in items(&panel["targets"]).filter(|_| is_series) {
                assert!(!text(&target["legendFormat"]).is_empty(), "{title}: series without a name");
            }
        }
    }
}

#[test]
fn every_variable_is_defined() {
    let used = Regex::new(r"\$\{?([A-Za-z_]\w*)").unwrap();
    for board in boards() {
        let defined = board.variable_names();
        for name in ["datasource", "cluster"] {
            assert!(defined.contains(name), "{}: no variable {name}", board.name);
        }
        let mut all = Vec::new();
        texts(&board.json, &mut all);
        for found in all.iter().flat_map(|text| used.captures_iter(text)) {
            let name = &found[1];
            assert!(defined.contains(name) || OWN.contains(&name), "{}: ${name}", board.name);
        }
        for variable in board.variables().filter(|v| v["type"] == "query") {
            assert_eq!(variable["datasource"]["uid"], "${datasource}", "{}", board.name);
        }
    }
}

#[test]
fn every_link_leads_to_a_board_and_its_variables() {
    let all = boards();
    let by_uid: BTreeMap<_, _> = all.iter().map(|board| (board.uid(), board.variable_names())).collect();
    let target = Regex::new(r"^/d/([\w-]+)\?").unwrap();
    let parameter = Regex::new(r"var-(\w+)=|\$\{(\w+):queryparam\}").unwrap();
    let mut count = 0;
    for board in &all {
        let links: Vec<_> = items(&board.json["links"]).collect();
        let [link] = links.as_slice() else { panic!("{}: {links:?}", board.name) };
        assert!(link["includeVars"] == true && link["keepTime"] == true, "{}", board.name);
        assert_eq!(link["tags"], board.json["tags"], "{}", board.name);
        let mut found = Vec::new();
        texts(&board.json["panels"], &mut found);
        for url in found.iter().filter(|text| text.starts_with('/')) {
            let uid = target.captures(url).unwrap_or_else(|| panic!("{}: {url}", board.name));
            let variables =
                by_uid.get(&uid[1]).unwrap_or_else(|| panic!("{}: no board for {url}", board.name));
            for found in parameter.captures_iter(url) {
                let name = found.get(1).or(found.get(2)).unwrap().as_str();
                assert!(variables.contains(name), "{url}: {} has no variable {name}", &uid[1]);
            }
            assert!(url.contains("${__url_time_range}"), "{}: {url} forgets the time", board.name);
            count += 1;
        }
    }
    assert!(count > 5, "links to the board of a node: {count}");
}

#[test]
fn every_metric_is_one_of_ours() {
    let page = fs::read_to_string(repository("config/prometheus/METRICS.md")).unwrap();
    let name = Regex::new(r"`((?:kubeedge|process)_[a-z_]+)").unwrap();
    let known: BTreeSet<_> = name.captures_iter(&page).map(|found| found[1].to_owned()).collect();
    for (title, expr) in boards().iter().flat_map(Board::expressions) {
        let used = families(&expr);
        let others: Vec<_> = used.difference(&known).collect();
        assert!(others.is_empty(), "{title}: {others:?} are not in METRICS.md");
        assert!(!used.is_empty() || expr.contains("ALERTS") || expr.contains("up{"), "{title}: {expr}");
    }
}

/// Rates of what can go down are wrong, and so is a quantile without its buckets. The names tell;
/// `boards_queries.rs` asks Prometheus for the types.
#[test]
fn rates_are_of_counters_and_quantiles_of_buckets() {
    let rate = Regex::new(r"\b(?:rate|increase)\(([a-z_]+)").unwrap();
    let quantile =
        Regex::new(r"histogram_quantile\([0-9.]+, sum by \(le(?:, [a-z, ]+)?\) \(rate\([a-z_]+_bucket\b")
            .unwrap();
    for (title, expr) in boards().iter().flat_map(Board::expressions) {
        for found in rate.captures_iter(&expr) {
            let endings = ["_total", "_bucket", "_sum", "_count"];
            assert!(endings.iter().any(|ending| found[1].ends_with(ending)), "{title}: {}", &found[1]);
        }
        let quantiles = expr.matches("histogram_quantile(").count();
        assert_eq!(quantile.find_iter(&expr).count(), quantiles, "{title}: {expr}");
    }
}

#[test]
fn every_board_marks_restarts_and_alerts() {
    for board in boards() {
        let exprs: Vec<_> = board.annotations().map(|a| text(&a["expr"])).collect();
        for part in
            ["kubeedge_actor_restarts_total", "process_start_time_seconds", "ALERTS{alertstate=\"firing\""]
        {
            assert!(exprs.iter().any(|expr| expr.contains(part)), "{}: no annotation of {part}", board.name);
        }
    }
}

/// Only the shape: that Grafana takes these files can be shown by a Grafana only.
#[test]
fn the_provisioning_fits_the_boards_and_the_scrapes() {
    let yaml = |path: &str| -> Value {
        yaml_serde::from_str(&fs::read_to_string(repository(path)).unwrap()).unwrap()
    };
    let sources = yaml("grafana/provisioning/datasources/prometheus.yaml");
    let source = &sources["datasources"][0];
    assert_eq!((text(&source["uid"]), text(&source["type"])), ("prometheus", "prometheus"));
    for board in boards() {
        let variable = board.variables().find(|v| v["name"] == "datasource").unwrap();
        assert_eq!(variable["current"]["value"], source["uid"], "{}", board.name);
    }
    // Figures of edges are as new as their reports: a rate over less would see the steps.
    let secs = |text: &str| text.strip_suffix('s').and_then(|n| n.parse::<u64>().ok()).unwrap();
    let interval = secs(text(&source["jsonData"]["timeInterval"]));
    assert_eq!(interval, EdgeCoreConfig::default().modules.edge_hub.report_interval_secs);
    let scrapes = yaml("config/prometheus/prometheus.yml");
    assert!(interval >= secs(text(&scrapes["global"]["scrape_interval"])));

    let providers = yaml("grafana/provisioning/dashboards/kubeedge.yaml");
    let provider = &providers["providers"][0];
    assert_eq!((text(&provider["type"]), text(&provider["folder"])), ("file", "KubeEdge"));
    assert!(text(&provider["options"]["path"]).starts_with('/'));
}

/// Grafana's own types of a board (`@grafana/schema`): names and types of everything but the options
/// of panels and targets, which they leave open.
#[test]
fn grafana_s_types_take_every_board() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(peer::node_modules(), dir.path().join("node_modules")).unwrap();
    fs::copy(repository("tests/boards/types.ts"), dir.path().join("types.ts")).unwrap();
    let source = |name: &str, json: &Value| {
        let file = dir.path().join(format!("{name}.ts"));
        fs::write(
            &file,
            format!("import type {{ Board }} from \"./types\";\nexport const board: Board = {json};\n"),
        )
        .unwrap();
        file
    };
    let tsc = |files: &[PathBuf]| {
        let mut command = Command::new("node");
        command.current_dir(dir.path()).arg("node_modules/typescript/bin/tsc");
        command.args(["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "es2022"]);
        let out = command.args(["--moduleResolution", "bundler"]).args(files).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let files: Vec<_> = boards().iter().map(|board| source(board.uid(), &board.json)).collect();
    let (is_good, said) = tsc(&files);
    assert!(is_good, "{said}");
    // It is not as if everything passed.
    let mut board = boards().remove(0).json;
    board["panels"][0]["gridPos"]["width"] = 3.into();
    board["refresh"] = 15.into();
    let (is_good, said) = tsc(&[source("wrong", &board)]);
    assert!(!is_good && said.contains("\"width\""), "{said}");
}
