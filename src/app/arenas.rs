//! How many heaps the allocator keeps.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What glibc's allocator reads at the start of a program, and only then.
const VARIABLE: &str = "MALLOC_ARENA_MAX";
/// One for the main thread, one for all others.
const ARENAS: &str = "2";

/// Starts this program again in its place (`exec`: same process id) with few malloc arenas, unless the environment says
/// how many there are to be. glibc gives up to eight for each core, and memory that one thread freed in its arena serves
/// no other: after an hour of churn more than half of edgecore's heap was such free memory (BENCHMARKS.md, "Soak").
/// Where that cannot be done, the program goes on as it is.
pub fn keep_few() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    if let Some(mut again) = again(env::var_os(VARIABLE), env::current_exe().ok(), env::args_os().collect()) {
        // Comes back only when it failed.
        let _failed: std::io::Error = again.exec();
    }
}

fn again(set: Option<OsString>, program: Option<std::path::PathBuf>, args: Vec<OsString>) -> Option<Command> {
    if set.is_some() {
        return None;
    }
    let mut command = Command::new(program?);
    let mut args = args.into_iter();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env(VARIABLE, ARENAS);
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_once_and_with_the_same_words() {
        let words = || ["edgecore", "--config", "a b"].map(OsString::from).to_vec();
        assert!(
            again(Some("8".into()), Some("/bin/edgecore".into()), words()).is_none(),
            "somebody has chosen"
        );
        assert!(again(None, None, words()).is_none(), "it does not know what it is");
        let command = again(None, Some("/bin/edgecore".into()), words()).unwrap();
        assert_eq!(command.get_program(), "/bin/edgecore");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["--config", "a b"]);
        let envs: Vec<_> = command.get_envs().collect();
        assert_eq!(envs, [(VARIABLE.as_ref(), Some(ARENAS.as_ref()))]);
    }
}
