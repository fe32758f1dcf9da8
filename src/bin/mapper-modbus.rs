//! The mapper of Modbus TCP devices.

use std::process::ExitCode;

use kubeedge::app::mapper;
use kubeedge::mapper::modbus::Modbus;

fn main() -> ExitCode {
    mapper::run("mapper-modbus", "modbus", Modbus)
}
