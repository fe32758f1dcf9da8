//! Real programs: what a renewal costs an edge with a session, and how soon a revoked one is out.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::cluster::{Cloud, Edge};
use super::harness::process::{PATIENCE, http, until};
use super::machine::costs;
use super::report::{milliseconds, row};

const REVOKED: usize = 5;
/// Watched with certificates of an hour, then of ten seconds.
const WATCHED: Duration = Duration::from_secs(60);

/// The value of the series at this monitor; 0 before it is there.
fn metric(monitor: &str, series: &str) -> f64 {
    let (_, text) = http("GET", monitor, "/metrics", &[]).unwrap();
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}

fn connected(cloud: &Cloud) -> f64 {
    metric(&cloud.monitor, "kubeedge_cloudhub_connected_nodes")
}

/// Joins without a container runtime: a session needs none.
fn edge(cloud: &Cloud, dir: &Path, name: &str) -> Edge {
    let before = connected(cloud);
    let edge = Edge::start(cloud, &dir.join(name), name, &dir.join("none.sock"), &cloud.token(), &[]);
    until("the edge has a session", PATIENCE, || {
        if connected(cloud) > before { Ok(()) } else { Err(edge.process.tail()) }
    });
    edge
}

pub fn run() {
    let dir = tempfile::tempdir().unwrap();
    revocations(&dir.path().join("r"));
    renewals(dir.path());
}

fn revocations(dir: &Path) {
    let cloud = Cloud::start(dir, &[]);
    let mut times = Vec::new();
    for n in 0..REVOKED {
        let name = format!("edge-{n}");
        let mut edge = edge(&cloud, dir, &name);
        let before = connected(&cloud);
        let mut keadm = Command::new(env!("CARGO_BIN_EXE_keadm"));
        keadm.args(["node", "revoke", &name, "--reason", "benchmark", "--config"]);
        let begun = Instant::now();
        let mut running = keadm.arg(dir.join("cloudcore.yaml")).spawn().unwrap();
        while connected(&cloud) >= before {
            assert!(begun.elapsed() < PATIENCE, "{name} stays");
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(begun.elapsed().as_secs_f64());
        assert!(running.wait().unwrap().success());
        edge.process.kill9();
    }
    row("`keadm node revoke` to the session's end, keadm's own start included", &milliseconds(&times), "-");
}

fn renewals(dir: &Path) {
    let mut spent = Vec::new();
    for (name, life) in [("hour", 3_600), ("seconds", 10)] {
        let place = dir.join(name);
        let cloud = Cloud::start(&place, &[&format!("identity.nodeSvidTtlSecs={life}")]);
        let edge = edge(&cloud, &place, "edge-1");
        let renewed = || metric(&edge.monitor, "kubeedge_identity_renewals_total{result=\"renewed\"}");
        std::thread::sleep(Duration::from_secs(5));
        let before = renewed();
        let cost = costs(&[edge.process.pid(), cloud.process.pid()], WATCHED);
        let ended = metric(&edge.monitor, "kubeedge_edgehub_reconnects_total");
        let secs = WATCHED.as_secs_f64() / 100.0;
        spent.push((renewed() - before, cost[0].cpu * secs, cost[1].cpu * secs, ended));
    }
    let [(idle, edge_idle, cloud_idle, _), (busy, edge_busy, cloud_busy, ended)] = spent[..] else {
        panic!("two runs")
    };
    let each = |busy_cpu: f64, idle_cpu: f64| (busy_cpu - idle_cpu) * 1e3 / (busy - idle);
    row(
        &format!("CPU of a renewal, n {busy:.0} in {} s: edgecore; cloudcore", WATCHED.as_secs()),
        &format!("{:.1} ms; {:.1} ms", each(edge_busy, edge_idle), each(cloud_busy, cloud_idle)),
        "-",
    );
    row("sessions that ended for them", &format!("{ended:.0}"), "-");
}
