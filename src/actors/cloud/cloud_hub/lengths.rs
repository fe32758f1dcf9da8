//! How long the frames of a websocket say they are (RFC 6455 section 5.2). actix-web's codec refuses a frame that is too
//! long once it has all of it; this looks at the head. No I/O.

/// Follows the frames in a stream of bytes.
#[derive(Debug)]
pub struct Lengths {
    /// Payload bytes that a frame may have.
    most: u64,
    /// What there is of a frame's head.
    head: Vec<u8>,
    /// Payload bytes of the present frame that have not come yet.
    left: u64,
}

/// A frame says that it has so many bytes of payload.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct TooLong(pub u64);

impl Lengths {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most: most as u64, head: Vec::new(), left: 0 }
    }

    /// The next bytes of the stream, cut anywhere.
    ///
    /// # Errors
    /// [`TooLong`]; nothing that follows means anything then.
    pub fn follow(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            bytes = bytes.get(skipped..).unwrap_or_default();
            self.left -= skipped as u64;
            let Some((byte, rest)) = bytes.split_first() else { break };
            self.head.push(*byte);
            bytes = rest;
            if let Some(length) = length(&self.head) {
                if length > self.most {
                    return Err(TooLong(length));
                }
                self.left = length;
                self.head.clear();
            }
        }
        Ok(())
    }
}

/// Bytes of payload, once the head is complete.
fn length(head: &[u8]) -> Option<u64> {
    let [_, second, rest @ ..] = head else { return None };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if rest.len() < extended + mask {
        return None;
    }
    let number = rest.iter().take(extended).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Some(if extended == 0 { u64::from(second & 0x7f) } else { number })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A masked frame, as clients send them.
    fn frame(size: usize) -> Vec<u8> {
        let mut frame = vec![0x82];
        match size {
            0..126 => frame.push(0x80 | size as u8),
            126..65_536 => {
                frame.push(0xfe);
                frame.extend((size as u16).to_be_bytes());
            }
            _ => {
                frame.push(0xff);
                frame.extend((size as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.resize(frame.len() + size, 0xff);
        frame
    }

    #[test]
    fn heads() {
        for (head, want) in [
            (&[0x81][..], None),
            (&[0x81, 0x05], Some(5)),
            (&[0x81, 0x85, 0, 0, 0], None),
            (&[0x81, 0x85, 0, 0, 0, 0], Some(5)),
            (&[0x81, 126, 1], None),
            (&[0x81, 126, 1, 0], Some(256)),
            (&[0x81, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4], Some(0xffff_ffff)),
        ] {
            assert_eq!(length(head), want, "{head:?}");
        }
    }

    #[test]
    fn a_frame_is_refused_by_its_head() {
        let mut lengths = Lengths::new(4 << 20);
        lengths.follow(&[0x81, 0x02, b'h', b'i']).unwrap();
        let declared = [0x81, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(lengths.follow(&declared), Err(TooLong(0xffff_ffff)));
    }

    proptest! {
        /// However the stream is cut, each frame is seen where it is.
        #[test]
        fn frames_are_followed(sizes in prop::collection::vec(0_usize..70_000, 1..6), cut in 1_usize..5_000) {
            let stream: Vec<u8> = sizes.iter().flat_map(|size| frame(*size)).collect();
            let largest = sizes.iter().copied().max().unwrap_or(0);
            let mut lengths = Lengths::new(largest);
            for piece in stream.chunks(cut) {
                prop_assert_eq!(lengths.follow(piece), Ok(()));
            }
            prop_assert_eq!((lengths.left, lengths.head.len()), (0, 0));
            if largest > 0 {
                let mut lengths = Lengths::new(largest - 1);
                let found = stream.chunks(cut).try_for_each(|piece| lengths.follow(piece));
                prop_assert_eq!(found, Err(TooLong(largest as u64)));
            }
        }
    }
}
