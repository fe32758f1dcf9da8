//! What a storm does: a pure function of its seed.

use std::time::Duration;

use crate::harness::link::{Shot, Way, Weather};

/// How large a storm is; this too follows from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    pub edges: usize,
    /// Names of pods; each may be there or not.
    pub pods: usize,
    pub config_maps: usize,
    pub secrets: usize,
    pub rounds: usize,
    /// How long one round lasts.
    pub round: Duration,
    /// Writes and faults of one round.
    pub works: usize,
    pub faults: usize,
    /// The longest time a link is bad.
    pub longest: Duration,
}

/// Pods there are before the first round.
pub const FIRST_PODS: usize = 14;

impl Scale {
    /// Every fifth seed is one long storm with links away for up to a minute; the others are short.
    pub fn of(seed: u64) -> Self {
        let short = Self {
            edges: 3,
            pods: 20,
            config_maps: 4,
            secrets: 3,
            rounds: 3,
            round: Duration::from_secs(8),
            works: 30,
            faults: 12,
            longest: Duration::from_secs(5),
        };
        if seed.is_multiple_of(5) {
            let minute = Duration::from_secs(60);
            return Self {
                edges: 2,
                rounds: 2,
                round: minute + minute / 6,
                works: 90,
                faults: 36,
                longest: minute,
                ..short
            };
        }
        short
    }
}

/// A program that can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    Cloud,
    Edge(usize),
    Runtime(usize),
}

/// How a pod is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodPlan {
    /// `None`: the scheduler finds one.
    pub edge: Option<usize>,
    /// Volumes and environment from this ConfigMap and this Secret.
    pub configs: Option<(usize, usize)>,
}

/// A ConfigMap or a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Config {
    Map(usize),
    Secret(usize),
}

/// A write to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Deletes the pod of this name if there is one, by force or not, and makes it (again).
    Recreate {
        pod: usize,
        force: bool,
        plan: PodPlan,
    },
    Delete {
        pod: usize,
        force: bool,
    },
    /// Changes a label of a pod, if there is one.
    Label {
        pod: usize,
    },
    Edit {
        config: Config,
        by_kubectl: bool,
    },
    /// Deletes it and makes it again under the same name.
    Replace {
        config: Config,
    },
    /// Sets the desired value of the device of an edge.
    Desire {
        edge: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Work(Work),
    Kill(Program),
    Start(Program),
    KillContainer { pod: usize },
    Link { edge: usize, weather: Weather },
    Shoot { edge: usize, shot: Shot },
    Release { edge: usize },
}

/// One thing that happens so long after the beginning of its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub at: Duration,
    pub what: What,
}

/// Steps in order of time. When it ends every program runs again and every link is fair.
pub type Round = Vec<Step>;

/// The whole storm: how the first pods are made, and its rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub first: Vec<PodPlan>,
    pub rounds: Vec<Round>,
}

/// Splitmix64 (Steele, Lea and Flood 2014): the same numbers on every machine and in every version.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// True this often in a hundred times.
    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        let span = usize::try_from(to.saturating_sub(from)).unwrap();
        Duration::from_millis(from + self.below(span + 1) as u64)
    }

    fn until(&mut self, end: Duration) -> Duration {
        self.millis(0, u64::try_from(end.as_millis()).unwrap())
    }
}

/// The storm of a seed.
pub fn plan(seed: u64) -> Plan {
    let (scale, mut random) = (Scale::of(seed), Random(seed));
    let first = (0..FIRST_PODS).map(|_| pod_plan(&scale, &mut random)).collect();
    let rounds = (0..scale.rounds).map(|_| round(&scale, &mut random)).collect();
    Plan { first, rounds }
}

fn pod_plan(scale: &Scale, random: &mut Random) -> PodPlan {
    let edge = random.below(scale.edges);
    let configs = (random.below(scale.config_maps), random.below(scale.secrets));
    PodPlan { edge: (!random.percent(25)).then_some(edge), configs: random.percent(60).then_some(configs) }
}

fn round(scale: &Scale, random: &mut Random) -> Round {
    let mut steps: Vec<Step> = (0..scale.works)
        .map(|_| Step { at: random.until(scale.round), what: What::Work(work(scale, random)) })
        .collect();
    // One fault at a time for each program and link, so that each is over before the next begins.
    let mut busy_programs: Vec<(Program, Duration, Duration)> = Vec::new();
    let mut busy_links: Vec<(usize, Duration, Duration)> = Vec::new();
    for _ in 0..scale.faults {
        let at = random.until(scale.round);
        let edge = random.below(scale.edges);
        match random.below(10) {
            0..=3 => {
                let program = match random.below(4) {
                    0 => Program::Cloud,
                    1 => Program::Runtime(edge),
                    _ => Program::Edge(edge),
                };
                // Often it dies again while it starts.
                let longest = if random.percent(70) { 300 } else { 2_500 };
                let down = random.millis(0, longest);
                let end = (at + down).min(scale.round);
                if !overlaps(&busy_programs, program, at, end) {
                    busy_programs.push((program, at, end));
                    steps.push(Step { at, what: What::Kill(program) });
                    steps.push(Step { at: end, what: What::Start(program) });
                }
            }
            4 => steps.push(Step { at, what: What::KillContainer { pod: random.below(scale.pods) } }),
            _ => {
                let longest = u64::try_from(scale.longest.as_millis()).unwrap();
                let end = (at + random.millis(300, longest)).min(scale.round);
                let bad = bad_link(edge, at, end, random);
                if !overlaps(&busy_links, edge, at, end) {
                    busy_links.push((edge, at, end));
                    steps.extend(bad);
                }
            }
        }
    }
    // Stable: what was made first stays first at the same instant.
    steps.sort_by_key(|step| step.at);
    steps
}

fn overlaps<T: PartialEq>(busy: &[(T, Duration, Duration)], what: T, from: Duration, to: Duration) -> bool {
    busy.iter().any(|(other, begin, end)| *other == what && from <= *end && *begin <= to)
}

fn work(scale: &Scale, random: &mut Random) -> Work {
    let pod = random.below(scale.pods);
    let force = random.percent(35);
    let config = match random.below(scale.config_maps + scale.secrets) {
        n if n < scale.config_maps => Config::Map(n),
        n => Config::Secret(n - scale.config_maps),
    };
    match random.below(20) {
        0..=6 => Work::Recreate { pod, force, plan: pod_plan(scale, random) },
        7..=8 => Work::Delete { pod, force },
        9..=10 => Work::Label { pod },
        11..=14 => Work::Edit { config, by_kubectl: random.percent(20) },
        15..=16 => Work::Replace { config },
        _ => Work::Desire { edge: random.below(scale.edges) },
    }
}

/// A link that is bad from `at` to `end`.
fn bad_link(edge: usize, at: Duration, end: Duration, random: &mut Random) -> Vec<Step> {
    let fair = Weather::default();
    let link = |at, weather| Step { at, what: What::Link { edge, weather } };
    let shoot = |shot| Step { at, what: What::Shoot { edge, shot } };
    let release = Step { at: end, what: What::Release { edge } };
    let (held, lost) = (Way::Held, Way::Lost);
    let weather = match random.below(14) {
        0 => Weather { up: held, down: held, ..fair },
        1 => Weather { up: held, ..fair },
        2 => Weather { down: held, ..fair },
        3 => Weather { up: lost, down: lost, ..fair },
        4 => Weather { up: lost, ..fair },
        5 => Weather { down: lost, ..fair },
        6 => Weather { delay_ms: 50 + random.below(350) as u64, ..fair },
        7 => Weather { bytes_per_sec: 4_000 + random.below(40_000) as u64, ..fair },
        8 => Weather { refuses: true, ..fair },
        9 => return vec![shoot(Shot::HalfOpen)],
        10 => return vec![shoot(Shot::Close)],
        11 => return vec![shoot(Shot::Park), shoot(Shot::Close), release],
        12 => return vec![shoot(Shot::Overtake), release],
        _ => {
            let mut steps = Vec::new();
            let mut now = at;
            let way = if random.percent(50) { held } else { lost };
            while now < end {
                steps.push(link(now, Weather { up: way, down: way, ..fair }));
                let back = (now + random.millis(100, 700)).min(end);
                steps.push(link(back, fair));
                now = back + random.millis(100, 700);
            }
            return steps;
        }
    };
    vec![link(at, weather), link(end, fair)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_seed_gives_the_same_storm_again(seed: u64) {
            prop_assert_eq!(plan(seed), plan(seed));
            prop_assert_ne!(plan(seed), plan(seed.wrapping_add(10)));
        }

        #[test]
        fn a_storm_keeps_its_bounds(seed: u64) {
            let (scale, plan) = (Scale::of(seed), plan(seed));
            prop_assert_eq!(plan.first.len(), FIRST_PODS);
            prop_assert_eq!(plan.rounds.len(), scale.rounds);
            for round in &plan.rounds {
                let works = round.iter().filter(|step| matches!(step.what, What::Work(_))).count();
                prop_assert_eq!(works, scale.works);
                prop_assert!(round.is_sorted_by_key(|step| step.at));
                let mut dead = BTreeSet::new();
                let mut bad = BTreeSet::new();
                for step in round {
                    prop_assert!(step.at <= scale.round, "{:?}", step);
                    match step.what {
                        What::Kill(program) => prop_assert!(dead.insert(program), "{:?} is dead", program),
                        What::Start(program) => prop_assert!(dead.remove(&program), "{:?} runs", program),
                        What::Link { edge, weather } if weather == Weather::default() => {
                            bad.remove(&edge);
                        }
                        What::Link { edge, .. } => {
                            bad.insert(edge);
                        }
                        What::KillContainer { pod } => prop_assert!(pod < scale.pods),
                        What::Shoot { edge, .. } | What::Release { edge } => prop_assert!(edge < scale.edges),
                        What::Work(_) => {}
                    }
                }
                prop_assert!(dead.is_empty() && bad.is_empty(), "{:?} {:?}", dead, bad);
            }
        }
    }

    #[test]
    fn a_hundred_storms_have_everything() {
        let steps = (0..100).flat_map(|seed| plan(seed).rounds).flatten();
        let kinds: BTreeSet<String> = steps
            .map(|step| match step.what {
                What::Work(work) => format!("{work:?}").split(' ').next().unwrap_or_default().to_owned(),
                What::Kill(Program::Cloud) => "cloudcore".into(),
                What::Kill(Program::Edge(_)) => "edgecore".into(),
                What::Kill(Program::Runtime(_)) => "containerd".into(),
                What::Start(_) => "start".into(),
                What::KillContainer { .. } => "container".into(),
                What::Link { weather: Weather { up, down, delay_ms, bytes_per_sec, refuses }, .. } => {
                    format!("{up:?} {down:?} {} {} {refuses}", delay_ms > 0, bytes_per_sec > 0)
                }
                What::Shoot { shot, .. } => format!("{shot:?}"),
                What::Release { .. } => "release".into(),
            })
            .collect();
        // 6 kinds of writes, 4 of kills, 10 weathers with the fair one, 4 shots, start, release.
        assert_eq!(kinds.len(), 26, "{kinds:#?}");
    }
}
