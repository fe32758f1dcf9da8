//! `make bench-mqtt`: the internal broker beside Debian's Mosquitto, as Markdown tables. Both are
//! started here, fresh for each figure and in turns. BENCHMARKS.md says how to read it.

// What surrounds a measurement may fail it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    // Other benchmarks and tests use the rest of the shared parts.
    dead_code
)]

#[path = "world/connection.rs"]
mod connection;
#[path = "broker/histogram.rs"]
mod histogram;
#[path = "broker/load.rs"]
mod load;
#[path = "world/machine.rs"]
mod machine;
#[path = "broker/memory.rs"]
mod memory;
#[path = "world/packet.rs"]
mod packet;
#[path = "../tests/it/harness/process.rs"]
mod process;
#[path = "broker/publisher.rs"]
mod publisher;
#[path = "broker/real_clients.rs"]
mod real_clients;
#[path = "broker/subscriber.rs"]
mod subscriber;
#[path = "broker/table.rs"]
mod table;
#[path = "broker/target.rs"]
mod target;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use load::{Pace, Shape};
use table::Figures;
use target::{Broker, Target};

/// Deliveries a second of a paced run; every broker here is idle most of the time at that rate.
const PACED_PUBLISHES: f64 = 1_000.0;
const PACED_DELIVERIES: f64 = 5_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Messages a second, latency under full load, CPU.
    Full,
    /// Latency at a fixed moderate rate.
    Paced,
    /// Memory of an idle connection.
    Idle,
    /// Memory of a retained message.
    Retained,
    /// mosquitto_pub and mosquitto_sub.
    Clients,
}

/// Loads MQTT brokers in turns and prints what they did.
#[derive(Debug, Parser)]
struct Args {
    /// A column: `mosquitto`, `ours`, or NAME= one of them or HOST:PORT[@PID]. Ratios are first / last.
    #[arg(long = "target", default_values = ["ours", "mosquitto"])]
    targets: Vec<Target>,
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["full", "paced", "idle", "retained", "clients"])]
    part: Vec<Part>,
    /// PUBLISHERS:SUBSCRIBERS
    #[arg(long, value_delimiter = ',', default_values = ["1:1", "1:100", "100:1"], value_parser = crowd)]
    shape: Vec<(usize, usize)>,
    #[arg(long, value_delimiter = ',', default_values = ["0", "1", "2"], value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: Vec<u8>,
    /// Payload bytes
    #[arg(long, value_delimiter = ',', default_values = ["64", "1024"], value_parser = clap::value_parser!(u32).range(14..=65_536))]
    size: Vec<u32>,
    /// Length of each run
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Runs of each kind on each target; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
    #[arg(long, default_value_t = 10_000)]
    retained: usize,
    /// Lines for mosquitto_pub
    #[arg(long, default_value_t = 20_000)]
    lines: usize,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn crowd(text: &str) -> Result<(usize, usize), String> {
    let pair = text.split_once(':').and_then(|(p, s)| Some((p.parse().ok()?, s.parse().ok()?)));
    pair.filter(|(p, s)| (1..=1_000).contains(p) && (1..=1_000).contains(s))
        .ok_or_else(|| format!("{text:?} is not PUBLISHERS:SUBSCRIBERS, each 1 to 1000"))
}

impl Args {
    fn names(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.name.clone()).collect()
    }

    fn shapes(&self) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for &(publishers, subscribers) in &self.shape {
            for &qos in &self.qos {
                let of_size = |size: &u32| Shape { publishers, subscribers, qos, size: *size as usize };
                shapes.extend(self.size.iter().map(of_size));
            }
        }
        shapes
    }

    /// Measures every target once a round, each on a fresh broker, in turns. What fails is said and
    /// left out.
    fn in_turns(&self, what: &str, mut measure: impl FnMut(usize, &Broker) -> Result<(), String>) {
        for _ in 0..self.rounds {
            for (number, target) in self.targets.iter().enumerate() {
                let done = target.start().and_then(|broker| measure(number, &broker));
                if let Err(err) = done {
                    eprintln!("{what}: {}: FAILED: {err}", target.name);
                }
            }
        }
    }
}

fn main() {
    let args = Args::parse();
    raise_open_files();
    for part in &args.part {
        match part {
            Part::Full => full(&args),
            Part::Paced => paced(&args),
            Part::Idle => idle(&args),
            Part::Retained => retained(&args),
            Part::Clients => clients(&args),
        }
    }
}

/// Thousands of connections; the brokers inherit it.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn load(args: &Args, broker: &Broker, shape: Shape, pace: Pace, name: &str) -> Result<load::Outcome, String> {
    let window = Duration::from_secs_f64(args.seconds);
    let outcome = load::run(&broker.address, broker.pid, shape, pace, window)?;
    let slowed = table::bottleneck(outcome.busy).filter(|_| pace == Pace::Full);
    for complaint in table::complaints(&outcome, shape.qos).into_iter().chain(slowed) {
        eprintln!("{name}: WARNING: {complaint}");
    }
    Ok(outcome)
}

fn full(args: &Args) {
    let columns = ["deliveries/s", "p50", "p99", "CPU s per million", "dropped %"];
    table::head("full load", &columns, &args.names());
    let count = args.targets.len();
    for shape in args.shapes() {
        let name = table::name(shape);
        let mut figures = [(); 5].map(|()| Figures::default());
        args.in_turns(&name, |target, broker| {
            let label = format!("{name}: {}", args.targets[target].name);
            let seen = load(args, broker, shape, Pace::Full, &label)?;
            let lost = seen.expected.saturating_sub(seen.received) as f64 / seen.expected as f64;
            let ms = |q| seen.latency.quantile_ms(q);
            let values = [seen.rate, ms(0.5), ms(0.99), seen.cpu.unwrap_or(f64::NAN), lost * 100.0];
            figures.iter_mut().zip(values).for_each(|(figure, value)| figure.add(target, value));
            Ok(())
        });
        let [rate, half, most, cpu, lost] = figures;
        let cells = [
            rate.cells(count, table::per_second),
            half.cells(count, table::milliseconds),
            most.cells(count, table::milliseconds),
            cpu.cells(count, |seconds| format!("{seconds:.2}")),
            lost.cells(count, |percent| format!("{percent:.3}")),
        ];
        table::row(&name, &cells);
    }
}

fn paced(args: &Args) {
    table::head("paced", &["p50", "p99"], &args.names());
    let count = args.targets.len();
    for shape in args.shapes() {
        let rate = PACED_PUBLISHES.min(PACED_DELIVERIES / shape.subscribers as f64);
        let name = format!("{}, {rate} published/s", table::name(shape));
        let (mut half, mut most) = (Figures::default(), Figures::default());
        args.in_turns(&name, |target, broker| {
            let label = format!("{name}: {}", args.targets[target].name);
            let seen = load(args, broker, shape, Pace::PerSecond(rate), &label)?;
            half.add(target, seen.latency.quantile_ms(0.5));
            most.add(target, seen.latency.quantile_ms(0.99));
            Ok(())
        });
        let cells = [half.cells(count, table::milliseconds), most.cells(count, table::milliseconds)];
        table::row(&name, &cells);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn memory_row(args: &Args, name: &str, mut measure: impl FnMut(&Broker) -> Result<memory::Share, String>) {
    let (mut rss, mut anonymous) = (Figures::default(), Figures::default());
    args.in_turns(name, |target, broker| {
        let share = measure(broker)?;
        rss.add(target, share.rss);
        anonymous.add(target, share.anonymous);
        Ok(())
    });
    let show = |kib: f64| format!("{kib:.2} KiB");
    let count = args.targets.len();
    table::head("memory", &["RSS", "anonymous"], &args.names());
    table::row(name, &[rss.cells(count, show), anonymous.cells(count, show)]);
}

fn idle(args: &Args) {
    let name = format!("each of {} idle connections", args.connections);
    memory_row(args, &name, |broker| runtime().block_on(memory::idle(broker, args.connections)));
}

fn retained(args: &Args) {
    let name = format!("each of {} retained messages of 64 B", args.retained);
    memory_row(args, &name, |broker| runtime().block_on(memory::retained(broker, args.retained)));
}

fn clients(args: &Args) {
    table::head("mosquitto_pub -l, mosquitto_sub -C", &["wall"], &args.names());
    for subscribers in [1, 10] {
        for &qos in &args.qos {
            // As many deliveries in both.
            let lines = args.lines / subscribers;
            let name = format!("1:{subscribers}, QoS {qos}, {lines} lines of 64 B");
            let mut wall = Figures::default();
            args.in_turns(&name, |target, broker| {
                let took = runtime().block_on(real_clients::run(broker, qos, subscribers, lines))?;
                wall.add(target, took);
                Ok(())
            });
            table::row(&name, &[wall.cells(args.targets.len(), |seconds| format!("{seconds:.2} s"))]);
        }
    }
}
