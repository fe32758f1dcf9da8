//! What the gate's verdict means for a pod.

use super::super::gate::IMAGE_DENIED;
use super::super::gate::seals::{SEAL_INVALID, Verdict};
use super::PodState;

/// Nothing of the pod starts. What runs is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Of waiting containers.
    pub reason: &'static str,
    pub message: String,
    /// The pod is not what the cloud sealed; otherwise that is not known yet.
    pub refused: bool,
}

impl PodState {
    /// Takes the gate's verdict. A refusal is an event, once.
    pub fn hold(&mut self, verdict: &Verdict) {
        let held = match verdict {
            Verdict::Fine => None,
            Verdict::Wait(why) => {
                Some(Held { reason: "ContainerCreating", message: (*why).to_owned(), refused: false })
            }
            Verdict::Refused(why) => Some(Held { reason: SEAL_INVALID, message: why.clone(), refused: true }),
        };
        let held = held.filter(|_| !self.ending() && self.memory.terminal.is_none());
        if held == self.memory.held {
            return;
        }
        if let Some(refused) = held.as_ref().filter(|held| held.refused) {
            self.note(true, SEAL_INVALID, refused.message.clone(), None);
        }
        self.memory.held = held;
    }

    /// Credentials or policies changed: what the gate refused is tried again at once.
    pub fn gate_changed(&mut self) {
        for memory in self.memory.containers.values_mut() {
            if memory.error.as_ref().is_some_and(|(reason, _)| by_gate(reason)) {
                memory.tries.hurry();
            }
        }
    }
}

/// Did the gate refuse the start?
pub(super) fn by_gate(reason: &str) -> bool {
    matches!(reason, IMAGE_DENIED | SEAL_INVALID)
}

/// Reason and text of the event about a container that did not start.
pub(super) fn event_of(reason: &str, message: &str) -> (&'static str, String) {
    match reason {
        IMAGE_DENIED => (IMAGE_DENIED, message.to_owned()),
        SEAL_INVALID => (SEAL_INVALID, message.to_owned()),
        _ => ("Failed", format!("Error: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::super::fixtures;
    use super::super::super::observed::{Container, Life, Observed, Sandbox};
    use super::super::super::plan::plan;
    use super::super::super::status::{Surroundings, status};
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("time")
    }

    fn state(lives: &[Option<Life>], policy: &str) -> PodState {
        let names = ["first", "a", "b"];
        let pod = fixtures::pod(json!({"spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "first", "image": "i"}],
            "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        }}));
        let row = |(name, life): (&str, &Option<Life>)| {
            Some(Container {
                id: format!("id-{name}"),
                sandbox_id: "s".to_owned(),
                name: name.to_owned(),
                restarts: 0,
                hash: String::new(),
                life: (*life)?,
                created_ns: 1,
                started_ns: 1,
                finished_ns: 2,
                exit_code: 0,
                reason: String::new(),
                message: String::new(),
                image: "i".to_owned(),
                image_id: "sha256:i".to_owned(),
            })
        };
        let containers: Vec<Container> = names.into_iter().zip(lives).filter_map(row).collect();
        let sandbox = Sandbox { id: "s".into(), attempt: 0, ready: true, created_ns: 1, ips: Vec::new() };
        let sandboxes = if containers.is_empty() { Vec::new() } else { vec![sandbox] };
        let observed = Observed { sandboxes, containers };
        PodState::new(Arc::new(pod), BTreeMap::new(), observed, 0.0, now())
    }

    #[test]
    fn said_once_and_shown() {
        let mut state = state(&[], "Always");
        let refused = Verdict::Refused("not sealed".to_owned());
        state.hold(&refused);
        state.hold(&refused);
        let said: Vec<_> = state.notes.iter().map(|note| (note.warning, note.reason)).collect();
        assert_eq!(said, [(true, SEAL_INVALID)]);
        let shown = status(&state, &Surroundings::default(), now());
        assert_eq!(
            (shown.reason.as_deref(), shown.message.as_deref()),
            (Some(SEAL_INVALID), Some("not sealed"))
        );
        for container in shown.container_statuses.iter().chain(&shown.init_container_statuses).flatten() {
            let waits = container.state.as_ref().and_then(|state| state.waiting.as_ref()).expect("waiting");
            assert_eq!(waits.reason.as_deref(), Some(SEAL_INVALID), "{}", container.name);
        }
        state.hold(&Verdict::Wait("not joined"));
        let shown = status(&state, &Surroundings::default(), now());
        assert_eq!((shown.reason, state.notes.len()), (None, 1), "not known is no refusal");
        state.hold(&Verdict::Fine);
        assert!(!plan(&state, now()).actions.is_empty());
        state.memory.removed = true;
        state.hold(&refused);
        assert_eq!(state.memory.held, None, "ending needs no belief");
    }

    fn any_life() -> impl Strategy<Value = Option<Life>> {
        prop_oneof![
            Just(None),
            Just(Some(Life::Created)),
            Just(Some(Life::Running)),
            Just(Some(Life::Exited)),
            Just(Some(Life::Unknown)),
        ]
    }

    proptest! {
        /// Whatever is there: a refused pod starts nothing and ends nothing.
        #[test]
        fn nothing_is_done(
            lives in proptest::collection::vec(any_life(), 3),
            policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        ) {
            let mut state = state(&lives, policy);
            state.hold(&Verdict::Refused("no".to_owned()));
            prop_assert_eq!(plan(&state, now()).actions, vec![]);
        }
    }
}
