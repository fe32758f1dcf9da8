//! Identities of seconds, renewed under traffic, with nobody noticing; and `kill -9` in the middle of it.
//!
//! `KUBEEDGE_SOAK_SECS` makes the first test run longer (1200 for the twenty minutes of a release).

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::harness::cluster::Edge;
use super::harness::process::{PATIENCE, until};
use super::harness::samples::power;
use super::identity_edges::{metric, wait_connected};
use super::main_job::{World, sleeper};

const DEFAULT_SOAK: Duration = Duration::from_secs(120);
const UPDATE: &str = "$hw/events/device/default/lamp-1/twin/update";

fn soak() -> Duration {
    let asked = std::env::var("KUBEEDGE_SOAK_SECS").ok();
    asked.map_or(DEFAULT_SOAK, |secs| Duration::from_secs(secs.parse().expect("KUBEEDGE_SOAK_SECS: seconds")))
}

#[test]
fn identities_of_seconds_are_renewed_under_traffic_and_nothing_is_lost() {
    let world = World::with(&["identity.nodeSvidTtlSecs=40", "identity.nodeCaTtlSecs=80"], &[]);
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    let lamp = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/lamp.yaml");
    kubectl.run(&["apply", "-f", lamp.to_str().unwrap()]);
    let listener = broker.subscribe(world.dir.path(), &["soak/#"]);
    let monitor = &world.edge.monitor;
    let figures = || {
        let reconnects = metric(monitor, "kubeedge_edgehub_reconnects_total");
        (reconnects, metric(&world.cloud.monitor, "kubeedge_cloudhub_sessions_total"))
    };
    let before = figures();
    let renewed = metric(monitor, "kubeedge_identity_renewals_total");

    let (until_then, over) = (Instant::now() + soak(), AtomicBool::new(false));
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Every publish waits for its acknowledgement.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let n = sent.load(Ordering::Relaxed) + 1;
                broker.publish(UPDATE, &power(n));
                broker.publish("soak/numbers", &n.to_string());
                sent.store(n, Ordering::Relaxed);
            }
        });
        let mut pods = 0;
        while Instant::now() < until_then {
            let name = format!("soak-{pods}");
            kubectl.apply(&sleeper(&name, ""));
            kubectl.wait_running(&name);
            kubectl.run(&["delete", "pod", &name]);
            kubectl.wait_gone(&format!("pod/{name}"));
            pods += 1;
        }
        over.store(true, Ordering::Relaxed);
        println!("{pods} pods");
    });

    let last = sent.load(Ordering::Relaxed);
    kubectl.wait_for("devicestatus/lamp-1", "{.status.twins[0].reported.value}", &last.to_string(), PATIENCE);
    until("every message came", PATIENCE, || {
        let got = listener.messages().len();
        if got as u64 >= last { Ok(()) } else { Err(format!("{got} of {last}")) }
    });
    let numbers: Vec<String> = listener.messages().into_iter().map(|(_, payload)| payload).collect();
    let wanted: Vec<String> = (1..=last).map(|n| n.to_string()).collect();
    assert_eq!(numbers, wanted, "each once, in order");
    assert_eq!(figures(), before, "no session ended, neither side counts one");
    let renewals = metric(monitor, "kubeedge_identity_renewals_total") - renewed;
    // Half of 40 s is 20 s; a busy machine may be late, but never past the end.
    let least = soak().as_secs_f64() / 40.0;
    assert!(renewals >= least, "{renewals} renewals, at least {least} were due");
    println!("{last} updates, {renewals} renewals");
}

/// Is a new set being put in place right now?
fn installs(edge: &Edge) -> bool {
    edge.dir.join("certs/credentials.next").exists()
}

#[test]
fn kill_9_in_the_middle_of_a_rotation_leaves_a_usable_set() {
    let mut world = World::with(&["identity.nodeSvidTtlSecs=10", "identity.nodeCaTtlSecs=20"], &[]);
    let kubectl = world.kubectl();
    let mut caught = 0;
    // Eight kills, and more until one was in time.
    for round in 0..40 {
        wait_connected(&mut world.edge);
        let key = world.edge.dir.join("certs/server.key");
        let before = fs::read_to_string(&key).unwrap();
        // Each time a little further on; the staged set is there for a few syncs of the disk only.
        let deadline = Instant::now() + PATIENCE;
        while !installs(&world.edge) && fs::read_to_string(&key).is_ok_and(|now| now == before) {
            assert!(Instant::now() < deadline, "no renewal\n{}", world.edge.process.tail());
        }
        for _ in 0..round % 8 * 40 {
            fs::read_to_string(&key).unwrap();
        }
        caught += u32::from(installs(&world.edge));
        world.edge.process.kill9();
        assert!(
            !world.edge.dir.join("bootstrap-edgecore.conf").exists(),
            "there is no token to fall back on"
        );
        world.edge.restart(&[]);
        if round >= 7 && caught > 0 {
            break;
        }
    }
    wait_connected(&mut world.edge);
    assert!(caught > 0, "no kill hit a set that was being put in place");
    kubectl.wait_node("edge-1", "True");
    kubectl.apply(&sleeper("after-the-kills", ""));
    kubectl.wait_running("after-the-kills");
    let log = world.edge.process.log();
    assert!(!log.contains("not usable") && !log.contains("cannot be used"), "{}", world.edge.process.tail());
}
