use std::fmt::Write as _;

use proptest::prelude::*;

use super::line::{Kind, is_name, is_value, parse};
use super::*;
use crate::wire::node_report::{Encoder, MAX_TEXT_BYTES, pack};

/// A cloud and the clocks of a test.
struct World {
    federation: Federation,
    begun: Instant,
}

impl World {
    fn new(max_series: usize) -> Self {
        Self { federation: Federation::new(max_series), begun: Instant::now() }
    }

    fn at(&self, secs: u64) -> Moment {
        let passed = Duration::from_secs(secs);
        Moment { at: self.begun + passed, unix_ms: i64::try_from(secs).unwrap() * 1000 }
    }

    fn open(&self, name: &str, session: u64) {
        self.federation.session_opened(&node(name), session, self.at(0));
    }

    fn say(&self, name: &str, session: u64, report: NodeReport, secs: u64) -> Result<(), Refused> {
        self.federation.report(&node(name), session, report, self.at(secs))
    }

    /// A session that says one thing.
    fn once(&self, name: &str, session: u64, text: &str) -> Result<(), Refused> {
        self.open(name, session);
        self.say(name, session, full(text), 0)
    }

    /// The page without Federation's own families.
    fn edges(&self, secs: u64) -> String {
        let page = self.page(secs);
        page.split_once("# HELP kubeedge_federate_edge_up").unwrap().0.to_owned()
    }

    fn page(&self, secs: u64) -> String {
        self.federation.render(self.at(secs).at)
    }

    fn refused(&self, reason: &str) -> u64 {
        let start = format!("kubeedge_federate_refused_total{{reason=\"{reason}\"}} ");
        let page = self.page(0);
        page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    }

    fn up(&self, name: &str, secs: u64) -> Option<String> {
        let start = format!("kubeedge_federate_edge_up{{node=\"{name}\"}} ");
        self.page(secs).lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    }
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn full(text: &str) -> NodeReport {
    Encoder::default().report(text, 15)
}

/// A report whose text is as given, whatever it is.
fn raw(sequence: u32, text: &str) -> NodeReport {
    NodeReport { sequence, interval_secs: 15, metrics: pack(text), actors: None }
}

const HELLO: &str =
    "# HELP kubeedge_x_total Things.\n# TYPE kubeedge_x_total counter\nkubeedge_x_total{a=\"1\"} 3\n";

#[test]
fn families_of_all_nodes_stand_together_with_the_nodes_name() {
    let world = World::new(100);
    let histogram = "# HELP kubeedge_h_seconds How long.\n# TYPE kubeedge_h_seconds histogram\n\
        kubeedge_h_seconds_bucket{le=\"0.5\"} 1\nkubeedge_h_seconds_bucket{le=\"+Inf\"} 2\n\
        kubeedge_h_seconds_sum 1.25\nkubeedge_h_seconds_count 2\n";
    world.once("b", 1, &format!("{histogram}{HELLO}")).unwrap();
    world.once("a", 2, &format!("{HELLO}{histogram}")).unwrap();
    let want = "# HELP kubeedge_h_seconds How long.\n# TYPE kubeedge_h_seconds histogram\n\
        kubeedge_h_seconds_bucket{node=\"a\",le=\"0.5\"} 1\nkubeedge_h_seconds_bucket{node=\"a\",le=\"+Inf\"} 2\n\
        kubeedge_h_seconds_sum{node=\"a\"} 1.25\nkubeedge_h_seconds_count{node=\"a\"} 2\n\
        kubeedge_h_seconds_bucket{node=\"b\",le=\"0.5\"} 1\nkubeedge_h_seconds_bucket{node=\"b\",le=\"+Inf\"} 2\n\
        kubeedge_h_seconds_sum{node=\"b\"} 1.25\nkubeedge_h_seconds_count{node=\"b\"} 2\n\
        # HELP kubeedge_x_total Things.\n# TYPE kubeedge_x_total counter\n\
        kubeedge_x_total{node=\"a\",a=\"1\"} 3\nkubeedge_x_total{node=\"b\",a=\"1\"} 3\n";
    assert_eq!(world.edges(1), want);
    assert!(world.page(1).contains("\nkubeedge_federate_series 10\n"));
}

#[test]
fn values_follow_and_a_gap_hides_the_node_until_a_full_report() {
    let world = World::new(100);
    let (mut encoder, text) =
        (Encoder::default(), |n: u32| format!("# TYPE kubeedge_g gauge\nkubeedge_g {n}\n"));
    world.open("a", 1);
    world.say("a", 1, encoder.report(&text(1), 15), 0).unwrap();
    world.say("a", 1, encoder.report(&text(5), 15), 1).unwrap();
    assert!(world.edges(2).ends_with("kubeedge_g{node=\"a\"} 5\n"));
    let lost = encoder.report(&text(6), 15);
    let after = encoder.report(&text(7), 15);
    assert_eq!(world.say("a", 1, after.clone(), 3), Err(Refused::OutOfOrder));
    assert_eq!(world.edges(3), "", "what is shown must be true");
    assert_eq!(world.say("a", 1, lost, 4), Err(Refused::OutOfOrder));
    assert_eq!(world.refused("out_of_order"), 2);
    // The next session begins with a full one.
    world.open("a", 2);
    assert_eq!(world.say("a", 1, after, 5), Err(Refused::NoSession));
    encoder.forget();
    world.say("a", 2, encoder.report(&text(9), 15), 5).unwrap();
    assert!(world.edges(6).ends_with("kubeedge_g{node=\"a\"} 9\n"));
}

#[test]
fn who_does_not_report_disappears_and_is_down() {
    let world = World::new(100);
    assert_eq!(world.up("a", 0), None);
    world.federation.known_nodes([node("a"), node("go"), node("off")].into());
    world.once("a", 1, HELLO).unwrap();
    world.open("go", 2);
    // (seconds, series shown, up: of ours, of KubeEdge's, of one that never came)
    for (secs, shown, up) in [(0, true, "1"), (44, true, "1"), (45, false, "0"), (500, false, "0")] {
        assert_eq!(world.edges(secs).contains("node=\"a\""), shown, "{secs}");
        assert_eq!(world.up("a", secs).as_deref(), Some(up), "{secs}");
        assert_eq!(world.up("go", secs).as_deref(), Some("1"), "{secs}");
        assert_eq!(world.up("off", secs).as_deref(), Some("0"), "{secs}");
    }
    assert!(world.page(44).contains("kubeedge_federate_report_age_seconds{node=\"a\"} 44\n"));
    // An older session's end is late news.
    world.once("a", 3, HELLO).unwrap();
    world.federation.session_ended(&node("a"), 1);
    assert!(world.edges(1).contains("node=\"a\""));
    world.federation.session_ended(&node("a"), 3);
    assert_eq!((world.edges(1).as_str(), world.up("a", 1).as_deref()), ("", Some("0")));
    assert!(!world.page(1).contains("kubeedge_federate_report_age_seconds{"));
    // A deleted Node is forgotten, with its session if it has one.
    world.federation.known_nodes([node("off")].into());
    assert_eq!((world.up("a", 1), world.up("go", 1).as_deref()), (None, Some("1")));
    world.federation.session_ended(&node("go"), 2);
    assert_eq!(world.up("go", 1), None);
    assert_eq!(world.federation.nodes(), [(node("off"), false, None)]);
}

#[test]
fn actors_and_nodes_for_the_console() {
    let world = World::new(100);
    let mut report = full(HELLO);
    report.actors = Some(pack("{\"name\":\"edgecore\"}"));
    world.open("a", 1);
    world.say("a", 1, report, 7).unwrap();
    assert_eq!(world.federation.nodes(), [(node("a"), true, Some(7_000))]);
    let (at, actors) = world.federation.actors(&node("a")).unwrap();
    assert_eq!((at, &actors["name"]), (7_000, &Value::from("edgecore")));
    world.federation.session_ended(&node("a"), 1);
    assert!(world.federation.actors(&node("a")).is_some(), "as they were last seen");
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_ACTORS_BYTES));
    world.open("a", 2);
    for (session, bad) in [(2, pack("[]")), (2, pack("{")), (2, "%".to_owned()), (2, pack(&long))] {
        let mut report = full(HELLO);
        report.actors = Some(bad);
        world.say("a", session, report, 8).unwrap();
    }
    assert_eq!(world.refused("bad_actors"), 4);
    assert_eq!(world.federation.actors(&node("a")).unwrap().0, 7_000);
    assert_eq!(world.federation.actors(&node("b")), None);
}

/// Each line alone, after a good family: what becomes of it.
#[test]
fn what_an_edge_may_not_say() {
    let ok = "# TYPE kubeedge_ok gauge\nkubeedge_ok 1\n";
    let many = (0..13).map(|n| format!("l{n}=\"\",")).collect::<String>();
    let long = "x".repeat(300);
    for (text, reason) in [
        // Names of others.
        ("# TYPE up gauge\nup 1\n", "reserved"),
        ("# TYPE ALERTS gauge\nALERTS 1\n", "reserved"),
        ("# TYPE kubeedge_federate_edge_up gauge\nkubeedge_federate_edge_up{node=\"b\"} 1\n", "reserved"),
        (
            "# TYPE kubeedge_apiserver_requests_total counter\nkubeedge_apiserver_requests_total 1\n",
            "reserved",
        ),
        ("# TYPE kubeedge_pods gauge\nkubeedge_pods 1\n", "reserved"),
        // Names that are none.
        ("# TYPE kubeedge-x gauge\n", "bad_series"),
        ("# TYPE kubeedge_x gauges\n", "bad_series"),
        ("# TYPE kubeedge_x_count counter\n", "bad_series"),
        ("# HELP kubeedge_x bad \\escape\n", "bad_series"),
        ("kubeedge_none 1\n", "bad_series"),
        ("kubeedge_ok{a=b} 1\n", "bad_series"),
        ("kubeedge_ok{a=\"b\"}} 1\n", "bad_series"),
        ("kubeedge_ok{a=\"b\" 1\n", "bad_series"),
        ("kubeedge_ok{a=\"b\",a=\"c\"} 1\n", "bad_series"),
        ("kubeedge_ok{node=\"b\",exported_node=\"c\"} 1\n", "bad_series"),
        ("kubeedge_ok{__name__=\"up\"} 1\n", "bad_series"),
        ("kubeedge_ok{a-b=\"\"} 1\n", "bad_series"),
        ("kubeedge_ok{a=\"\\x\"} 1\n", "bad_series"),
        (&format!("kubeedge_ok{{{many}}} 1\n"), "bad_series"),
        (&format!("kubeedge_ok{{a=\"{long}\"}} 1\n"), "bad_series"),
        // Values that are none.
        ("kubeedge_ok{a=\"1\"} one\n", "bad_series"),
        ("kubeedge_ok{a=\"1\"} 1 1700000000000\n", "bad_series"),
        ("kubeedge_ok{a=\"1\"} 1_0\n", "bad_series"),
        // Twice, in another order of labels too.
        ("kubeedge_ok{a=\"1\",b=\"2\"} 1\nkubeedge_ok{b=\"2\",a=\"1\"} 2\n", "duplicate"),
        ("# TYPE kubeedge_ok counter\n", "type_conflict"),
        // Buckets without bounds.
        ("# TYPE kubeedge_h histogram\nkubeedge_h_bucket 1\n", "bad_series"),
        ("# TYPE kubeedge_h histogram\nkubeedge_h_bucket{le=\"x\"} 1\n", "bad_series"),
        ("# TYPE kubeedge_h histogram\nkubeedge_h_sum{le=\"1\"} 1\n", "bad_series"),
        ("# TYPE kubeedge_h histogram\nkubeedge_h 1\n", "bad_series"),
        ("# TYPE kubeedge_s summary\nkubeedge_s 1\n", "bad_series"),
    ] {
        let world = World::new(100);
        world.open("a", 1);
        assert_eq!(world.say("a", 1, raw(0, &format!("{ok}{text}.\n")), 0), Ok(()), "{text}");
        assert!(world.refused(reason) > 0, "{text}");
        let shown = world.edges(1);
        let good = "# HELP kubeedge_ok As the edge reports it.\n# TYPE kubeedge_ok gauge\nkubeedge_ok{node=\"a\"} 1\n";
        assert!(shown.starts_with(good), "{text}: {shown}");
        let others: Vec<&str> = shown.lines().skip(3).collect();
        assert!(others.len() == usize::from(reason == "duplicate"), "{text}: {shown}");
    }
}

/// Labels that scraping sets are the edge's no more.
#[test]
fn forged_labels_are_renamed() {
    let world = World::new(100);
    let text = "# TYPE kubeedge_g gauge\nkubeedge_g{node=\"victim\",job=\"cloudcore\",instance=\"i\",cluster=\"c\",z=\"}\\\"\"} 1\n";
    world.once("a", 1, text).unwrap();
    let want = "kubeedge_g{node=\"a\",exported_cluster=\"c\",exported_instance=\"i\",exported_job=\"cloudcore\",\
        exported_node=\"victim\",z=\"}\\\"\"} 1\n";
    assert!(world.edges(1).ends_with(want), "{}", world.edges(1));
}

#[test]
fn a_report_that_cannot_be_read_hides_only_its_node() {
    for (report, why) in [
        (raw(0, "kubeedge_ok\n"), Refused::BadReport),
        (raw(0, ".\n+1\n"), Refused::BadReport),
        (raw(2, "x 1\n.\n"), Refused::OutOfOrder),
        (NodeReport { metrics: "no base64".into(), ..raw(0, "") }, Refused::BadReport),
        (NodeReport { metrics: "A".repeat(1 << 20), ..raw(0, "") }, Refused::TooLong),
        (raw(0, &"x".repeat(MAX_TEXT_BYTES + 1)), Refused::TooLong),
    ] {
        let world = World::new(100);
        world.once("good", 1, HELLO).unwrap();
        world.once("bad", 2, HELLO).unwrap();
        assert_eq!(world.say("bad", 2, report, 1), Err(why));
        let shown = world.edges(2);
        assert!(shown.contains("node=\"good\"") && !shown.contains("node=\"bad\""), "{shown}");
        assert_eq!(world.refused(why.label()), 1);
        world.say("bad", 2, full(HELLO), 3).unwrap();
        assert!(world.edges(4).contains("node=\"bad\""), "a full report mends it");
    }
    let world = World::new(100);
    world.once("a", 1, HELLO).unwrap();
    assert_eq!(world.federation.unreadable(&node("a"), 1), Err(Refused::BadReport));
    assert_eq!(world.edges(1), "");
}

#[test]
fn a_million_series_cost_what_is_allowed() {
    let world = World::new(50);
    let mut text = "# TYPE kubeedge_g gauge\n".to_owned();
    (0..1_000).for_each(|n| writeln!(text, "kubeedge_g{{n=\"{n}\"}} {n}").unwrap());
    world.once("a", 1, &text).unwrap();
    assert_eq!(world.edges(1).lines().count(), 52);
    assert_eq!(world.refused("too_many_series"), 950);
    // What was not taken has its number still.
    world.say("a", 1, raw(1, ".\n50+1\n500+1\n"), 1).unwrap();
    assert!(world.edges(2).ends_with("kubeedge_g{node=\"a\",n=\"49\"} 50\n"));
    // Short lines, so that very many fit into a report; families without end.
    let lines = "x 1\n".repeat(200_000);
    assert_eq!(world.once("a", 2, "x 1\n"), Ok(()));
    world.open("a", 3);
    assert_eq!(world.say("a", 3, raw(0, &lines), 1), Err(Refused::TooLong));
    let families: String = (0..1_000).map(|n| format!("# TYPE kubeedge_{n} gauge\n")).collect();
    world.open("a", 4);
    world.say("a", 4, raw(0, &format!("{families}.\n")), 2).unwrap();
    assert_eq!(world.refused("too_many_series"), 1_900);
}

#[test]
fn a_flood_is_counted_and_takes_nothing_from_others() {
    let world = World::new(100);
    world.once("good", 1, HELLO).unwrap();
    world.open("bad", 2);
    let taken = (0..100).filter(|_| world.say("bad", 2, full(HELLO), 1).is_ok()).count();
    assert_eq!((taken, world.refused("rate")), (10, 90));
    assert!(world.edges(2).contains("node=\"good\"") && !world.edges(2).contains("node=\"bad\""));
    world.say("bad", 2, full(HELLO), 3).unwrap();
    assert!(world.edges(4).contains("node=\"bad\""));
}

/// Among equals the one stays that was there first.
#[test]
fn a_single_liar_does_not_hide_a_single_node() {
    let world = World::new(100);
    world.once("b", 1, HELLO).unwrap();
    assert!(world.edges(1).contains("node=\"b\""));
    for kind in ["gauge", "histogram", "untyped"] {
        world.once("a-liar", 2, &format!("# TYPE kubeedge_x_total {kind}\nkubeedge_x_total 9\n")).unwrap();
        let shown = world.edges(1);
        assert!(shown.contains("node=\"b\"") && !shown.contains("liar"), "{shown}");
    }
}

/// The type that most nodes have is shown: one that lies hides itself.
#[test]
fn a_family_has_one_type() {
    let world = World::new(100);
    world.once("a-liar", 1, "# TYPE kubeedge_x_total gauge\nkubeedge_x_total{a=\"1\"} 9\n").unwrap();
    world.once("b", 2, HELLO).unwrap();
    world.once("c", 3, HELLO).unwrap();
    let shown = world.edges(1);
    assert_eq!(shown.matches("# TYPE kubeedge_x_total ").count(), 1);
    assert!(shown.contains("# TYPE kubeedge_x_total counter\n") && !shown.contains("a-liar"), "{shown}");
    assert!(world.refused("type_conflict") > 0);
}

#[test]
fn fifty_nodes_half_of_them_gone() {
    let world = World::new(4_000);
    let mut text = String::new();
    for family in 0..40 {
        writeln!(
            text,
            "# HELP kubeedge_f{family}_seconds Help.\n# TYPE kubeedge_f{family}_seconds histogram"
        )
        .unwrap();
        for le in ["0.1", "1", "10", "+Inf"] {
            writeln!(text, "kubeedge_f{family}_seconds_bucket{{call=\"x\",le=\"{le}\"}} 4").unwrap();
        }
        writeln!(
            text,
            "kubeedge_f{family}_seconds_sum{{call=\"x\"}} 4\nkubeedge_f{family}_seconds_count{{call=\"x\"}} 4"
        )
        .unwrap();
    }
    (0..50).for_each(|n| world.once(&format!("edge-{n}"), n + 1, &text).unwrap());
    let all = world.edges(1);
    (0..25).for_each(|n| world.federation.session_ended(&node(&format!("edge-{n}")), n + 1));
    let half = world.edges(1);
    for (page, nodes) in [(&all, 50), (&half, 25)] {
        let mut samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples.len(), nodes * 40 * 6);
        samples.sort_unstable();
        samples.dedup();
        assert_eq!(samples.len(), nodes * 40 * 6, "none is there twice");
        assert_eq!(page.matches("# TYPE ").count(), 40);
    }
    assert!((0..25).all(|n| world.up(&format!("edge-{n}"), 1).as_deref() == Some("0")));
    assert!((25..50).all(|n| world.up(&format!("edge-{n}"), 1).as_deref() == Some("1")));
}

#[test]
fn words_and_numbers() {
    for (text, is) in [("a", true), ("_a1", true), ("a:b", true), ("1a", false), ("", false), ("ä", false)] {
        assert_eq!(is_name(text, true), is, "{text}");
    }
    assert!(!is_name("a:b", false) && !is_name(&"a".repeat(129), true));
    for text in ["1", "-1.5e-7", "NaN", "+Inf", "-infinity", "1e308", "1e-999", "-0", ".5"] {
        assert!(is_value(text), "{text}");
    }
    for text in ["0x1", "", "1e309", "-1e999", "+NaN", "-nan", "1_0", "1 1"] {
        assert!(!is_value(text), "Prometheus refuses the page: {text}");
    }
    for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Summary, Kind::Untyped] {
        assert_eq!(Kind::parse(kind.word()), Some(kind));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever an edge says, the page stays one that Prometheus reads.
    #[test]
    fn no_report_breaks_the_page(
        texts in proptest::collection::vec(
            "((# (TYPE|HELP) )?(kubeedge_|process_|up)?[ab]{0,2}(_total|_sum|_bucket|_count)?(\\{(le|node|a|b)=\"[0-9x\\\\}\",]{0,4}\"?\\})?( (counter|gauge|histogram|[0-9.]{1,3}))?\n){0,12}(\\.\n([0-9]?[+=-][0-9x]?\n){0,6})?",
            1..4,
        ),
        sequences in proptest::collection::vec(0u32..3, 4),
    ) {
        let world = World::new(5);
        world.once("good", 1, HELLO).unwrap();
        world.open("bad", 2);
        for (text, sequence) in texts.iter().zip(sequences) {
            world.say("bad", 2, raw(sequence, text), 1).ok();
        }
        let page = world.page(2);
        let good_is_there = page.contains("kubeedge_x_total{node=\"good\",a=\"1\"} 3\n");
        prop_assert!(good_is_there);
        let (mut family, mut seen, mut samples) = (String::new(), std::collections::HashSet::new(), std::collections::HashSet::new());
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap().to_owned();
                prop_assert!(seen.insert(family.clone()), "{} twice in\n{}", family, page);
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let parsed = parse(series);
                prop_assert!(parsed.as_ref().is_some_and(|it| it.name.starts_with(&family)), "{} in\n{}", line, page);
                prop_assert!(value.parse::<f64>().is_ok() && samples.insert(series.to_owned()), "{}", line);
            }
        }
    }
}
