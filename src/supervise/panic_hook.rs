//! One log line for a panic, with the actor's name; the text is kept for the guard that catches it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::entry::Entry;

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
                tracing::error!(actor = %entry.name, kind = entry.kind, message, location, "actor panicked");
                LAST.set(Some(format!("{message} at {location}")));
            }
            None => {
                tracing::error!(message, location, "panic outside of actors");
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
        let text = seen.unwrap_or_else(|| text_of(&*payload).to_owned());
        // A payload may panic when dropped; nobody needs it any more.
        std::mem::forget(payload);
        text
    })
}

fn text_of(payload: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a text"
    }
}
