//! Is a write-ahead log whole?
//!
//! After a power cut the last record of a log may be torn, and RocksDB stops reading there. It stops just so at a record
//! that rotted on the disk, and whatever was acknowledged after that one is gone without a word. The two can be told
//! apart: every write is synced before the next begins, so nothing follows a record that was torn. Each log is judged by
//! itself. What nobody can tell from a torn record is the rot of a log's last one.
//!
//! The format is that of RocksDB (its wiki, "Write Ahead Log File Format"): blocks of 32 KiB, in them records of a
//! CRC-32C over type and payload, masked; two bytes of length; a byte of type; the payload. A log that is used again
//! adds four bytes of its number. All numbers are little-endian.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crc::{CRC_32_ISCSI, Crc, Table};

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
/// With the number of the log.
const LONG_HEADER: usize = 11;
/// Types of records with the long header.
const LONG: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// Types of the first piece of a write: all of it, or its beginning; the same with a long header.
const FIRST: [u8; 4] = [1, 2, 5, 6];
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
/// RocksDB rotates a checksum and adds this, as logs may hold logs.
const MASK: u32 = 0xa282_ead8;

/// Where a log is broken although more was written after that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{log}: the record at byte {at} does not check out, and others follow it")]
pub struct Broken {
    /// The file's name.
    pub log: String,
    /// Of the first record that is no good.
    pub at: u64,
}

/// What the logs of a store are like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Logs {
    pub files: usize,
    pub broken: Option<Broken>,
}

/// Reads the logs in the folder of a store that nobody has open.
///
/// # Errors
/// When a file cannot be read.
pub fn check(store: &Path) -> io::Result<Logs> {
    let mut logs = Logs::default();
    for entry in std::fs::read_dir(store)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".log") {
            continue;
        }
        let file = match File::open(entry.path()) {
            Ok(file) => file,
            // Somebody has it open after all: RocksDB will say so.
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(err),
        };
        let scan = scan(file)?;
        logs.files += 1;
        if let (None, Some(at), true) = (&logs.broken, scan.bad_at, scan.goes_on) {
            logs.broken = Some(Broken { log: name, at });
        }
    }
    Ok(logs)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Scan {
    bad_at: Option<u64>,
    /// Something was written after that.
    goes_on: bool,
}

fn scan(mut log: impl Read) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut block = Vec::with_capacity(BLOCK);
    let mut begins = 0;
    loop {
        block.clear();
        log.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        scan.block(&block, begins);
        begins += block.len() as u64;
        if scan.goes_on || block.len() < BLOCK {
            return Ok(scan);
        }
    }
}

impl Scan {
    fn block(&mut self, block: &[u8], begins: u64) {
        let mut at = 0;
        while let Some(rest) = block.get(at..).filter(|rest| !is_padding(rest)) {
            let Some(record) = Record::read(rest) else {
                self.bad_at.get_or_insert(begins + at as u64);
                // Its length may be what is wrong: the next one may begin anywhere.
                self.goes_on = (at + 1..block.len()).any(|next| block.get(next..).is_some_and(begins_write));
                return;
            };
            if self.bad_at.is_some() && FIRST.contains(&record.kind) {
                self.goes_on = true;
                return;
            }
            at += record.bytes;
        }
    }
}

/// The end of a block that has no room for a header.
fn is_padding(rest: &[u8]) -> bool {
    rest.len() < HEADER || rest.len() < LONG_HEADER && rest.iter().all(|byte| *byte == 0)
}

fn begins_write(bytes: &[u8]) -> bool {
    // Cheap, and true of few: checksums are not.
    bytes.get(HEADER - 1).is_some_and(|kind| FIRST.contains(kind)) && Record::read(bytes).is_some()
}

struct Record {
    kind: u8,
    /// With its header.
    bytes: usize,
}

impl Record {
    /// `None`: torn, rotten, or zeros that were never written.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&[a, b, c, d, low, high, kind], _) = bytes.split_first_chunk()?;
        let (crc, length) = (u32::from_le_bytes([a, b, c, d]), usize::from(u16::from_le_bytes([low, high])));
        let header = if LONG.contains(&kind) { LONG_HEADER } else { HEADER };
        // The checksum is of the type, the number if there is one, and the payload.
        let summed = bytes.get(HEADER - 1..header + length)?;
        let is_good = kind != 0 && CRC32C.checksum(summed) == crc.wrapping_sub(MASK).rotate_left(15);
        is_good.then_some(Self { kind, bytes: header + length })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A log as RocksDB would write it.
    fn log(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut log = Vec::new();
        for payload in payloads {
            let (mut rest, mut first) = (payload.as_slice(), true);
            loop {
                let mut left = BLOCK - log.len() % BLOCK;
                if left < HEADER {
                    log.resize(log.len() + left, 0);
                    left = BLOCK;
                }
                let (piece, next) = rest.split_at(rest.len().min(left - HEADER));
                let kind = match (first, next.is_empty()) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                let crc = CRC32C.checksum(&[&[kind], piece].concat()).rotate_right(15).wrapping_add(MASK);
                log.extend(crc.to_le_bytes());
                log.extend(u16::try_from(piece.len()).unwrap().to_le_bytes());
                log.push(kind);
                log.extend(piece);
                (rest, first) = (next, false);
                if rest.is_empty() {
                    break;
                }
            }
        }
        log
    }

    fn of(log: &[u8]) -> Scan {
        scan(log).unwrap()
    }

    #[test]
    fn torn_or_rotten() {
        let small = vec![b'a'; 100];
        let (one, long) = (log(std::slice::from_ref(&small)), vec![b'b'; 3 * BLOCK]);
        let three = log(&[small.clone(), small.clone(), small.clone()]);
        let huge = log(&[small.clone(), long.clone()]);
        let then = log(&[small.clone(), long, small]);
        let at = |log: &[u8], at: usize| {
            let mut log = log.to_vec();
            log[at] ^= 1;
            log
        };
        let zeros = |log: &[u8], from: usize| {
            let mut log = log.to_vec();
            log[from..].fill(0);
            log
        };
        let gap = |log: &[u8], from: usize| {
            let mut log = log.to_vec();
            log[from..from + 4096].fill(0);
            log
        };
        let garbage = |log: &[u8], from: usize| {
            let mut log = log.to_vec();
            let end = log.len().min(from + BLOCK);
            log[from..end].iter_mut().for_each(|byte| *byte = fastrand::u8(..));
            log
        };
        let first = one.len() as u64;
        for (case, log, bad_at, goes_on) in [
            ("nothing", vec![], None, false),
            ("whole", three.clone(), None, false),
            ("over blocks", then.clone(), None, false),
            ("room that was kept", [one.clone(), vec![0; 40_000]].concat(), Some(first), false),
            ("a page of zeros where a block begins", gap(&then, BLOCK), Some(BLOCK as u64), true),
            ("a page of zeros in a block", gap(&then, BLOCK + 4096), Some(BLOCK as u64), true),
            ("a block that is garbage", garbage(&then, BLOCK), Some(BLOCK as u64), true),
            ("a last block that is garbage", garbage(&huge, 3 * BLOCK), Some(3 * BLOCK as u64), false),
            ("cut in the payload", three[..one.len() + 50].to_vec(), Some(first), false),
            ("cut in the header", three[..one.len() + 3].to_vec(), None, false),
            ("the last one's payload", at(&three, three.len() - 1), Some(2 * first), false),
            ("its end never came", zeros(&three, three.len() - 20), Some(2 * first), false),
            ("a payload in the middle", at(&three, one.len() + 50), Some(first), true),
            ("a checksum", at(&three, one.len()), Some(first), true),
            ("a length", at(&three, one.len() + 4), Some(first), true),
            ("a great length", at(&three, one.len() + 5), Some(first), true),
            ("a type", at(&three, one.len() + 6), Some(first), true),
            // Pieces of one write came to the disk in any order.
            ("a long one without its first block", at(&huge, 1000), Some(first), false),
            ("a long one in the middle", at(&then, 1000), Some(first), true),
            ("its last piece, and others", at(&then, 3 * BLOCK + 50), Some(3 * BLOCK as u64), true),
        ] {
            let scan = of(&log);
            assert_eq!((scan.bad_at, scan.goes_on), (bad_at, goes_on), "{case}");
        }
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..70_000)) {
            of(&bytes);
        }

        #[test]
        fn one_changed_bit_is_found(
            lengths in prop::collection::vec(0..40_000_usize, 2..6),
            index: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let payloads: Vec<Vec<u8>> = lengths.iter().map(|length| vec![b'p'; *length]).collect();
            let (last, before) = payloads.split_last().unwrap();
            let mut log = log(&payloads);
            prop_assert_eq!(of(&log).bad_at, None);
            let begins_last = self::log(before).len();
            let at = index.index(log.len());
            let is_filling = log[at] == 0;
            log[at] ^= 1_u8 << bit;
            let scan = of(&log);
            if !is_filling {
                prop_assert!(scan.bad_at.is_some_and(|bad| bad <= at as u64), "{:?}", scan);
                prop_assert_eq!(scan.goes_on, at < begins_last, "{:?} {} of {}", scan, at, last.len());
            }
        }
    }
}
