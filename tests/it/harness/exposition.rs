//! Prometheus' text format, and the page that says what should be in it.
#![allow(dead_code, reason = "the benchmark shares this harness")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::http;

/// One series: its name and labels.
pub type Series = (String, BTreeMap<String, String>);

/// What one scrape answered.
pub struct Exposition {
    pub text: String,
    /// Type by family.
    pub types: BTreeMap<String, String>,
    pub series: Vec<(Series, f64)>,
}

/// Scrapes a monitor and takes the answer apart. A series that comes twice is a failure.
pub fn scrape(monitor: &str) -> Exposition {
    let (status, text) = http("GET", monitor, "/metrics", &[]).unwrap();
    assert_eq!(status, 200, "{text}");
    parse(text)
}

pub fn parse(text: String) -> Exposition {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let series: Vec<_> = lines.map(|line| sample(line).unwrap_or_else(|| panic!("{line}"))).collect();
    let mut seen = HashSet::new();
    for ((name, labels), _) in &series {
        assert!(seen.insert((name.clone(), format!("{labels:?}"))), "twice: {name} {labels:?}");
    }
    Exposition { text, types, series }
}

fn sample(line: &str) -> Option<(Series, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let close = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.insert(key.trim_start_matches(',').to_owned(), value);
            rest = after.get(close + 1..)?;
        }
        rest = rest.strip_prefix('}')?;
    }
    Some(((name.to_owned(), labels), rest.trim().parse().ok()?))
}

impl Exposition {
    /// Sum of the series of this name whose labels include these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |have: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| have.get(*key).is_some_and(|is| is == value))
        };
        self.series.iter().filter(|((is, have), _)| is == name && fits(have)).map(|(_, value)| value).sum()
    }

    /// The family a series is of: histograms have three kinds.
    pub fn family<'a>(&self, series: &'a str) -> &'a str {
        let ends = ["_bucket", "_sum", "_count"];
        let base = ends.iter().find_map(|end| series.strip_suffix(end));
        base.filter(|base| self.types.get(*base).is_some_and(|kind| kind == "histogram")).unwrap_or(series)
    }

    /// `promtool check metrics` has nothing to say.
    pub fn lint(&self) {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool (Debian package prometheus; deploy/tools.sh test installs it)");
        promtool.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        let said = promtool.wait_with_output().unwrap();
        let both = [said.stdout, said.stderr].concat();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&both));
    }
}

/// A family on `config/prometheus/METRICS.md`.
pub struct Documented {
    pub kind: String,
    /// Values a label may have; `None`: bounded in words.
    pub labels: BTreeMap<String, Option<BTreeSet<String>>>,
}

/// The page, by family.
pub fn reference() -> BTreeMap<String, Documented> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/METRICS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let families: BTreeMap<_, _> = rows.map(row).collect();
    assert!(families.len() > 50, "{} families on the page", families.len());
    families
}

fn row(line: &str) -> (String, Documented) {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    let [name, kind, _, labels, _] = cells[..] else { panic!("{line}") };
    let plain = |text: &str| text.trim_matches('`').to_owned();
    let label = |text: &str| {
        let (label, values) = text.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        let listed = (!values.starts_with('(')).then(|| values.split(", ").map(plain).collect());
        (plain(label), listed)
    };
    let labels = labels.split("<br>").filter(|text| !text.is_empty()).map(label).collect();
    (plain(name), Documented { kind: kind.to_owned(), labels })
}

/// Everything the program shows is on the page, with these labels and values.
pub fn is_documented(program: &str, shown: &Exposition) {
    let page = reference();
    for (family, kind) in &shown.types {
        let documented =
            page.get(family).unwrap_or_else(|| panic!("{program}: {family} is not in METRICS.md"));
        assert_eq!(&documented.kind, kind, "{program}: {family}");
        assert!(shown.text.contains(&format!("# HELP {family} ")), "{program}: {family} has no help");
    }
    for ((name, labels), _) in &shown.series {
        let family = shown.family(name);
        let documented = page.get(family).unwrap_or_else(|| panic!("{program}: {name} has no type"));
        for (label, value) in labels.iter().filter(|(label, _)| *label != "le") {
            let allowed = documented.labels.get(label);
            let allowed = allowed.unwrap_or_else(|| panic!("{program}: {family} has no label {label}"));
            let fine = allowed.as_ref().is_none_or(|values| values.contains(value));
            assert!(fine, "{program}: {family}: {label}={value:?} is not in METRICS.md");
        }
    }
}
