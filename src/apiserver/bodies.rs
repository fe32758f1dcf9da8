//! The length of request bodies under way, by user: a body is kept until its end has come and it was answered, and one
//! user may have many connections. (A buffer that grows may take twice what it holds.)

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::body::{MAX_BODY_BYTES, too_large};
use super::errors::ApiError;

/// Five of the largest requests at once.
const MAX_BYTES_OF_ONE_USER: usize = 16 * 1024 * 1024;

/// What each user's bodies take.
#[derive(Debug, Default)]
pub struct Bodies {
    held: Mutex<HashMap<Arc<str>, usize>>,
}

/// A body that comes in, counted as its user's.
#[derive(Debug)]
pub struct Incoming {
    bytes: BytesMut,
    held: Held,
}

/// A body's share, until it is dropped.
#[derive(Debug)]
pub struct Held {
    bodies: Arc<Bodies>,
    user: Arc<str>,
    bytes: usize,
}

impl Bodies {
    /// A body of this user begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>, user: &str) -> Incoming {
        let held = Held { bodies: Arc::clone(self), user: user.into(), bytes: 0 };
        Incoming { bytes: BytesMut::new(), held }
    }
}

impl Incoming {
    /// # Errors
    /// 413 beyond [`MAX_BODY_BYTES`]; 429 where the user's other bodies take what is left.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        if self.bytes.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        self.held.grow(chunk.len())?;
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// The whole body, and its share.
    #[must_use]
    pub fn whole(self) -> (Bytes, Held) {
        (self.bytes.freeze(), self.held)
    }
}

impl Held {
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let mut held = self.bodies.held.lock();
        let sum = held.entry(Arc::clone(&self.user)).or_default();
        if *sum + bytes > MAX_BYTES_OF_ONE_USER {
            return Err(ApiError::busy(format!(
                "{:?} already has {sum} of {MAX_BYTES_OF_ONE_USER} bytes of request bodies under way",
                self.user
            )));
        }
        *sum += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.bodies.held.lock();
        if let Some(sum) = held.get_mut(&self.user) {
            *sum = sum.saturating_sub(self.bytes);
            if *sum == 0 {
                held.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_does_not_take_the_place_of_another() {
        let bodies = Arc::new(Bodies::default());
        let chunk = vec![b' '; MAX_BODY_BYTES];
        let full = |user: &str| {
            let mut body = bodies.begin(user);
            body.push(&chunk).map(|()| body)
        };
        let mut greedy: Vec<_> = (0..5).map(|_| full("greedy").unwrap()).collect();
        let refused = full("greedy").unwrap_err();
        assert_eq!(refused.code(), 429, "{refused:?}");
        assert!(refused.status.message.contains("\"greedy\""), "{refused:?}");
        full("other").unwrap();

        // What was answered counts no more, nor what broke off.
        let (bytes, held) = greedy.pop().unwrap().whole();
        assert_eq!(bytes.len(), MAX_BODY_BYTES);
        assert_eq!(full("greedy").unwrap_err().code(), 429);
        drop(held);
        greedy.push(full("greedy").unwrap());
        greedy.pop();
        greedy.push(full("greedy").unwrap());

        drop(greedy);
        assert!(bodies.held.lock().is_empty(), "{bodies:?}");
    }

    #[test]
    fn a_body_has_a_limit_of_its_own() {
        let bodies = Arc::new(Bodies::default());
        let mut body = bodies.begin("admin");
        body.push(&vec![b' '; MAX_BODY_BYTES]).unwrap();
        assert_eq!(body.push(b"x").unwrap_err().code(), 413);
        let (bytes, held) = body.whole();
        assert_eq!((bytes.len(), held.bytes), (MAX_BODY_BYTES, MAX_BODY_BYTES));
        drop(held);
        assert!(bodies.held.lock().is_empty());
    }
}
