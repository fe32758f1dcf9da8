//! keadm: sets up clouds and edges. See `kubeedge::app::keadm`.

use std::process::ExitCode;

use kubeedge::app::keadm;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match keadm::run(std::env::args_os(), &mut std::io::stdout().lock()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("{}", refusal.message);
            ExitCode::from(refusal.code)
        }
    }
}
