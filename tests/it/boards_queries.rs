//! Every query of every board, asked of a real Prometheus that scrapes the real programs at work: none
//! fails, none is empty, every series has the labels its name is made of.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use regex_lite::Regex;
use serde_json::{Map, Value};

use super::boards::{Board, boards, families, items, repository, text};
use super::harness::process::{PATIENCE, Process, http, until};
use super::harness::prometheus::Prometheus;
use super::main_job::{World, sleeper};

/// Between two points of a graph: what is scraped and reported every second.
const STEP: &str = "1s";
const SETTINGS: [&str; 1] = ["modules.edgeHub.reportIntervalSecs=1"];

/// A node that comes back shows how long it takes to compare. Its first comparison has to be scraped before:
/// a rate knows nothing of what a series began with.
fn come_back(world: &mut World, prometheus: &Prometheus) {
    for seen in ["process_start_time_seconds{node=\"edge-1\"}", "kubeedge_cloudhub_resync_seconds_count > 0"]
    {
        until("the edge and its first comparison are seen", PATIENCE, || {
            let answer = prometheus.ask("query", &[("query", seen)])?;
            if items(&answer["result"]).count() == 1 { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    world.edge.process.kill9();
    world.edge.restart(&SETTINGS);
    world.edge.wait_ready();
    world.kubectl().wait_node("edge-1", "True");
}

/// What has to go on so that no figure stands still: a pod, one that crashes, a device with a mapper,
/// MQTT clients, an actor of either side that panics.
fn put_to_work(world: &World, prometheus: &Prometheus) -> Vec<Process> {
    let kubectl = world.kubectl();
    let example = |name: &str| repository("config/examples").join(name);
    let dir = world.dir.path();
    let mut mapper = Command::new(env!("CARGO_BIN_EXE_mapper-sim"));
    mapper.arg("--dmi-socket").arg(&world.edge.dmi_socket);
    let mut running = vec![Process::start("mapper-sim", dir, &mut mapper)];
    for file in ["thermometer.yaml", "hello-pod.yaml"] {
        kubectl.run(&["apply", "-f", example(file).to_str().unwrap()]);
    }
    kubectl.run(&["annotate", "device", "thermometer-1", "devices.kubeedge.io/export-metrics=*"]);
    kubectl.apply(
        "apiVersion: v1
kind: Pod
metadata: { name: crash }
spec:
  containers:
  - { name: main, image: 'registry.local/hello:1', imagePullPolicy: IfNotPresent, command: [/bin/sh, -c, exit 7] }
",
    );
    running.push(world.edge.broker.run_sub(dir, "subscriber", &["-q", "1", "-t", "plant/#"]));
    let mut publisher = Command::new("mosquitto_pub");
    publisher.args(["-p", &world.edge.broker.0.to_string(), "-q", "1", "-t", "plant/line", "-m", "on"]);
    publisher.args(["--repeat", "100000", "--repeat-delay", "0.2"]);
    running.push(Process::start("publisher", dir, &mut publisher));
    kubectl.wait_running("hello");
    // As with the comparisons: the first starts may be in what the series began with, so there is one more.
    until("the first start is seen", PATIENCE, || {
        match prometheus.query("kubeedge_edged_pod_start_seconds_count > 0")? {
            none if none.is_empty() => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    });
    kubectl.apply(&sleeper("later", ""));
    for (monitor, actor) in [(&world.cloud.monitor, "Scheduler"), (&world.edge.monitor, "Identity")] {
        let (status, body) = http("POST", monitor, &format!("/actors/{actor}/panic"), &[]).unwrap();
        assert!(status < 300, "{actor}: {status} {body}");
    }
    running
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A board with values for its variables, as Grafana fills them in.
struct Filled {
    board: Board,
    values: BTreeMap<String, String>,
}

impl Filled {
    fn fill(&self, expr: &str) -> String {
        let variable = Regex::new(r"\$\{?(\w+)\}?").unwrap();
        let value = |found: &regex_lite::Captures<'_>| match &found[1] {
            "__rate_interval" => "15s".to_owned(),
            "__range" => "5m".to_owned(),
            name => self.values.get(name).unwrap_or_else(|| panic!("no variable {name} in {expr}")).clone(),
        };
        variable.replace_all(expr, value).into_owned()
    }

    /// Asks for the values of the variables; everything is chosen where that can be.
    fn new(board: Board, prometheus: &Prometheus) -> Result<Self, String> {
        let query = Regex::new(r"^label_values\((.+), (\w+)\)$").unwrap();
        let mut filled = Self { values: BTreeMap::new(), board };
        let variables: Vec<Value> = filled.board.variables().cloned().collect();
        for variable in variables.iter().filter(|variable| variable["type"] != "datasource") {
            let mut found = Vec::new();
            if variable["type"] == "query" {
                let parts = query.captures(text(&variable["query"]["query"])).expect("label_values");
                let series = prometheus.ask("series", &[("match[]", &filled.fill(&parts[1]))])?;
                found = items(&series).filter_map(|s| s[&parts[2]].as_str().map(str::to_owned)).collect();
                if found.is_empty() {
                    return Err(format!("{}: no value of {}", filled.board.name, variable["name"]));
                }
            }
            let value = match variable["includeAll"].as_bool() {
                Some(true) => text(&variable["allValue"]).to_owned(),
                _ => found.remove(0),
            };
            filled.values.insert(text(&variable["name"]).to_owned(), value);
        }
        Ok(filled)
    }

    /// Everything that the board asks.
    fn questions(&self) -> Vec<Question> {
        let of = |what: &Value, kind: &str, is_instant: bool, legend: &str, expr: &Value| Question {
            title: format!("{}: {kind}{}", self.board.name, text(what)),
            expr: self.fill(text(expr)),
            is_instant,
            labels: Regex::new(r"\{\{(\w+)\}\}")
                .unwrap()
                .captures_iter(legend)
                .map(|l| l[1].to_owned())
                .collect(),
        };
        let panels = self.board.panels().flat_map(|panel| {
            items(&panel["targets"]).map(|target| {
                let legend = target["legendFormat"].as_str().unwrap_or_default();
                of(&panel["title"], "", target["instant"] == true, legend, &target["expr"])
            })
        });
        let annotations =
            self.board.annotations().map(|a| of(&a["name"], "annotation ", false, "", &a["expr"]));
        panels.chain(annotations).collect()
    }
}

struct Question {
    title: String,
    expr: String,
    is_instant: bool,
    labels: Vec<String>,
}

impl Question {
    /// Whether there is at least one value, and all labels that a legend wants.
    fn ask(&self, prometheus: &Prometheus, since: f64) -> Result<(), String> {
        let told = |why: String| format!("{}: {why}\n    {}", self.title, self.expr);
        let (from, to) = (since.to_string(), now().to_string());
        let answer = if self.is_instant {
            prometheus.ask("query", &[("query", &self.expr)])
        } else {
            let range = [("query", self.expr.as_str()), ("start", &from), ("end", &to), ("step", STEP)];
            prometheus.ask("query_range", &range)
        };
        let answer = answer.map_err(told)?;
        let values = |series: &Value| match series["values"].as_array() {
            Some(values) => values.iter().filter(|value| value[1] != "NaN").count(),
            None => usize::from(series["value"][1] != "NaN"),
        };
        if items(&answer["result"]).map(values).sum::<usize>() == 0 {
            return Err(told("no value".to_owned()));
        }
        let nothing = Map::new();
        for series in items(&answer["result"]) {
            let has = series["metric"].as_object().unwrap_or(&nothing);
            if let Some(label) = self.labels.iter().find(|label| !has.contains_key(*label)) {
                return Err(told(format!("the legend wants {label}, there are {has:?}")));
            }
        }
        Ok(())
    }
}

/// Rates are of counters and of parts of histograms, by what the programs say their types are.
fn the_types_fit(prometheus: &Prometheus, all: &[Filled]) {
    let types = prometheus.ask("metadata", &[]).unwrap();
    let kind = |name: &str| types[name][0]["type"].as_str().unwrap_or("unknown").to_owned();
    let rate = Regex::new(r"\b(?:rate|increase)\((\w+)").unwrap();
    let part = Regex::new(r"_(?:bucket|sum|count)$").unwrap();
    for (title, expr) in all.iter().flat_map(|filled| filled.board.expressions()) {
        for name in families(&expr) {
            assert_ne!(kind(&name), "unknown", "{title}: nobody exports {name}");
        }
        for found in rate.captures_iter(&expr) {
            let of_histogram = kind(&part.replace(&found[1], "")) == "histogram";
            let is_right = if part.is_match(&found[1]) { of_histogram } else { kind(&found[1]) == "counter" };
            assert!(is_right, "{title}: a rate of {}", &found[1]);
        }
    }
}

/// The page that draws the boards finds them all and can read Prometheus.
fn the_page_is_served(prometheus: &Prometheus, dir: PathBuf) {
    let port = super::harness::process::free_port().to_string();
    let mut node = Command::new("node");
    node.arg(repository("tests/boards/serve.mjs")).args(["--port", &port]);
    node.args(["--prometheus", &format!("http://{}", prometheus.address)]);
    fs::create_dir_all(&dir).unwrap();
    let _server = Process::start("serve", &dir, &mut node);
    let address = format!("127.0.0.1:{port}");
    until("the page is served", PATIENCE, || http("GET", &address, "/api/health", &[]));
    let get = |path: &str| http("GET", &address, path, &[]).unwrap();
    for board in boards() {
        let (code, body) = get(&format!("/api/dashboards/uid/{}", board.uid()));
        assert!(code == 200 && body.contains(board.uid()), "{code} {body}");
        assert_eq!(get(&format!("/d/{}?var-node=edge-1", board.uid())).0, 200);
    }
    assert_eq!(get("/d/kubeedge-nothing").0, 404);
    assert_eq!(get("/page/../serve.mjs").0, 404);
    let (code, body) = get("/prometheus/api/v1/query?query=up");
    assert!(code == 200 && body.contains("cloudcore"), "{code} {body}");
}

#[test]
fn every_query_of_every_board_is_answered() {
    let since = now();
    let mut world = World::with(&[], &SETTINGS);
    let prometheus = Prometheus::shipped(&world.dir.path().join("prometheus"), &world.cloud.monitor, STEP);
    come_back(&mut world, &prometheus);
    let _running = put_to_work(&world, &prometheus);
    let fill =
        || boards().into_iter().map(|board| Filled::new(board, &prometheus)).collect::<Result<Vec<_>, _>>();
    let all = until("every variable has values", PATIENCE, fill);
    let mut open: Vec<_> = all.iter().flat_map(Filled::questions).collect();
    assert!(open.len() > 200, "there are {} questions", open.len());
    until("every query is answered", 2 * PATIENCE, || {
        let mut why = Vec::new();
        open.retain(|question| question.ask(&prometheus, since).map_err(|e| why.push(e)).is_err());
        if open.is_empty() { Ok(()) } else { Err(why.join("\n")) }
    });
    the_types_fit(&prometheus, &all);
    the_page_is_served(&prometheus, world.dir.path().join("page"));
}
