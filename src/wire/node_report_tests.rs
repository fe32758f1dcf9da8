use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// The cloud's side, as plain as can be: what was said, by line.
#[derive(Debug, Default)]
struct Mirror {
    next: Option<u32>,
    meta: BTreeMap<String, String>,
    samples: Vec<Option<(String, Value)>>,
}

impl Mirror {
    /// `false`: it does not follow, as a full one would.
    fn take(&mut self, report: &NodeReport) -> bool {
        if report.sequence == 0 {
            *self = Self::default();
        } else if self.next != Some(report.sequence) {
            self.next = None;
            return false;
        }
        self.next = Some(report.sequence + 1);
        let text = unpack(&report.metrics, MAX_TEXT_BYTES).unwrap();
        for line in lines(&text) {
            match line.unwrap() {
                Line::Help { family, text } => {
                    self.meta.insert(format!("# HELP {family}"), text.to_owned());
                }
                Line::Type { family, kind } => {
                    self.meta.insert(format!("# TYPE {family}"), kind.to_owned());
                }
                Line::Sample { series, value } => {
                    self.samples.push(Some((series.to_owned(), Value::parse(value))));
                }
                Line::Change { number, change } => {
                    let slot = &mut self.samples[number];
                    let (series, value) = slot.take().expect("a sample that is there");
                    *slot = change.after(&value).map(|value| (series, value));
                }
            }
        }
        true
    }

    /// As the edge rendered it, but for the order.
    fn content(&self) -> Vec<String> {
        let samples = self.samples.iter().flatten().map(|(series, value)| format!("{series} {value}"));
        let mut lines: Vec<String> = samples.collect();
        lines.sort();
        lines
    }
}

fn content(rendered: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        rendered.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn text(samples: &[(&str, &str)]) -> String {
    let lines: Vec<String> = samples.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    format!("# HELP a What it is.\n# TYPE a counter\n{}", lines.concat())
}

/// What is inside a report.
fn inside(report: &NodeReport) -> String {
    unpack(&report.metrics, MAX_TEXT_BYTES).unwrap()
}

#[test]
fn names_once_then_what_changed() {
    let mut encoder = Encoder::default();
    for (samples, want) in [
        (
            &[("a{x=\"1\"}", "1"), ("a{x=\"2\"}", "0.5"), ("a{x=\"3 4\"}", "7")] as &[(&str, &str)],
            "# HELP a What it is.\n# TYPE a counter\na{x=\"1\"} 1\na{x=\"2\"} 0.5\na{x=\"3 4\"} 7\n.\n",
        ),
        (&[("a{x=\"1\"}", "1"), ("a{x=\"2\"}", "0.5"), ("a{x=\"3 4\"}", "7")], ".\n"),
        (&[("a{x=\"3 4\"}", "9"), ("a{x=\"1\"}", "2"), ("a{x=\"2\"}", "NaN")], ".\n+1\n=NaN\n+2\n"),
        (&[("a{x=\"3 4\"}", "3"), ("b", "1"), ("a{x=\"2\"}", "NaN")], "b 1\n.\n-\n2=3\n"),
        // A number is not used again.
        (&[("a{x=\"1\"}", "2"), ("b", "1"), ("b", "5")], "a{x=\"1\"} 2\n.\n2-\n-\n"),
    ] {
        assert_eq!(inside(&encoder.report(&text(samples), 15)), want);
    }
    encoder.forget();
    let full = encoder.report(&text(&[("b", "1")]), 15);
    assert_eq!((full.sequence, inside(&full).lines().count()), (0, 4));
}

#[test]
fn a_type_or_help_that_changed_is_said_again() {
    let mut encoder = Encoder::default();
    let first = encoder.report("# TYPE a counter\na 1\n", 15);
    let second = encoder.report("# HELP a Now.\n# TYPE a gauge\na 1\n", 15);
    assert_eq!((first.sequence, second.sequence), (0, 1));
    assert_eq!(inside(&second), "# HELP a Now.\n# TYPE a gauge\n.\n");
}

#[test]
fn a_report_is_full_again_after_an_hour_and_after_many_names() {
    let mut encoder = Encoder::default();
    let sequences: Vec<u32> = (0..=FULL_EVERY + 1).map(|_| encoder.report("a 1\n", 15).sequence).collect();
    assert_eq!(sequences.iter().filter(|sequence| **sequence == 0).count(), 2);
    let mut encoder = Encoder::default();
    let names = |from: usize| (from..from + 3_000).map(|n| format!("a{n} 1\n")).collect::<String>();
    let sequences: Vec<u32> = (0..4).map(|turn| encoder.report(&names(turn * 3_000), 15).sequence).collect();
    assert_eq!(sequences, [0, 1, 2, 0], "names that are gone are forgotten");
}

#[test]
fn lines_that_are_none() {
    for bad in [
        "a",
        "# COMMENT\n",
        "# TYPE a\n.",
        ".\n5",
        ".\n0+1",
        ".\n+-1",
        ".\n=",
        ".\n=1 2",
        ".\n-5",
        ".\nx",
        ".\n+99999999999999999999",
        ".\n99999999999999999999+1",
        ".\n18446744073709551615+1\n18446744073709551615+1",
    ] {
        assert!(lines(bad).any(|line| line.is_err()), "{bad:?}");
    }
    let good = ".\n2+1\n=5\n3-";
    let numbers: Vec<usize> = lines(good)
        .map(|line| match line.unwrap() {
            Line::Change { number, .. } => number,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, [1, 2, 5]);
}

#[test]
fn what_is_too_long_is_not_unpacked() {
    let bomb = pack(&"a".repeat(MAX_TEXT_BYTES + 1));
    assert!(bomb.len() < 20_000, "{}", bomb.len());
    assert_eq!(unpack(&bomb, MAX_TEXT_BYTES), Err(BadReport::TooLong { limit: MAX_TEXT_BYTES }));
    let long = "A".repeat(MAX_PACKED_BYTES + 1);
    assert_eq!(unpack(&long, MAX_TEXT_BYTES), Err(BadReport::TooLong { limit: MAX_PACKED_BYTES }));
    for bad in ["", "%", "AAAA", &pack("x")[..8]] {
        assert!(matches!(unpack(bad, 10), Err(BadReport::Packing(_))), "{bad:?}");
    }
    assert_eq!(unpack(&pack("a b\n"), 4).as_deref(), Ok("a b\n"));
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        (0u64..50).prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        Just("007".to_owned()),
        Just("+Inf".to_owned()),
    ]
}

fn any_render() -> impl Strategy<Value = String> {
    // Few names, so that series come, change, go and come back.
    let samples = btree_map("[ab](\\{x=\"[yz ]\"\\})?", any_value(), 0..8);
    (samples, any::<bool>(), "[a-z ]{0,5}").prop_map(|(samples, turned, help)| {
        let mut lines: Vec<String> =
            samples.iter().map(|(series, value)| format!("{series} {value}\n")).collect();
        if turned {
            lines.reverse();
        }
        format!("# HELP a {help}\n# TYPE a gauge\n{}", lines.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cloud_sees_what_the_edge_renders(renders in vec(any_render(), 1..12)) {
        let (mut encoder, mut mirror) = (Encoder::default(), Mirror::default());
        for render in renders {
            prop_assert!(mirror.take(&encoder.report(&render, 15)));
            prop_assert_eq!(mirror.content(), content(&render));
            let help = render.lines().next().unwrap().trim_start_matches("# HELP a ");
            prop_assert_eq!(mirror.meta["# HELP a"].as_str(), help);
        }
    }

    /// Reports that are lost or come in another order are seen, and mended by a full one.
    #[test]
    fn what_does_not_follow_is_seen(
        renders in vec(any_render(), 3..10),
        lost in 1usize..3,
        swap in any::<bool>(),
    ) {
        let mut encoder = Encoder::default();
        let mut reports: Vec<NodeReport> = renders.iter().map(|render| encoder.report(render, 15)).collect();
        if swap {
            reports.swap(lost - 1, lost);
        } else {
            reports.remove(lost);
        }
        let mut mirror = Mirror::default();
        let all_followed = reports.iter().all(|report| mirror.take(report));
        prop_assert!(!all_followed || (!swap && lost == renders.len() - 1));
        encoder.forget();
        prop_assert!(mirror.take(&encoder.report(&renders[0], 15)));
        prop_assert_eq!(mirror.content(), content(&renders[0]));
    }

    #[test]
    fn any_text_never_panics(text in "([ab]( |=|\\+|-|\\.|[0-9]|\n){0,6}){0,6}|.*") {
        for line in lines(&text) {
            drop(line);
        }
        drop(unpack(&text, 100));
    }
}
