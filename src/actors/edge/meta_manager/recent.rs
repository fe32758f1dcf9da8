//! The last events this node reported, for its own console. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Event;

/// Events kept.
const MOST: usize = 200;

/// A ring: one that is counted again takes the place of its earlier count.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Arc<Event>>);

impl Recent {
    pub fn push(&mut self, event: Box<Event>) {
        let same = |other: &Arc<Event>| {
            let names = |event: &Event| (event.metadata.namespace.clone(), event.metadata.name.clone());
            names(other) == names(&event)
        };
        self.0.retain(|other| !same(other));
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(Arc::from(event));
    }

    /// Oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Event>> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_a_repeated_one_is_there_once() {
        let event = |name: usize, count: i32| {
            let mut event = Event { count: Some(count), ..Event::default() };
            event.metadata.name = Some(name.to_string());
            Box::new(event)
        };
        let mut recent = Recent::default();
        for name in 0..MOST + 10 {
            recent.push(event(name, 1));
        }
        recent.push(event(50, 2));
        let all = recent.all();
        assert_eq!(all.len(), MOST);
        assert_eq!(all.iter().filter(|event| event.metadata.name.as_deref() == Some("50")).count(), 1);
        assert_eq!(all.last().and_then(|event| event.count), Some(2));
        assert_eq!(all.first().and_then(|event| event.metadata.name.clone()).as_deref(), Some("10"));
    }
}
