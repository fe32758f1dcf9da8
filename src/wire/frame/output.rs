//! Writing JSON the way Go's encoder does, within a bound.

use std::io;

use serde_json::ser::Formatter;

/// Keeps at most `limit` bytes and counts the rest.
pub(super) struct Capped {
    kept: Vec<u8>,
    bytes: usize,
    limit: usize,
}

impl Capped {
    pub(super) fn new(limit: usize) -> Self {
        Self { kept: Vec::new(), bytes: 0, limit }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.bytes <= self.limit {
            self.kept.extend_from_slice(piece);
        }
    }

    /// The bytes, or how many there would have been.
    pub(super) fn finish(self) -> Result<Vec<u8>, usize> {
        if self.bytes <= self.limit { Ok(self.kept) } else { Err(self.bytes) }
    }
}

impl io::Write for Capped {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.push(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compact JSON with `<`, `>`, `&`, U+2028 and U+2029 escaped in strings, as Go's `json.Encoder`.
pub(super) struct GoStrings;

impl Formatter for GoStrings {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let is_escaped = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        for piece in text.split_inclusive(is_escaped) {
            match piece.char_indices().next_back() {
                Some((at, last)) if is_escaped(last) => {
                    let (plain, _) = piece.split_at(at);
                    writer.write_all(plain.as_bytes())?;
                    write!(writer, "\\u{:04x}", u32::from(last))?;
                }
                _ => writer.write_all(piece.as_bytes())?,
            }
        }
        Ok(())
    }
}
