//! A mapper of simulated devices: demos and load.

use std::process::ExitCode;

use kubeedge::app::mapper;
use kubeedge::mapper::sim::Simulator;

fn main() -> ExitCode {
    mapper::run("mapper-sim", "simulated", Simulator)
}
