//! Metrics of edges at the cloud's one endpoint: a real Prometheus that never reaches an edge, an edge
//! that goes away and comes back, many of them, and one that lies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kubeedge::identity::NodeCredentials;
use kubeedge::model::{Body, Envelope, MAX_ACTORS_BYTES, NodeReport, Resource};
use kubeedge::wire::frame;
use kubeedge::wire::node_report::{Encoder, pack};
use serde_json::Value;

use super::harness::cluster::{Cloud, PATIENT};
use super::harness::exposition::parse;
use super::harness::machine::{Session, join, token};
use super::harness::process::{PATIENCE, http, until};
use super::harness::prometheus::Prometheus;
use super::main_job::World;

const UP: &str = "kubeedge_federate_edge_up";

fn wait_for(prometheus: &Prometheus, expr: &str, want: &[f64]) {
    until(&format!("{expr} = {want:?}"), PATIENCE, || {
        let values: Vec<f64> = prometheus.query(expr)?.into_iter().map(|(_, value)| value).collect();
        if values == want { Ok(()) } else { Err(format!("{values:?}")) }
    });
}

fn page(cloud: &Cloud) -> String {
    let (status, text) = http("GET", &cloud.monitor, "/federate/edges", &[]).unwrap();
    assert_eq!(status, 200, "{text}");
    text
}

/// Every family stands once, every series once, every sample below its family.
fn well_formed(text: &str) -> usize {
    let (mut families, mut series, mut family) = (BTreeSet::new(), BTreeSet::new(), "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} is there twice");
        } else if !line.starts_with('#') {
            let (name, _) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family) && series.insert(name), "{line} below {family}");
        }
    }
    series.len()
}

/// A real edge: its series are there with its name, go stale when it is killed, and come back.
#[test]
fn prometheus_sees_an_edge_through_the_cloud() {
    let mut world = World::with(&[], &["modules.edgeHub.reportIntervalSecs=1"]);
    let prometheus = Prometheus::shipped(&world.dir.path().join("prometheus"), &world.cloud.monitor, "1s");
    wait_for(&prometheus, UP, &[1.0]);
    let of_the_edge = "kubeedge_edgehub_connected{node=\"edge-1\"}";
    wait_for(&prometheus, of_the_edge, &[1.0]);
    let labels = until("the edge has labels", PATIENCE, || match prometheus.query(of_the_edge)?.pop() {
        Some((labels, _)) => Ok(labels),
        None => Err("the last scrape failed".to_owned()),
    });
    assert_eq!((&labels["job"], &labels["cluster"]), (&Value::from("edges"), &Value::from("kubeedge")));

    // What the cloud shows is what the edge shows.
    let (_, own) = http("GET", &world.edge.monitor, "/metrics", &[]).unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect()
    };
    until("every family of the edge is federated", PATIENCE, || {
        let shown = names(&page(&world.cloud));
        let missing: Vec<String> = names(&own).difference(&shown).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
    });
    let text = page(&world.cloud);
    parse(text.clone()).lint();
    let series = well_formed(&text);
    let refused = "sum(kubeedge_federate_refused_total)";
    wait_for(&prometheus, refused, &[0.0]);
    let figure = |name: &str| until(name, PATIENCE, || prometheus.value(name));
    let reports = figure("kubeedge_edgehub_reports_total");
    let bytes = figure("kubeedge_edgehub_report_bytes_total");
    println!("{series} series, {} bytes of text, {} bytes in {reports} reports", own.len(), bytes);
    wait_for(&prometheus, "kubeedge_edgehub_reports_total > bool 3", &[1.0]);

    world.edge.process.kill9();
    wait_for(&prometheus, of_the_edge, &[]);
    wait_for(&prometheus, UP, &[0.0]);
    // But for what the cloud says of it, and what rules make of that.
    let edges = "count({node=\"edge-1\", __name__!~\"kubeedge_federate_.*|ALERTS.*|.*:.*\"})";
    wait_for(&prometheus, edges, &[]);
    world.edge.restart(&["modules.edgeHub.reportIntervalSecs=1"]);
    wait_for(&prometheus, of_the_edge, &[1.0]);
    wait_for(&prometheus, UP, &[1.0]);

    // The cloud restarts under the scraping.
    world.cloud.process.kill9();
    world.cloud.restart(&[]);
    wait_for(&prometheus, "up{job=\"edges\"}", &[1.0]);
    wait_for(&prometheus, of_the_edge, &[1.0]);
}

/// A node made by hand, whose metrics are what the test says.
struct Node {
    session: Session,
    encoder: Encoder,
}

impl Node {
    fn join(cloud: &Cloud, name: &str) -> NodeCredentials {
        join(cloud, name, token(cloud, &[])).unwrap()
    }

    fn open(cloud: &Cloud, name: &str, held: &NodeCredentials) -> Self {
        let session = Session::open_with(cloud, name, &held.svid, "report").unwrap();
        Self { session, encoder: Encoder::default() }
    }

    fn report(&mut self, text: &str) {
        let report = self.encoder.report(text, 60);
        self.send(&report);
    }

    fn send(&mut self, report: &NodeReport) {
        let body = Body::Object(serde_json::to_value(report).unwrap());
        let message = Envelope::new("edgehub", "meta", "report", Resource::NodeReport, body, 1);
        self.session.say(&frame::encode(&message).unwrap()).unwrap();
    }
}

/// Metrics like those of an edge, about as many.
fn metrics(turn: usize) -> String {
    let mut text = String::new();
    for family in 0..40 {
        let name = format!("kubeedge_test{family}_seconds");
        writeln!(text, "# HELP {name} What it took\n# TYPE {name} histogram").unwrap();
        for actor in ["EdgeHub", "Edged"] {
            for (at, le) in ["0.001", "0.01", "0.1", "1", "10", "+Inf"].iter().enumerate() {
                writeln!(text, "{name}_bucket{{actor=\"{actor}\",le=\"{le}\"}} {}", turn * at).unwrap();
            }
            writeln!(
                text,
                "{name}_sum{{actor=\"{actor}\"}} 0.5\n{name}_count{{actor=\"{actor}\"}} {}",
                turn * 5
            )
            .unwrap();
        }
    }
    text
}

const SERIES_OF_A_NODE: usize = 40 * 2 * 8;

#[test]
fn fifty_nodes_of_which_half_are_offline() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &[PATIENT]);
    // A debug build may take longer than a second to write 32,000 series.
    let prometheus = Prometheus::shipped(&dir.path().join("prometheus"), &cloud.monitor, "3s");
    let names: Vec<String> = (0..50).map(|n| format!("edge-{n}")).collect();
    // A node that never came is down, not unknown.
    let edge_node = |name: &String| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name}, labels: {{ node-role.kubernetes.io/edge: '' }} }}\n---\n"
        )
    };
    cloud.kubectl().apply(&names.iter().map(edge_node).collect::<String>());
    wait_for(&prometheus, &format!("count({UP} == 0)"), &[50.0]);
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for name in &names {
        let held = Node::join(&cloud, name);
        nodes.insert(name, Node::open(&cloud, name, &held));
    }
    for turn in 1..3 {
        nodes.values_mut().for_each(|node| node.report(&metrics(turn)));
    }
    wait_for(&prometheus, "count(kubeedge_test0_seconds_count{actor=\"Edged\"} == 10)", &[50.0]);
    let text = page(&cloud);
    println!("50 nodes: {} bytes, {} series", text.len(), well_formed(&text));
    parse(text.clone()).lint();
    wait_for(&prometheus, "kubeedge_federate_series", &[(50 * SERIES_OF_A_NODE) as f64]);

    for name in names.iter().take(25) {
        nodes.remove(name.as_str());
    }
    wait_for(&prometheus, "count(kubeedge_test0_seconds_count{actor=\"Edged\"})", &[25.0]);
    wait_for(&prometheus, "kubeedge_federate_series", &[(25 * SERIES_OF_A_NODE) as f64]);
    wait_for(&prometheus, &format!("sum({UP})"), &[25.0]);
    wait_for(&prometheus, &format!("count({UP})"), &[50.0]);
    let text = page(&cloud);
    well_formed(&text);
    parse(text.clone()).lint();
    assert!(names.iter().take(25).all(|name| text.matches(&format!("node=\"{name}\"")).count() == 1));
    wait_for(&prometheus, "sum(kubeedge_federate_refused_total)", &[0.0]);
}

/// What one hostile edge does stays with it: counted, bounded, and everybody else's series are right.
#[test]
fn a_hostile_edge_lies_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &["modules.cloudHub.maxSeriesPerNode=1000", PATIENT]);
    let (good, bad) = (Node::join(&cloud, "good"), Node::join(&cloud, "bad"));
    let mut good = Node::open(&cloud, "good", &good);
    good.report(&metrics(1));
    until("the good one is shown", PATIENCE, || {
        if page(&cloud).contains("node=\"good\",actor") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    let fresh = || Node::open(&cloud, "bad", &bad);

    let mut node = fresh();
    let mut lies = "# TYPE kubeedge_forged gauge\nkubeedge_forged{node=\"good\",job=\"cloudcore\"} 1\n\
        # TYPE kubeedge_test0_seconds gauge\nkubeedge_test0_seconds 1\n\
        # TYPE up gauge\nup{job=\"cloudcore\"} 0\n\
        # TYPE kubeedge_federate_edge_up gauge\nkubeedge_federate_edge_up{node=\"good\"} 0\n\
        # TYPE kubeedge_b\u{e4}d gauge\nkubeedge_forged{a-b=\"1\"} 1\nkubeedge_forged{a=\"\\x\"} 1\n"
        .to_owned();
    writeln!(lies, "kubeedge_forged{{long=\"{}\"}} 1", "x".repeat(10_000)).unwrap();
    node.report(&lies);
    let shown = until("the report of the bad one arrived", PATIENCE, || {
        let shown = page(&cloud);
        if shown.contains("kubeedge_forged{") { Ok(shown) } else { Err(shown) }
    });
    parse(shown.clone()).lint();
    well_formed(&shown);
    let forged: Vec<&str> = shown.lines().filter(|line| line.contains("node=\"bad\"")).collect();
    let want = "kubeedge_forged{node=\"bad\",exported_job=\"cloudcore\",exported_node=\"good\"} 1";
    assert!(forged.contains(&want), "{forged:?}");
    assert!(shown.contains("kubeedge_federate_edge_up{node=\"good\"} 1\n"), "{shown}");
    assert!(shown.contains("# TYPE kubeedge_test0_seconds histogram\n"), "{shown}");

    // A million series, in one text and in a bomb; a report as long as a frame; nonsense.
    let million: String = (0..1_000_000).map(|n| format!("kubeedge_forged{{n=\"{n}\"}} 1\n")).collect();
    let many: String = million.lines().take(20_000).map(|line| format!("{line}\n")).collect();
    let report = |metrics: String| NodeReport { sequence: 0, interval_secs: 60, metrics, actors: None };
    node = fresh();
    node.send(&report(pack(&format!("# TYPE kubeedge_forged gauge\n{}.\n", many))));
    node.send(&report(pack(&million)));
    node.send(&report("A".repeat(3 << 20)));
    node.send(&report("nonsense".to_owned()));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_ACTORS_BYTES));
    node.send(&NodeReport { actors: Some(pack(&long)), ..report(pack(".\n")) });
    let count = |reason: &str| -> f64 {
        let start = format!("kubeedge_federate_refused_total{{reason=\"{reason}\"}} ");
        page(&cloud).lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    };
    until("each was refused for its reason", PATIENCE, || {
        let reasons = ["too_many_series", "too_long", "bad_report", "bad_actors", "bad_series", "reserved"];
        let missing: Vec<&str> = reasons.into_iter().filter(|reason| count(reason) == 0.0).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
    });
    // A flood.
    for _ in 0..500 {
        node.send(&report(pack(".\n")));
    }
    until("the flood was refused", PATIENCE, || {
        if count("rate") > 400.0 { Ok(()) } else { Err(format!("{} refused", count("rate"))) }
    });
    let shown = page(&cloud);
    parse(shown.clone()).lint();
    assert!(shown.len() < 1 << 20, "{}", shown.len());
    assert!(shown.contains("kubeedge_test1_seconds_count{node=\"good\",actor=\"Edged\"} 5\n"), "{shown}");
    good.report(&metrics(2));
    until("the good one is heard", PATIENCE, || {
        let line = "kubeedge_test1_seconds_count{node=\"good\",actor=\"Edged\"} 10\n";
        if page(&cloud).contains(line) { Ok(()) } else { Err("not yet".to_owned()) }
    });
}
