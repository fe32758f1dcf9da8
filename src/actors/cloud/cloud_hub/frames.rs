//! Where the frames of a websocket end and how long they say they are (RFC 6455 section 5.2). actix-web's codec refuses a
//! frame that is too long once it has all of it; this looks at the head. No I/O.

/// Follows the frames in a stream of bytes.
#[derive(Debug)]
pub struct Frames {
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

impl Frames {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most: most as u64, head: Vec::new(), left: 0 }
    }

    /// How many of the next `bytes` of the stream, cut anywhere, are of one frame, and whether it ends with them. The
    /// others are to be given again.
    ///
    /// # Errors
    /// [`TooLong`]; nothing that follows means anything then.
    pub fn split(&mut self, bytes: &[u8]) -> Result<(usize, bool), TooLong> {
        let mut at = 0;
        if self.left == 0 {
            loop {
                let Some(byte) = bytes.get(at) else { return Ok((at, false)) };
                self.head.push(*byte);
                at += 1;
                if let Some(length) = length(&self.head) {
                    if length > self.most {
                        return Err(TooLong(length));
                    }
                    self.left = length;
                    self.head.clear();
                    break;
                }
            }
        }
        let there = bytes.len().saturating_sub(at);
        let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(there);
        self.left -= payload as u64;
        Ok((at + payload, self.left == 0))
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
        let mut frames = Frames::new(4 << 20);
        assert_eq!(frames.split(&[0x81, 0x02, b'h', b'i', 0x81]), Ok((4, true)));
        let declared = [0x81, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(frames.split(&declared), Err(TooLong(0xffff_ffff)));
    }

    /// The lengths of the frames found in `stream`, which comes in pieces of `cut` bytes.
    fn found(frames: &mut Frames, stream: &[u8], cut: usize) -> Result<Vec<usize>, TooLong> {
        let (mut found, mut length) = (Vec::new(), 0);
        for mut piece in stream.chunks(cut) {
            while !piece.is_empty() {
                let (size, is_end) = frames.split(piece)?;
                length += size;
                piece = &piece[size..];
                if is_end {
                    found.push(std::mem::take(&mut length));
                }
            }
        }
        Ok(found)
    }

    proptest! {
        /// However the stream is cut, each frame is seen where it is.
        #[test]
        fn frames_are_followed(sizes in prop::collection::vec(0_usize..70_000, 1..6), cut in 1_usize..5_000) {
            let all: Vec<Vec<u8>> = sizes.iter().map(|size| frame(*size)).collect();
            let stream = all.concat();
            let largest = sizes.iter().copied().max().unwrap_or(0);
            let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
            prop_assert_eq!(found(&mut Frames::new(largest), &stream, cut), Ok(lengths));
            if largest > 0 {
                let result = found(&mut Frames::new(largest - 1), &stream, cut);
                prop_assert_eq!(result, Err(TooLong(largest as u64)));
            }
        }
    }
}
