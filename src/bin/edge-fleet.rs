//! Many simulated edges, to see what a cloudcore bears. See `kubeedge::app::fleet`.

use std::process::ExitCode;

use kubeedge::app::fleet;

fn main() -> ExitCode {
    fleet::run()
}
