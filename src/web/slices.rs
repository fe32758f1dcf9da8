//! A long page that goes out in pieces: HTTP copies one piece at a time, and who made it knows when it
//! is gone.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

const PIECE: usize = 16 << 10;

/// The page; `T` is dropped with it.
pub struct Slices<T> {
    rest: Bytes,
    _until_gone: T,
}

impl<T> Slices<T> {
    #[must_use]
    pub fn new(page: impl Into<Bytes>, until_gone: T) -> Self {
        Self { rest: page.into(), _until_gone: until_gone }
    }
}

impl<T: Unpin> MessageBody for Slices<T> {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let me = self.get_mut();
        let piece = me.rest.split_to(me.rest.len().min(PIECE));
        Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn all_of_it_comes_and_then_it_is_let_go() {
        let page: Vec<u8> = (0..PIECE * 2 + 3).map(|n| n as u8).collect();
        let mark = Rc::new(());
        let mut slices = Slices::new(page.clone(), Rc::clone(&mark));
        assert_eq!(slices.size(), BodySize::Sized(page.len() as u64));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut got = Vec::new();
        while let Poll::Ready(Some(Ok(piece))) = Pin::new(&mut slices).poll_next(&mut cx) {
            assert!(piece.len() <= PIECE);
            got.extend_from_slice(&piece);
        }
        assert_eq!(got, page);
        assert_eq!(Rc::strong_count(&mark), 2);
        drop(slices);
        assert_eq!(Rc::strong_count(&mark), 1);
    }
}
