//! For every order of delivery - lost, sent again, doubled, late, with crashes and a clock that goes
//! back - edge and cloud show the same in the end, and the value in force is the one the rule names.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// The user wants this value.
    CloudWants(usize, usize),
    /// The Device of this version is delivered, whichever was delivered before.
    DeliverDevice(usize),
    /// A local application wants this value.
    LocalWants(usize, usize),
    Reports(usize, usize),
    State(usize),
    Commit,
    /// A message on the way up arrives, and stays to arrive again.
    DeliverReport(usize),
    LoseReport(usize),
    /// A confirmation arrives, and stays to arrive again.
    Confirm(usize),
    Wait,
    ClockBack,
    LinkBreaks,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0_usize..8;
    let property = || 0_usize..3;
    prop_oneof![
        (property(), 0_usize..4).prop_map(|(p, v)| Step::CloudWants(p, v)),
        at().prop_map(Step::DeliverDevice),
        at().prop_map(Step::DeliverDevice),
        (property(), 0_usize..4).prop_map(|(p, v)| Step::LocalWants(p, v)),
        (property(), 0_usize..4).prop_map(|(p, v)| Step::Reports(p, v)),
        (0_usize..3).prop_map(Step::State),
        Just(Step::Commit),
        Just(Step::Commit),
        at().prop_map(Step::DeliverReport),
        at().prop_map(Step::DeliverReport),
        at().prop_map(Step::LoseReport),
        at().prop_map(Step::Confirm),
        Just(Step::Wait),
        Just(Step::ClockBack),
        Just(Step::LinkBreaks),
        Just(Step::Kill),
    ]
}

const PROPERTIES: [&str; 3] = ["a", "b", "c"];

/// The rule, written down once more: per property the last desired value seen from the cloud, and
/// the one in force.
#[derive(Debug, Clone, Default, PartialEq)]
struct Rule {
    seen: BTreeMap<String, String>,
    in_force: BTreeMap<String, String>,
}

impl Rule {
    fn device(&mut self, desired: &BTreeMap<String, String>) {
        for (property, value) in desired {
            if self.seen.insert(property.clone(), value.clone()).as_ref() != Some(value) {
                self.in_force.insert(property.clone(), value.clone());
            }
        }
    }
}

struct Net {
    edge: Edge,
    cloud: Cloud,
    /// Desired values by version of the Device; the first is version 1.
    versions: Vec<BTreeMap<String, String>>,
    /// The version MetaManager stores.
    stored: usize,
    up: Vec<Envelope>,
    confirmations: Vec<String>,
    rule: Rule,
    durable_rule: Rule,
}

impl Net {
    fn new() -> Self {
        let mut net = Self {
            edge: Edge::new(2),
            cloud: Cloud::default(),
            versions: vec![BTreeMap::new()],
            stored: 0,
            up: Vec::new(),
            confirmations: Vec::new(),
            rule: Rule::default(),
            durable_rule: Rule::default(),
        };
        net.deliver(1);
        net.commit();
        net.edge.connect();
        net
    }

    /// MetaManager stores and tells nothing older than it has.
    fn deliver(&mut self, version: usize) {
        if version < self.stored {
            return;
        }
        self.stored = version;
        let desired = &self.versions[version - 1];
        let listed: Vec<(&str, &str)> = desired.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect();
        self.edge.apply(device("s", version as u64, &listed));
        let desired = desired.clone();
        self.rule.device(&desired);
    }

    fn commit(&mut self) {
        let out = self.edge.commit();
        self.up.extend(
            out.messages.into_iter().filter(|message| message.route.resource != Resource::MembershipDetail),
        );
        self.durable_rule = self.rule.clone();
    }

    fn arrives(&mut self, message: &Envelope) {
        self.cloud.take(message);
        self.confirmations.push(message.header.msg_id.clone());
    }

    fn step(&mut self, step: &Step) {
        let some = |n: usize, len: usize| (len > 0).then(|| n % len);
        match step {
            Step::CloudWants(property, value) => {
                let mut desired = self.versions.last().unwrap().clone();
                desired.insert(PROPERTIES[*property].into(), format!("c{value}"));
                self.versions.push(desired);
            }
            Step::DeliverDevice(n) => self.deliver(self.versions.len().saturating_sub(*n).max(1)),
            Step::LocalWants(property, value) => {
                let (property, value) = (PROPERTIES[*property], format!("l{value}"));
                self.edge.update("s", json!({property: {"expected": {"value": value}}}));
                self.rule.in_force.insert(property.into(), value);
            }
            Step::Reports(property, value) => {
                self.edge
                    .update("s", json!({PROPERTIES[*property]: {"actual": {"value": value.to_string()}}}));
            }
            Step::State(n) => {
                let state = ["online", "offline", "ok"][*n];
                let payload = json!({"state": state}).to_string();
                self.edge.mqtt("$hw/events/device/default/s/state/update", &payload);
            }
            Step::Commit => self.commit(),
            Step::DeliverReport(n) => {
                if let Some(n) = some(*n, self.up.len()) {
                    let message = self.up[n].clone();
                    self.arrives(&message);
                }
            }
            Step::LoseReport(n) => {
                if let Some(n) = some(*n, self.up.len()) {
                    self.up.remove(n);
                }
            }
            Step::Confirm(n) => {
                if let Some(n) = some(*n, self.confirmations.len()) {
                    let msg_id = self.confirmations[n].clone();
                    self.edge.answer(&msg_id, "response");
                }
            }
            Step::Wait => self.edge.wait(Duration::from_secs(11)),
            Step::ClockBack => self.edge.now_ms -= 3_600_000,
            Step::LinkBreaks => {
                self.edge.core.link_changed(false, self.edge.now());
                self.edge.connect();
            }
            Step::Kill => {
                self.edge.restart();
                self.rule = self.durable_rule.clone();
                if self.stored > 0 {
                    let desired = self.versions[self.stored - 1].clone();
                    self.rule.device(&desired);
                }
                self.edge.connect();
            }
        }
    }

    /// The net calms down: the newest Device arrives, and everything said is heard and confirmed.
    fn settle(&mut self) {
        self.deliver(self.versions.len());
        self.edge.core.link_changed(false, self.edge.now());
        self.edge.connect();
        for _ in 0..6 {
            self.commit();
            for message in std::mem::take(&mut self.up) {
                self.arrives(&message);
            }
            for msg_id in std::mem::take(&mut self.confirmations) {
                self.edge.answer(&msg_id, "response");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edge_and_cloud_show_the_same(steps in vec(step(), 1..60)) {
        let mut net = Net::new();
        for step in &steps {
            net.step(step);
        }
        net.settle();
        for property in PROPERTIES {
            for side in ["expected", "actual"] {
                prop_assert_eq!(net.edge.value("s", property, side), net.cloud.value("s", property, side), "{} {}", property, side);
            }
            let in_force = net.edge.value("s", property, "expected");
            prop_assert_eq!(in_force.as_ref(), net.rule.in_force.get(property), "the rule for {}", property);
        }
        let state = net.edge.core.devices[&id("s")].state.clone();
        prop_assert_eq!(state, net.cloud.states.remove("s").unwrap_or_default().1);
        prop_assert_eq!(net.edge.core.open_counts().0, 0);
    }
}
