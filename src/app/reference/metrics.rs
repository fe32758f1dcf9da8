//! `config/prometheus/METRICS.md`: what every `XMetrics::new()` describes and registers, collected by
//! a recorder of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, counter,
    describe_counter, describe_gauge, gauge, with_local_recorder,
};
use parking_lot::Mutex;

use super::{cell, check};
use crate::bus::identity::AuditAction;
use crate::console::door;
use crate::model::DeviceId;
use crate::telemetry::actors::{ActorMetrics, actor_state, arbiter_lag, workers_of_kind};
use crate::telemetry::apiserver::ApiServerMetrics;
use crate::telemetry::cloud_hub::{CloudHubMetrics, SyncMetrics};
use crate::telemetry::console::ConsoleMetrics;
use crate::telemetry::cri::CriMetrics;
use crate::telemetry::device_controller::DeviceControllerMetrics;
use crate::telemetry::device_twin::DeviceTwinMetrics;
use crate::telemetry::dmi::DmiMetrics;
use crate::telemetry::doors::{self, DoorMetrics};
use crate::telemetry::edge_controller::EdgeControllerMetrics;
use crate::telemetry::edge_hub::{EdgeHubMetrics, OutboxMetrics, show_clock};
use crate::telemetry::edged::EdgedMetrics;
use crate::telemetry::event_bus::EventBusMetrics;
use crate::telemetry::exporter::Exporter;
use crate::telemetry::federation;
use crate::telemetry::host::{DiskMetrics, show_build};
use crate::telemetry::identity::{AuditMetrics, IdentityCounters, IdentityMetrics, Issued, Refused};
use crate::telemetry::identity_controller::IdentityControllerMetrics;
use crate::telemetry::logging::show_counts;
use crate::telemetry::meta_manager::MetaManagerMetrics;
use crate::telemetry::node_monitor::NodeMonitorMetrics;
use crate::telemetry::pods::{MAX_NAMESPACES, OTHER, PHASES, PodMetrics};
use crate::telemetry::readiness::{Readiness, STORE, TRUST_BUNDLE};
use crate::telemetry::scheduler::SchedulerMetrics;
use crate::telemetry::store::StoreMetrics;
use crate::telemetry::workload::WorkloadMetrics;

const PAGE: &str = "config/prometheus/METRICS.md";

/// One family of metrics.
#[derive(Debug, Default)]
struct Family {
    kind: &'static str,
    unit: Option<Unit>,
    help: String,
    /// Values that were registered, by label.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// A recorder that only remembers what there is.
#[derive(Default)]
struct Catalog(Mutex<BTreeMap<String, Family>>);

impl Catalog {
    fn describe(&self, name: &KeyName, kind: &'static str, unit: Option<Unit>, help: &SharedString) {
        let mut families = self.0.lock();
        let family = families.entry(name.as_str().to_owned()).or_default();
        (family.kind, family.unit, family.help) = (kind, unit, help.to_string());
    }

    fn register(&self, key: &Key, kind: &'static str) {
        let mut families = self.0.lock();
        let family = families.entry(key.name().to_owned()).or_default();
        family.kind = kind;
        for label in key.labels() {
            family.labels.entry(label.key().to_owned()).or_default().insert(label.value().to_owned());
        }
    }
}

impl Recorder for Catalog {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, "counter", unit, &help);
    }
    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, "gauge", unit, &help);
    }
    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, "histogram", unit, &help);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register(key, "counter");
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register(key, "gauge");
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register(key, "histogram");
        Histogram::noop()
    }
}

const NODES: &str = "one for each edge node of the API, and each that has a session";

/// Labels whose values are not all in the constructors: family (`*`: any), label, what bounds them.
const BOUNDS: [(&str, &str, &str); 12] = [
    ("kubeedge_console_requests_total", "code", "status codes of HTTP the console answers with, about 12"),
    ("*", "actor", "names of the tree's actors and kinds of its workers, about 20, fixed in the source"),
    ("*", "thread", "names of the program's arbiters, at most 6, fixed in the source"),
    (
        "kubeedge_apiserver_objects",
        "kind",
        "plurals of the embedded API's table of kinds, fixed in the source",
    ),
    ("kubeedge_build_info", "version", "one: the version of the program"),
    ("kubeedge_build_info", "git", "one: the commit it was built from, or `unknown`"),
    (
        "kubeedge_device_value",
        "namespace",
        "together at most `modules.deviceTwin.maxExportedValues` series, and only of Devices that ask for it",
    ),
    ("kubeedge_device_value", "device", "see `namespace`"),
    ("kubeedge_device_value", "property", "see `namespace`"),
    ("kubeedge_federate_edge_up", "node", NODES),
    ("kubeedge_federate_report_age_seconds", "node", NODES),
    (
        "kubeedge_pods",
        "namespace",
        "the first 100 namespaces that had pods; the pods of all others are counted as `_other`",
    ),
];

/// What both programs have.
fn both(program: &'static str, store: &'static str) {
    show_build(program);
    show_counts();
    let _ = (DiskMetrics::new(), StoreMetrics::new(store), ActorMetrics::new("Monitor"));
    drop((actor_state("Monitor"), workers_of_kind("Session"), arbiter_lag("main")));
    let console = ConsoleMetrics::new();
    console.answered(200);
    door::Refused::ALL.into_iter().for_each(|why| console.refused(why.label()));
    doors::DOORS.into_iter().for_each(|door| drop(DoorMetrics::new(door)));
    let readiness = Readiness::default();
    readiness.set(STORE, true);
    readiness.set(TRUST_BUNDLE, true);
    readiness.publish();
    let audit = AuditMetrics::new();
    for action in AuditAction::ALL {
        audit.recorded(action.label(), true);
        audit.recorded(action.label(), false);
    }
    let counters = IdentityCounters::new();
    Issued::ALL.into_iter().for_each(|what| counters.issued(what));
    Refused::ALL.into_iter().for_each(|why| counters.refused(why));
    let process = metrics_process::Collector::default();
    process.describe();
    process.collect();
}

/// What only cloudcore has.
fn cloud() {
    let now = SystemTime::now();
    let ends = [IdentityMetrics::cloud(), IdentityMetrics::issuing_ca(), IdentityMetrics::root()];
    ends.into_iter().for_each(|end| end.set_validity(now, now));
    ApiServerMetrics::new().set_objects("pods", 0);
    let _ = (CloudHubMetrics::new(), SyncMetrics::new(), EdgeControllerMetrics::new());
    let _ = (DeviceControllerMetrics::new(), IdentityControllerMetrics::new());
    let _ = (SchedulerMetrics::new(), NodeMonitorMetrics::new());
    // Not recorded: written onto `/federate/edges` itself.
    for (name, kind, help, labels) in federation::OWN {
        let label = labels.first().copied();
        let values: Vec<&str> = match label {
            Some("reason") => federation::Refused::ALL.map(federation::Refused::label).to_vec(),
            Some(_) => vec!["n"],
            None => Vec::new(),
        };
        let labels: Vec<metrics::Label> = values
            .iter()
            .filter_map(|value| Some(metrics::Label::new(label?, (*value).to_owned())))
            .collect();
        if kind == "counter" {
            describe_counter!(name, help);
            labels.into_iter().for_each(|label| drop(counter!(name, [label].iter())));
        } else {
            let unit = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
            describe_gauge!(name, unit, help);
            drop(gauge!(name, labels.iter()));
        }
    }
    let namespaces: Vec<String> = (0..=MAX_NAMESPACES).map(|i| format!("n{i}")).collect();
    PodMetrics::new().show(namespaces.iter().flat_map(|name| PHASES.map(|phase| (name.as_str(), phase))));
}

/// What only edgecore has.
fn edge() {
    let now = SystemTime::now();
    [IdentityMetrics::node(), IdentityMetrics::node_ca()]
        .into_iter()
        .for_each(|end| end.set_validity(now, now));
    let _ = (EdgeHubMetrics::new(), OutboxMetrics::new(), MetaManagerMetrics::new(), EdgedMetrics::new());
    let _ = (
        CriMetrics::new(crate::cri::client::CALLS),
        EventBusMetrics::new(),
        DmiMetrics::new(),
        WorkloadMetrics::new(),
    );
    show_clock(now, now);
    DeviceTwinMetrics::new().export(&DeviceId::new("default", "lamp"), "power", 1.0);
}

/// Everything that `work` describes or registers.
fn collect(work: impl FnOnce()) -> BTreeMap<String, Family> {
    let catalog = Catalog::default();
    with_local_recorder(&catalog, work);
    let mut families = catalog.0.into_inner();
    // The exporter shows it as what it is.
    if let Some(cpu) = families.get_mut("process_cpu_seconds_total") {
        cpu.kind = "counter";
    }
    families
}

fn programs() -> [(&'static str, BTreeMap<String, Family>); 2] {
    let cloudcore = collect(|| {
        both("cloudcore", "api");
        cloud();
    });
    let edgecore = collect(|| {
        both("edgecore", "edge");
        edge();
    });
    [("cloudcore", cloudcore), ("edgecore", edgecore)]
}

fn bound(family: &str, label: &str) -> Option<&'static str> {
    let fits = |of: &str| of == "*" || of == family;
    BOUNDS.iter().find(|(of, name, _)| fits(of) && *name == label).map(|(_, _, words)| *words)
}

/// `` `label`: `a`, `b` ``, or the words of a bound in brackets.
fn labels(name: &str, family: &Family) -> String {
    let one = |(label, values): (&String, &BTreeSet<String>)| {
        let values = match bound(name, label) {
            Some(words) => format!("({words})"),
            None => values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
        };
        format!("`{label}`: {values}")
    };
    family.labels.iter().map(one).collect::<Vec<_>>().join("<br>")
}

fn unit(name: &str, family: &Family) -> &'static str {
    match family.unit {
        Some(Unit::Seconds) => "seconds",
        Some(Unit::Bytes) => "bytes",
        Some(Unit::Count) | None if name.ends_with("_seconds_total") => "seconds",
        Some(Unit::Count) | None => "",
        Some(other) => panic!("{name}: {other:?} is no base unit of ours"),
    }
}

fn table(page: &mut String, title: &str, families: &BTreeMap<String, Family>, want: impl Fn(&str) -> bool) {
    write!(page, "\n## {title}\n\n| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
        .unwrap();
    for (name, family) in families.iter().filter(|(name, _)| want(name)) {
        let (kind, unit, labels) = (family.kind, unit(name, family), labels(name, family));
        writeln!(page, "| `{name}` | {kind} | {unit} | {labels} | {} |", cell(&family.help)).unwrap();
    }
}

const HEAD: &str = "\
# Metrics

Made from the code by a test; do not edit it by hand. Write it anew with
`KUBEEDGE_REGENERATE=1 cargo test --lib app::reference`.

cloudcore serves its own on `commonConfig.monitorServer.bindAddress` (127.0.0.1:9091), edgecore on 127.0.0.1:9092,
both as `GET /metrics` in Prometheus' text format. Names begin with `kubeedge_` (or `process_`), units are base
units, counters end in `_total` and begin at 0 when the program starts; a restart of an actor does not set them
back. Histograms have buckets, `_sum` and `_count`. Gauges that end in `_limit` (`_limit_bytes`) say where the gauge
of the same name ends: what fills up is shown with what it fills up to.

Every label has a bounded number of values: those listed, or what the words in brackets say. No label holds
the name of a pod or a container, nor free text. Prometheus adds `job` and `instance`, and `cluster` where the
shipped configuration is used.
";

fn page() -> String {
    let [(_, cloudcore), (_, edgecore)] = programs();
    let mut page = HEAD.to_owned();
    let shared: BTreeSet<&String> = cloudcore.keys().filter(|name| edgecore.contains_key(*name)).collect();
    let shared: BTreeSet<String> = shared.into_iter().cloned().collect();
    let mut merged = collect(|| {
        both("cloudcore", "api");
        cloud();
        both("edgecore", "edge");
        edge();
    });
    merged.retain(|name, _| shared.contains(name));
    table(&mut page, "Both programs", &merged, |_| true);
    let of_page = |name: &str| federation::OWN.iter().any(|own| own.0 == name);
    table(&mut page, "cloudcore", &cloudcore, |name| !shared.contains(name) && !of_page(name));
    table(
        &mut page,
        "cloudcore, on `/federate/edges` beside the families of all connected edges",
        &cloudcore,
        of_page,
    );
    table(&mut page, "edgecore", &edgecore, |name| !shared.contains(name));
    page
}

#[test]
fn the_page_is_what_the_code_says() {
    check(PAGE, &page());
}

#[test]
fn every_family_has_help_a_unit_where_its_name_has_one_and_prometheus_manners() {
    for (program, families) in programs() {
        for (name, family) in &families {
            let help = &family.help;
            assert!(
                help.len() > 5
                    && (!help.ends_with('.') || name.starts_with("process_"))
                    && !help.contains('\n'),
                "{program}: {name}: {help:?}"
            );
            assert_eq!(
                family.kind == "counter",
                name.ends_with("_total"),
                "{program}: {name} is a {}",
                family.kind
            );
            let plain = name.trim_end_matches("_total").to_owned();
            for (suffix, wanted) in [("_seconds", "seconds"), ("_bytes", "bytes")] {
                let has = plain.ends_with(suffix);
                assert_eq!(
                    unit(name, family) == wanted,
                    has,
                    "{program}: {name} and its unit {:?}",
                    family.unit
                );
            }
            let ours = name.starts_with("kubeedge_") || name.starts_with("process_");
            assert!(ours && !name.ends_with("_limit_total"), "{program}: {name}");
        }
        for limit in families.keys().filter(|name| name.contains("_limit")) {
            let of = limit.replace("_limit", "");
            assert!(families.contains_key(&of), "{program}: {limit} limits {of}, which is not there");
        }
    }
}

/// Whoever adds a family must have it made in [`both`], [`cloud`] or [`edge`].
#[test]
fn every_name_in_the_sources_is_on_the_page() {
    let page = page();
    let mut missing = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for name in text.split('"').filter(|piece| is_name(piece)) {
                    if !page.contains(&format!("| `{name}` |")) {
                        missing.insert(format!("{name} ({})", path.display()));
                    }
                }
            }
        }
    }
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
}

/// Begins names that an edge may not use; nothing has it.
const RESERVED: &str = "kubeedge_nodes";

fn is_name(text: &str) -> bool {
    let parts = text.strip_prefix("kubeedge_").map(|rest| rest.split('_').count()).unwrap_or_default();
    parts >= 1
        && text != RESERVED
        && !text.ends_with('_')
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
        && !["_bucket", "_sum", "_count"].iter().any(|end| text.ends_with(end))
}

#[test]
fn every_bound_is_about_a_label_there_is() {
    let [(_, mut all), (_, edgecore)] = programs();
    all.extend(edgecore);
    for (family, label, _) in BOUNDS {
        let fits = |name: &str| family == "*" || name == family;
        let found = all.iter().any(|(name, of)| fits(name) && of.labels.contains_key(label));
        assert!(found, "{family}: {label}");
    }
    assert!(all["kubeedge_pods"].labels["namespace"].contains(OTHER));
    assert_eq!(all["kubeedge_pods"].labels["namespace"].len(), MAX_NAMESPACES + 1);
    for (name, family) in &all {
        for (label, values) in &family.labels {
            let free = bound(name, label).is_some();
            assert!(free || values.len() <= 32, "{name}: {label} has {} values", values.len());
        }
    }
}

/// Everything that takes a word from outside the program, given a thousand that mean nothing.
fn odd_words() {
    let odd: Vec<String> = (0..1_000).map(|i| format!("odd\"{i}\\\n{{le=}}é")).collect();
    let (api, dmi, bus) = (ApiServerMetrics::new(), DmiMetrics::new(), EventBusMetrics::new());
    let (cri, edged) = (CriMetrics::new(crate::cri::client::CALLS), EdgedMetrics::new());
    for word in &odd {
        api.answered(word, 200, 0.1);
        cri.record(word, Duration::from_millis(1), true);
        dmi.record(word, Duration::from_millis(1), false);
        bus.dropped(word).increment(1);
        bus.refused(word).increment(1);
    }
    edged.show_waiting(odd.iter().map(String::as_str));
    PodMetrics::new().show(odd.iter().map(|word| (word.as_str(), word.as_str())));
    let states = odd.iter().map(|word| (word.as_str(), 1)).collect();
    DeviceTwinMetrics::new().show(&states, 1_000, 1, 1);
}

#[test]
fn a_thousand_odd_words_from_outside_make_no_series() {
    let series = |work: fn()| {
        let ((), exporter) = Exporter::record(|| {
            both("edgecore", "edge");
            edge();
            work();
        });
        let text = exporter.render();
        let names = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        names.filter(|line| !line.starts_with("kubeedge_pods{")).count()
    };
    let apis = series(|| drop((ApiServerMetrics::new(), CloudHubMetrics::new())));
    assert!(apis > 200, "{apis}");
    // Everything on: the words may only fill what is bounded.
    let without = series(|| {
        let (api, _, edged) = (ApiServerMetrics::new(), DmiMetrics::new(), EdgedMetrics::new());
        api.answered("other", 200, 0.1);
        edged.show_waiting(std::iter::empty());
    });
    assert_eq!(series(odd_words), without);
}
