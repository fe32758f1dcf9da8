//! One log line for a panic, with the actor's name; the text is kept for the guard that catches it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::entry::Entry;

/// Longest text of a panic that is kept.
const MAX_TEXT_CHARS: usize = 500;

thread_local! {
    /// The actor whose code this thread runs.
    static CURRENT: Cell<Option<Arc<Entry>>> = const { Cell::new(None) };
    /// The last panic of this thread that the hook saw.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics inside actors one `error` event: actor, message, location, no backtrace. Panics
/// elsewhere also go to the hook that was installed before. Call once, from the binary.
pub fn install_panic_hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = text_of(info.payload());
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let actor = CURRENT.take();
        match &actor {
            Some(entry) => {
                tracing::error!(actor = %entry.name, kind = entry.kind, text = message, location, "actor panicked");
                LAST.set(Some(format!("{message} at {location}")));
            }
            None => {
                tracing::error!(text = message, location, "panic outside of actors");
                before(info);
            }
        }
        CURRENT.set(actor);
    }));
}

/// Runs `work` as `entry`'s code. The error is the text of the panic, with its place if the hook
/// is installed.
pub(super) fn run_as<T>(entry: &Arc<Entry>, work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CURRENT.replace(Some(Arc::clone(entry)));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    CURRENT.set(outer);
    result.map_err(|payload| {
        let seen = LAST.take();
        let text = seen.unwrap_or_else(|| text_of(&*payload));
        // A payload may panic when dropped; nobody needs it any more.
        std::mem::forget(payload);
        text
    })
}

/// The text of a panic as one line of bounded length: assertions print several.
fn text_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a text"
    };
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::ActorStats;
    use crate::supervise::Policy;
    use crate::supervise::entry::Place;
    use crate::telemetry::actors::ActorMetrics;

    #[test]
    fn the_text_is_one_bounded_line_with_its_place() {
        install_panic_hook();
        let stats = Arc::<ActorStats>::default();
        let metrics = ActorMetrics::new("a");
        let entry = Entry::new("a".into(), "a", "main", Place::Tree(0), Policy::default(), stats, metrics);
        let entry = Arc::new(entry);
        assert_eq!(run_as(&entry, || 7), Ok(7));
        let text = run_as(&entry, || panic!("left: {}\n right: {}", 1, 2)).unwrap_err();
        assert!(text.starts_with("left: 1 right: 2 at src/supervise/panic_hook.rs:"), "{text}");
        let text = run_as(&entry, || panic!("{}", "x".repeat(10_000))).unwrap_err();
        assert!(text.len() < 2 * MAX_TEXT_CHARS, "{}", text.len());
        let text = run_as(&entry, || std::panic::resume_unwind(Box::new(7))).unwrap_err();
        assert_eq!(text, "a panic without a text");
    }
}
