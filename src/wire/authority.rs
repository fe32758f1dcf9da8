//! Lets HTTP/2 clients in that name a unix socket in `:authority`.
//!
//! gRPC clients on unix sockets, grpc-go of KubeEdge's mappers and everything on gRPC's C core
//! among them, send the socket's path there (`%2Fetc%2Fkubeedge%2Fdmi.sock`). That is no authority
//! of RFC 3986, and the HTTP/2 library here resets such streams with `PROTOCOL_ERROR` (hyperium/h2
//! pull request 487, open since 2020). [`AuthorityFilter`] stands between socket and library: what
//! may not stand in an authority becomes `-` in place. The text keeps its length, so both sides'
//! header tables (RFC 7541) stay the same; everything else passes as it came.

use bytes::{Buf, BufMut, BytesMut};

/// "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
/// Largest frame the server allows (the protocol's default).
const MAX_FRAME_BYTES: usize = 16_384;
/// Largest header block taken, in however many frames.
const MAX_BLOCK_BYTES: usize = 65_536;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A header block without end. Anything else is left for the library to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header block of HTTP/2 is broken off or larger than {MAX_BLOCK_BYTES} bytes")]
pub struct BadBlock;

/// What a client sends, as the library can read it. Pure: bytes in, bytes out, however they are cut.
#[derive(Debug)]
pub struct AuthorityFilter {
    /// Came in, not yet a whole frame of headers.
    pending: BytesMut,
    /// Bytes that pass as they are.
    passing: usize,
    block: Option<Block>,
}

/// Headers that go on in `CONTINUATION` frames.
#[derive(Debug)]
struct Block {
    stream: u32,
    flags: u8,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn read(mut bytes: &[u8]) -> Self {
        let length = bytes.try_get_uint(3).unwrap_or_default();
        Self {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            kind: bytes.try_get_u8().unwrap_or_default(),
            flags: bytes.try_get_u8().unwrap_or_default(),
            stream: bytes.try_get_u32().unwrap_or_default(),
        }
    }

    fn write(self, out: &mut BytesMut) {
        out.put_uint(self.length as u64, 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
    }
}

impl Default for AuthorityFilter {
    fn default() -> Self {
        Self { pending: BytesMut::new(), passing: PREFACE_BYTES, block: None }
    }
}

impl AuthorityFilter {
    /// Takes what was read and adds to `out` what may be read on.
    ///
    /// # Errors
    /// [`BadBlock`]: close the connection.
    pub fn feed(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), BadBlock> {
        let passed = self.passing.min(input.len());
        if self.pending.is_empty() && passed > 0 {
            let (through, rest) = input.split_at(passed);
            out.extend_from_slice(through);
            self.passing -= passed;
            self.pending.extend_from_slice(rest);
        } else {
            self.pending.extend_from_slice(input);
        }
        while !self.pending.is_empty() {
            if self.passing > 0 {
                let passed = self.passing.min(self.pending.len());
                out.extend_from_slice(&self.pending.split_to(passed));
                self.passing -= passed;
                continue;
            }
            if self.pending.len() < FRAME_HEAD_BYTES {
                return Ok(());
            }
            let head = Head::read(&self.pending);
            let is_block = head.kind == HEADERS || self.block.is_some();
            if !is_block || head.length > MAX_FRAME_BYTES {
                self.passing = FRAME_HEAD_BYTES + head.length;
                continue;
            }
            if self.pending.len() < FRAME_HEAD_BYTES + head.length {
                return Ok(());
            }
            let frame = self.pending.split_to(FRAME_HEAD_BYTES + head.length);
            self.headers(head, &frame, out)?;
        }
        Ok(())
    }

    fn headers(&mut self, head: Head, frame: &[u8], out: &mut BytesMut) -> Result<(), BadBlock> {
        let payload = frame.get(FRAME_HEAD_BYTES..).unwrap_or_default();
        let (mut block, is_first) = match self.block.take() {
            None => (Block { stream: head.stream, flags: head.flags, bytes: Vec::new() }, true),
            Some(block) if head.kind == CONTINUATION && head.stream == block.stream => (block, false),
            Some(_) => return Err(BadBlock),
        };
        let fragment = if is_first { unpadded(head.flags, payload).ok_or(BadBlock)? } else { payload };
        block.bytes.extend_from_slice(fragment);
        if block.bytes.len() > MAX_BLOCK_BYTES {
            return Err(BadBlock);
        }
        if head.flags & END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        match rewritten(&block.bytes) {
            None if is_first => out.extend_from_slice(frame),
            None => write_block(&block, out),
            Some(bytes) => write_block(&Block { bytes, ..block }, out),
        }
        Ok(())
    }
}

/// The fragment of a `HEADERS` frame, without padding and priority.
fn unpadded(flags: u8, mut payload: &[u8]) -> Option<&[u8]> {
    let padding = if flags & PADDED == 0 { 0 } else { usize::from(payload.try_get_u8().ok()?) };
    if flags & PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

fn write_block(block: &Block, out: &mut BytesMut) {
    let count = block.bytes.len().div_ceil(MAX_FRAME_BYTES);
    for (index, part) in block.bytes.chunks(MAX_FRAME_BYTES).enumerate() {
        let (kind, kept) = if index == 0 { (HEADERS, block.flags & END_STREAM) } else { (CONTINUATION, 0) };
        let flags = if index + 1 == count { kept | END_HEADERS } else { kept };
        Head { length: part.len(), kind, flags, stream: block.stream }.write(out);
        out.extend_from_slice(part);
    }
}

/// The block with an authority that can be read; `None` when it is well as it is, or not understood.
fn rewritten(block: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { rest: block };
    let mut out = Vec::new();
    let mut copied = block;
    while let Some(first) = reader.rest.first().copied() {
        // RFC 7541 section 6: indexed field, literal that is indexed, size update, other literals.
        let (prefix, is_literal) = match first {
            0x80.. => (7, false),
            0x40..=0x7f => (6, true),
            0x20..=0x3f => (5, false),
            _ => (4, true),
        };
        let index = reader.integer(prefix)?;
        if !is_literal {
            continue;
        }
        let is_authority = match index {
            // Entry 1 of the static table.
            1 => true,
            0 => reader.string()?.decoded().as_deref() == Some(b":authority".as_slice()),
            _ => false,
        };
        let before = reader.rest.len();
        let value = reader.string()?;
        let Some(text) = value.decoded().filter(|_| is_authority) else { continue };
        if http::uri::Authority::try_from(text.as_slice()).is_ok() {
            continue;
        }
        let readable = text.iter().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => *byte,
            _ => b'-',
        });
        out.extend_from_slice(copied.get(..copied.len().checked_sub(before)?)?);
        write_length(text.len(), &mut out);
        out.extend(readable);
        copied = reader.rest;
    }
    if out.is_empty() {
        return None;
    }
    out.extend_from_slice(copied);
    Some(out)
}

struct Reader<'b> {
    rest: &'b [u8],
}

struct Text<'b> {
    is_huffman: bool,
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    /// An integer whose first `prefix` bits share a byte with something else (RFC 7541 section 5.1).
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let full = (1_usize << prefix) - 1;
        let mut value = usize::from(self.rest.try_get_u8().ok()?) & full;
        if value < full {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.rest.try_get_u8().ok()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Text<'b>> {
        let is_huffman = self.rest.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Text { is_huffman, bytes })
    }
}

fn write_length(length: usize, out: &mut Vec<u8>) {
    const FULL: usize = 0x7f;
    #[expect(clippy::cast_possible_truncation, reason = "each is cut to its bits first")]
    if length < FULL {
        out.push(length as u8);
    } else {
        out.push(0x7f);
        let mut left = length - FULL;
        while left >= 0x80 {
            out.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }
}

/// The Huffman code of RFC 7541 appendix B as far as it has printable characters: number of bits,
/// first code of that length, and the characters in the order of their codes.
const CODES: &[(u32, u32, &[u8])] = &[
    (5, 0x0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, b"&*,;XZ"),
    (10, 0x3f8, b"!\"()?"),
    (11, 0x7fa, b"'+|"),
    (12, 0xffa, b"#>"),
    (13, 0x1ff8, b"\0$@[]~"),
    (14, 0x3ffc, b"^}"),
    (15, 0x7ffc, b"<`{"),
];

impl Text<'_> {
    /// The characters; `None` if some are not printable.
    fn decoded(&self) -> Option<Vec<u8>> {
        if !self.is_huffman {
            return Some(self.bytes.to_vec());
        }
        let mut text = Vec::with_capacity(self.bytes.len() * 8 / 5);
        let (mut code, mut bits) = (0_u32, 0_u32);
        for byte in self.bytes {
            for place in (0..8).rev() {
                code = code << 1 | u32::from(byte >> place & 1);
                bits += 1;
                let of_length = CODES.iter().find(|(length, ..)| *length == bits);
                let symbol = of_length.and_then(|(_, first, symbols)| {
                    symbols.get(usize::try_from(code.checked_sub(*first)?).ok()?)
                });
                if let Some(symbol) = symbol {
                    text.push(*symbol);
                    (code, bits) = (0, 0);
                } else if bits > 15 {
                    return None;
                }
            }
        }
        // The rest of the last byte is the beginning of the longest code: ones.
        (bits < 8 && code == (1 << bits) - 1).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        Head { length: payload.len(), kind, flags, stream }.write(&mut out);
        out.extend_from_slice(payload);
        out.to_vec()
    }

    fn raw(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_length(text.len(), &mut out);
        out.extend_from_slice(text);
        out
    }

    /// As an encoder would write it.
    fn huffman(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let (length, first, symbols) =
                CODES.iter().find(|(_, _, symbols)| symbols.contains(byte)).unwrap();
            let code = first + u32::try_from(symbols.iter().position(|s| s == byte).unwrap()).unwrap();
            bits.push_str(&format!("{code:0width$b}", width = *length as usize));
        }
        while bits.len() % 8 != 0 {
            bits.push('1');
        }
        let bytes: Vec<u8> = bits
            .as_bytes()
            .chunks(8)
            .map(|b| u8::from_str_radix(std::str::from_utf8(b).unwrap(), 2).unwrap())
            .collect();
        let mut out = raw(&bytes);
        out[0] |= 0x80;
        out
    }

    fn through(stream: &[u8], cut: usize) -> Vec<u8> {
        let (mut filter, mut out) = (AuthorityFilter::default(), BytesMut::new());
        for part in stream.chunks(cut.max(1)) {
            filter.feed(part, &mut out).unwrap();
        }
        out.to_vec()
    }

    #[test]
    fn the_huffman_code_is_that_of_the_rfc() {
        // RFC 7541 appendix C.4.1 and C.6.1.
        let text = |bytes: &[u8]| Text { is_huffman: true, bytes }.decoded();
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(text(&example).as_deref(), Some(b"www.example.com".as_slice()));
        assert_eq!(text(&[0xae, 0xc3, 0x77, 0x1a, 0x4b]).as_deref(), Some(b"private".as_slice()));
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(huffman(b"www.example.com")[1..], example);
    }

    #[test]
    fn a_socket_s_path_becomes_an_authority_of_the_same_length() {
        let path = b"%2Frun%2Fdmi.sock";
        let readable = b"-2Frun-2Fdmi.sock";
        let rest = [0x82, 0x86];
        let indexed = |value: Vec<u8>| [&[0x83, 0x41], value.as_slice(), &rest].concat();
        let named =
            |name: Vec<u8>, value: Vec<u8>| [&[0x40], name.as_slice(), value.as_slice(), &rest].concat();
        for (block, want) in [
            (indexed(raw(path)), indexed(raw(readable))),
            (indexed(huffman(path)), indexed(raw(readable))),
            (named(raw(b":authority"), raw(path)), named(raw(b":authority"), raw(readable))),
            (named(huffman(b":authority"), huffman(path)), named(huffman(b":authority"), raw(readable))),
            (indexed(raw(b"localhost")), indexed(raw(b"localhost"))),
            (named(raw(b"x-path"), raw(path)), named(raw(b"x-path"), raw(path))),
        ] {
            let tail = frame(0, 1, 1, b"data that :authority may be in");
            let sent =
                [PREFACE, &frame(4, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &block), &tail].concat();
            let want =
                [PREFACE, &frame(4, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &want), &tail].concat();
            for cut in [1, 7, 4096] {
                assert_eq!(through(&sent, cut), want);
            }
        }
    }

    #[test]
    fn padding_priority_and_continuations_are_understood() {
        let block = [&[0x41], raw(b"/run/dmi.sock").as_slice(), &[0x82]].concat();
        let want = [&[0x41], raw(b"-run-dmi.sock").as_slice(), &[0x82]].concat();
        let whole = frame(HEADERS, END_HEADERS | END_STREAM, 3, &want);
        let padded = [&[2, 0, 0, 0, 0, 16], block.as_slice(), &[0, 0]].concat();
        let flags = END_HEADERS | END_STREAM | PADDED | PRIORITY;
        let one = [PREFACE, &frame(HEADERS, flags, 3, &padded)].concat();
        assert_eq!(through(&one, 5), [PREFACE, &whole].concat());
        let (begin, end) = block.split_at(4);
        let two = [PREFACE, &frame(HEADERS, END_STREAM, 3, begin), &frame(CONTINUATION, END_HEADERS, 3, end)];
        assert_eq!(through(&two.concat(), 5), [PREFACE, &whole].concat());
        let broken = [PREFACE, &frame(HEADERS, 0, 3, begin), &frame(0, 0, 3, end)].concat();
        let mut filter = AuthorityFilter::default();
        assert_eq!(filter.feed(&broken, &mut BytesMut::new()), Err(BadBlock));
        let mut endless = AuthorityFilter::default();
        endless
            .feed(&[PREFACE, &frame(HEADERS, 0, 3, &[0x82; 16_000])].concat(), &mut BytesMut::new())
            .unwrap();
        let more = frame(CONTINUATION, 0, 3, &[0x82; 16_000]);
        let refused = (0..5).any(|_| endless.feed(&more, &mut BytesMut::new()).is_err());
        assert!(refused, "a block has an end");
    }

    proptest! {
        /// Whatever is sent: nothing panics, and the cuts of the stream make no difference.
        #[test]
        fn cuts_make_no_difference(
            frames in prop::collection::vec((0_u8..10, any::<u8>(), 0_u32..4, prop::collection::vec(any::<u8>(), 0..80)), 0..8),
            cut in 1_usize..64,
        ) {
            let mut sent = PREFACE.to_vec();
            for (kind, flags, stream, payload) in &frames {
                sent.extend(frame(*kind, *flags, *stream, payload));
            }
            let run = |cut: usize| {
                let (mut filter, mut out) = (AuthorityFilter::default(), BytesMut::new());
                let outcome = sent.chunks(cut).try_for_each(|part| filter.feed(part, &mut out));
                (outcome, out)
            };
            prop_assert_eq!(run(cut), run(sent.len()));
        }

        /// Every authority that comes out can be read and has its length.
        #[test]
        fn what_comes_out_is_an_authority(text in "[ -~]{1,60}", coded in any::<bool>()) {
            let printable = !text.bytes().any(|byte| byte == b'\\');
            let value = if coded && printable { huffman(text.as_bytes()) } else { raw(text.as_bytes()) };
            let block = [&[0x41], value.as_slice()].concat();
            let out = rewritten(&block).unwrap_or(block);
            let mut reader = Reader { rest: &out[1..] };
            let text_out = reader.string().unwrap().decoded().unwrap();
            prop_assert_eq!(text_out.len(), text.len());
            prop_assert!(http::uri::Authority::try_from(text_out.as_slice()).is_ok());
        }
    }
}
