//! Calls that run, so that they can be given up when nobody waits for them any more.

use std::collections::HashMap;

use futures_util::future::{AbortHandle, Abortable};

use super::lanes::Class;
use crate::model::NodeName;

/// Calls about the state of nodes and pods. Others (events, queries) stay good when their session ends.
#[derive(Debug, Default)]
pub struct UnderWay {
    last: u64,
    calls: HashMap<NodeName, Vec<Call>>,
}

#[derive(Debug)]
struct Call {
    number: u64,
    session: u64,
    handle: AbortHandle,
}

impl UnderWay {
    /// Notes a call. The number is for [`UnderWay::end`], which must follow.
    pub fn begin<F: Future>(
        &mut self,
        node: &NodeName,
        session: u64,
        class: Class,
        call: F,
    ) -> (u64, Abortable<F>) {
        self.last += 1;
        let (handle, registration) = AbortHandle::new_pair();
        if class == Class::Status {
            let calls = self.calls.entry(node.clone()).or_default();
            calls.push(Call { number: self.last, session, handle });
        }
        (self.last, Abortable::new(call, registration))
    }

    /// A call has ended, or was given up.
    pub fn end(&mut self, node: &NodeName, number: u64) {
        let Some(calls) = self.calls.get_mut(node) else { return };
        calls.retain(|call| call.number != number);
        if calls.is_empty() {
            self.calls.remove(node);
        }
    }

    /// Gives up the calls of a session and of earlier ones. Returns how many.
    pub fn give_up(&mut self, node: &NodeName, session: u64) -> usize {
        let calls = self.calls.get(node).into_iter().flatten();
        calls.filter(|call| call.session <= session).map(|call| call.handle.abort()).count()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn reports_of_an_ended_session_are_given_up_and_nothing_else_is() {
        let (node, other) = (NodeName::parse("a").unwrap(), NodeName::parse("b").unwrap());
        let mut it = UnderWay::default();
        let (first, old) = it.begin(&node, 1, Class::Status, pending::<()>());
        let (_, query) = it.begin(&node, 1, Class::Rest, std::future::ready(()));
        let (_, newer) = it.begin(&node, 2, Class::Status, std::future::ready(()));
        let (_, foreign) = it.begin(&other, 1, Class::Status, std::future::ready(()));
        assert_eq!(it.give_up(&node, 1), 1);
        assert!(old.await.is_err());
        for kept in [query, newer, foreign] {
            assert!(kept.await.is_ok());
        }
        it.end(&node, first);
        assert_eq!(it.give_up(&node, 1), 0);
        assert_eq!(it.give_up(&node, 2), 1);
    }
}
