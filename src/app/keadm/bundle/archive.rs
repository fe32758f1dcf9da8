//! A tar file, gzipped, written as it comes (POSIX ustar: plain files with short names only).

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

const BLOCK: usize = 512;
/// Longest name, bytes.
const NAME_MAX: usize = 100;

pub(super) struct Archive<W: Write> {
    out: GzEncoder<W>,
    at_secs: u64,
}

impl<W: Write> Archive<W> {
    /// `at_secs`: unix seconds that every file is dated with.
    pub fn new(out: W, at_secs: u64) -> Self {
        Self { out: GzEncoder::new(out, Compression::default()), at_secs }
    }

    /// # Errors
    /// What the writer fails with; a name that does not fit.
    pub fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        if name.len() > NAME_MAX {
            return Err(io::Error::other(format!("the name {name} is too long for a tar file")));
        }
        self.out.write_all(&header(name, content.len(), self.at_secs))?;
        self.out.write_all(content)?;
        self.out.write_all(&vec![0; content.len().next_multiple_of(BLOCK) - content.len()])
    }

    /// # Errors
    /// What the writer fails with.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.finish()
    }
}

fn header(name: &str, size: usize, at_secs: u64) -> Vec<u8> {
    let with = |sum: &str| {
        let (size, time) = (format!("{size:011o}"), format!("{at_secs:011o}"));
        let fields: [(&str, usize); 11] = [
            (name, NAME_MAX),
            ("0000600", 8),
            ("0000000", 8),
            ("0000000", 8),
            (&size, 12),
            (&time, 12),
            (sum, 8),
            ("0", 1),
            ("", 100),
            ("ustar", 6),
            ("00", 2),
        ];
        let mut header = Vec::with_capacity(BLOCK);
        let mut end = 0;
        for (text, width) in fields {
            header.extend(text.bytes().take(width));
            end += width;
            header.resize(end, 0);
        }
        header.resize(BLOCK, 0);
        header
    };
    // The sum is made as if its own field were spaces.
    let sum: u32 = with("        ").iter().map(|byte| u32::from(*byte)).sum();
    with(&format!("{sum:06o}\0 "))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Command;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn tar_can_read_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut archive = Archive::new(Vec::new(), 1_800_000_000);
        let long = vec![b'x'; 1_000];
        for (name, content) in [("a.txt", &b"one\n"[..]), ("logs/empty", b""), ("b/long", &long)] {
            archive.add(name, content).expect("added");
        }
        assert!(archive.add(&"x".repeat(101), b"").is_err());
        let bytes = archive.finish().expect("finished");
        let mut plain = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).expect("gzip");
        assert_eq!(plain.len() % BLOCK, 0);
        let file = dir.path().join("x.tar.gz");
        std::fs::write(&file, bytes).expect("write");
        let done = Command::new("tar").arg("xzf").arg(&file).arg("-C").arg(dir.path()).status().expect("tar");
        assert!(done.success());
        assert_eq!(std::fs::read(dir.path().join("b/long")).expect("long"), long);
        assert_eq!(std::fs::read_to_string(dir.path().join("a.txt")).expect("a"), "one\n");
    }
}
