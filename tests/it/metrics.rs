//! What the real programs show to the real Prometheus.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::harness::exposition::{Exposition, is_documented, scrape};
use super::harness::mqtt::Broker;
use super::harness::process::{PATIENCE, http, until};
use super::harness::prometheus::{Prometheus, SCRAPE_SECS};
use super::main_job::{World, sleeper};

/// How many odd values of what is cheap there are.
const ODD: usize = 1_000;
/// Namespaces, each with a pod: more than have series of their own.
const NAMESPACES: usize = 150;

/// Series by family name, histograms as their three kinds.
fn names(shown: &Exposition) -> BTreeSet<String> {
    shown.series.iter().map(|((name, labels), _)| format!("{name}{labels:?}")).collect()
}

/// One figure of a monitor, once it is as wanted.
fn wait_figure(monitor: &str, name: &str, labels: &[(&str, &str)], fits: impl Fn(f64) -> bool) -> f64 {
    until(&format!("{name}{labels:?}"), PATIENCE, || {
        let is = scrape(monitor).sum(name, labels);
        if fits(is) { Ok(is) } else { Err(format!("it is {is}")) }
    })
}

#[test]
fn everything_served_is_documented_and_odd_values_make_no_series() {
    let world = World::start();
    let kubectl = world.kubectl();
    let (cloud, edge) = (world.cloud.monitor.as_str(), world.edge.monitor.as_str());
    // Load: a pod that runs, one that crashes, one without an image, and every kind of call.
    kubectl.apply(&sleeper("seen", ""));
    kubectl.apply(&sleeper("crashing", "").replace("trap", "exit 3; trap"));
    kubectl.apply(&sleeper("imageless", "").replace("registry.local/hello:1", "registry.local/none:1"));
    kubectl.wait_running("seen");
    for reason in ["CrashLoopBackOff", "ImagePullBackOff"] {
        wait_figure(edge, "kubeedge_edged_containers_waiting", &[("reason", reason)], |is| is == 1.0);
    }
    wait_figure(cloud, "kubeedge_pods", &[("namespace", "default"), ("phase", "Running")], |is| is >= 1.0);
    for (monitor, disk) in [(cloud, "api"), (edge, "edge")] {
        wait_figure(monitor, "kubeedge_store_bytes", &[("store", disk)], |is| is > 0.0);
        wait_figure(monitor, "kubeedge_disk_free_bytes", &[("folder", "data")], |is| is > 0.0);
        wait_figure(monitor, "kubeedge_arbiter_lag_seconds_count", &[("thread", "main")], |is| is > 0.0);
    }
    let before = [cloud, edge].map(scrape);
    for (program, shown) in ["cloudcore", "edgecore"].into_iter().zip(&before) {
        is_documented(program, shown);
        shown.lint();
        let build = shown.sum("kubeedge_build_info", &[("program", program)]);
        assert_eq!(build, 1.0, "{}", shown.text);
        assert_eq!(shown.sum("kubeedge_actor_state", &[("actor", "Monitor")]), 1.0);
        assert_eq!(shown.sum("kubeedge_ready", &[("check", "store")]), 1.0);
    }

    // Odd values at everything that takes a name from outside.
    let mut namespaces = String::new();
    for i in 0..NAMESPACES {
        writeln!(namespaces, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: odd-{i} }}").unwrap();
        let pod = sleeper("odd", "  nodeName: nowhere");
        let name = format!("name: odd, namespace: odd-{i},");
        writeln!(namespaces, "---\n{}", pod.replace("name: odd,", &name)).unwrap();
    }
    kubectl.run(&["create", "-f", &kubectl.file("odd.yaml", &namespaces)]);
    for monitor in [cloud, edge] {
        for i in 0..ODD {
            let path = format!("/odd-{i}%22%7b%0a?name=%22{i}");
            assert_eq!(http("GET", monitor, &path, &[("X-Odd", "\"{}")]).unwrap().0, 404, "{path}");
        }
    }
    let broker = world.edge.broker;
    for i in 0..ODD / 20 {
        // Topics nobody may use or that mean nothing, and payloads that are none.
        broker.publish(&format!("$hw/events/device/default/odd{i}/twin/update"), "{\"event_id\": 1");
        broker.publish(&format!("odd/{i}/{{\"}}/user"), "x");
    }
    wait_figure(cloud, "kubeedge_pods", &[("namespace", "_other")], |is| is >= (NAMESPACES - 100) as f64);
    let after = [cloud, edge].map(scrape);
    for ((program, had), has) in ["cloudcore", "edgecore"].into_iter().zip(&before).zip(&after) {
        is_documented(program, has);
        has.lint();
        let (had, has) = (names(had), names(has));
        let new: Vec<_> = has.difference(&had).filter(|one| !one.starts_with("kubeedge_pods{")).collect();
        assert!(new.len() < 100, "{program}: {new:#?}");
        assert!(!new.iter().any(|one| one.contains("odd")), "{program}: {new:#?}");
    }
    let pods = after[0].series.iter().filter(|((name, _), _)| name == "kubeedge_pods").count();
    assert_eq!(pods, 101 * 5);
    for pod in ["seen", "crashing", "imageless"] {
        kubectl.run(&["delete", "pod", pod, "--wait=false"]);
    }
}

#[test]
fn counters_of_the_broker_go_on_after_its_actor_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "    mqttRetain: false");
    let publish = |count: usize| {
        for i in 0..count {
            let said = broker.publish(&["-t", "a/b", "-q", "1", "-m", &i.to_string()]);
            assert!(said.status.success(), "{said:?}");
        }
    };
    let labels = [("direction", "in"), ("qos", "1")];
    publish(7);
    wait_figure(&broker.monitor, "kubeedge_eventbus_messages_total", &labels, |is| is == 7.0);
    let panicked = http("POST", &broker.monitor, "/actors/EventBus/panic", &[]).unwrap();
    assert_eq!(panicked.0, 202, "{panicked:?}");
    let restarts = [("actor", "EventBus")];
    wait_figure(&broker.monitor, "kubeedge_actor_restarts_total", &restarts, |is| is == 1.0);
    wait_figure(&broker.monitor, "kubeedge_actor_state", &restarts, |is| is == 1.0);
    until("the broker is back", PATIENCE, || {
        let said = broker.publish(&["-t", "a/b", "-q", "1", "-m", "first"]);
        if said.status.success() { Ok(()) } else { Err(format!("{said:?}")) }
    });
    publish(2);
    wait_figure(&broker.monitor, "kubeedge_eventbus_messages_total", &labels, |is| is == 10.0);
    scrape(&broker.monitor).lint();
}

/// How often the counter of a job that was set back most often was set back.
fn most_resets(prometheus: &Prometheus, job: &str) -> f64 {
    let counters = format!("count by (__name__) ({{__name__=~'kubeedge_.+_total',job='{job}'}})");
    let counters = prometheus.query(&counters).unwrap();
    assert!(counters.len() > 20, "{counters:?}");
    let resets = |(labels, _): &(serde_json::Value, f64)| {
        let name = labels["__name__"].as_str().unwrap();
        prometheus.value(&format!("max(resets({name}{{job='{job}'}}[1h]))")).unwrap()
    };
    counters.iter().map(resets).fold(0.0, f64::max)
}

#[test]
fn prometheus_sees_restarts_of_actors_and_programs_as_they_are() {
    let mut world = World::start();
    let (cloud, edge) = (world.cloud.monitor.clone(), world.edge.monitor.clone());
    let prometheus =
        Prometheus::scraping(&world.dir.path().join("p"), &[("cloudcore", &cloud), ("edgecore", &edge)]);
    prometheus.wait_for("sum(up)", 2.0);
    prometheus.wait_for("kubeedge_edgehub_connected", 1.0);

    // Actors restart: counters go on, nothing else is seen of it.
    let actors =
        [(&cloud, "EdgeController"), (&cloud, "Monitor"), (&edge, "EventBus"), (&edge, "MetaManager")];
    for (monitor, actor) in actors {
        assert_eq!(http("POST", monitor, &format!("/actors/{actor}/panic"), &[]).unwrap().0, 202);
        let job = if monitor == &cloud { "cloudcore" } else { "edgecore" };
        prometheus.wait_for(&format!("kubeedge_actor_restarts_total{{job='{job}',actor='{actor}'}}"), 1.0);
        prometheus.wait_for(&format!("kubeedge_actor_state{{job='{job}',actor='{actor}'}}"), 1.0);
    }
    for job in ["cloudcore", "edgecore"] {
        assert_eq!(most_resets(&prometheus, job), 0.0, "{job}: a counter was set back");
    }
    prometheus.wait_for("sum(changes(process_start_time_seconds[1h]))", 0.0);

    // Programs are killed: down while they are down, one reset of what had counted, and back.
    let messages =
        |job: &str| prometheus.value(&format!("sum(kubeedge_actor_messages_total{{job='{job}'}})"));
    for job in ["cloudcore", "edgecore"] {
        let counted = until("there are messages", PATIENCE, || {
            messages(job).and_then(|is| if is > 0.0 { Ok(is) } else { Err("none".to_owned()) })
        });
        if job == "cloudcore" {
            world.cloud.process.kill9()
        } else {
            world.edge.process.kill9()
        }
        prometheus.wait_for(&format!("up{{job='{job}'}}"), 0.0);
        let gone = prometheus.query(&format!("{{__name__=~'kubeedge_.+',job='{job}'}}")).unwrap();
        assert!(gone.is_empty(), "what is down has no series: {gone:?}");
        if job == "cloudcore" {
            world.cloud.restart(&[])
        } else {
            world.edge.restart(&[])
        }
        prometheus.wait_for(&format!("up{{job='{job}'}}"), 1.0);
        prometheus.wait_for(&format!("changes(process_start_time_seconds{{job='{job}'}}[1h])"), 1.0);
        let again = format!("kubeedge_actor_restarts_total{{job='{job}',actor='Monitor'}}");
        prometheus.wait_for(&again, 0.0);
        let grew =
            prometheus.value(&format!("sum(increase(kubeedge_actor_messages_total{{job='{job}'}}[1h]))"));
        assert!(grew.is_ok_and(|grew| grew >= 0.0), "before the end {counted}");
    }
    prometheus.wait_for("kubeedge_edgehub_connected", 1.0);
    prometheus.wait_for("sum(up)", 2.0);
    for job in ["cloudcore", "edgecore"] {
        // Once down, once up: no scrape failed but while the program was away, or because it took too long.
        let changes = format!("changes(up{{job='{job}'}}[1h])");
        let slowest = format!("max_over_time(scrape_duration_seconds{{job='{job}'}}[1h])");
        until("the program went and came once", PATIENCE, || {
            let (changes, slowest) = (prometheus.value(&changes)?, prometheus.value(&slowest)?);
            let late = slowest >= f64::from(SCRAPE_SECS);
            let fits = if late { changes >= 2.0 } else { changes == 2.0 };
            if fits { Ok(()) } else { Err(format!("{changes} changes, scrapes of {slowest} s")) }
        });
        assert_eq!(most_resets(&prometheus, job), 1.0, "{job}");
    }
    for trouble in ["duplicate_timestamp", "out_of_order", "out_of_bounds"] {
        assert_eq!(prometheus.own(&format!("prometheus_target_scrapes_sample_{trouble}_total")), 0.0);
    }
}
