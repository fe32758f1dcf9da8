//! Files: there, readable, matching, good for a while yet, and nobody else's.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::super::finding::Finding;
use super::super::places::Places;
use super::is_root;
use crate::config::{ConfigFile, load};
use crate::identity::{KeyPair, cert_ders_from_pem, cert_facts, client_tls};

/// Below this a store cannot work through its next compaction, bytes.
const LEAST_FREE: u64 = 200 << 20;
/// A file system with less of its size free, and less than [`AMPLE`], is said to be full.
const LEAST_FREE_PERCENT: u64 = 3;
const AMPLE: u64 = 2 << 30;
/// Largest certificate or key file, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A file as far as this process may see it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Text(String),
    Missing,
    Denied,
    Bad(String),
}

pub(super) fn read(path: &Path) -> Content {
    let result = std::fs::metadata(path).and_then(|meta| {
        if meta.len() > MAX_BYTES {
            return Err(std::io::Error::other("it is larger than 1 MiB"));
        }
        std::fs::read_to_string(path)
    });
    match result {
        Ok(text) => Content::Text(text),
        Err(err) => match err.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Content::Missing,
            ErrorKind::PermissionDenied => Content::Denied,
            _ => Content::Bad(err.to_string()),
        },
    }
}

/// Are the secret ones of these files only their owner's?
pub(super) fn modes(files: &[PathBuf]) -> Finding {
    const CHECK: &str = "modes of key files";
    let (mut open, mut seen) = (Vec::new(), 0);
    for file in files {
        let Ok(meta) = std::fs::metadata(file) else { continue };
        seen += 1;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            open.push((file.display().to_string(), format!("{mode:04o}")));
        }
    }
    if !open.is_empty() {
        let shown: Vec<String> = open.iter().map(|(file, mode)| format!("{file} is {mode}")).collect();
        let files: Vec<&str> = open.iter().map(|(file, _)| file.as_str()).collect();
        return Finding::fail(
            CHECK,
            format!("others on this machine reach {}", shown.join(", ")),
            format!("chmod 600 {}", files.join(" ")),
        );
    }
    match seen {
        0 if !is_root() => Finding::skip(CHECK, "only root may look at them"),
        0 => Finding::skip(CHECK, "there are none yet"),
        _ => Finding::ok(CHECK, format!("{seen} files are their owner's alone")),
    }
}

/// The program's configuration, or what is wrong with its file. `made_by`: the command that makes one.
pub(super) fn config<T: ConfigFile>(places: &Places, made_by: &str) -> Result<(T, Finding), Finding> {
    const CHECK: &str = "config";
    let path = places.config(T::PROGRAM);
    match load::<T>(&path) {
        Ok(loaded) => Ok((loaded.config, Finding::ok(CHECK, format!("{} is valid", path.display())))),
        Err(err) if path.exists() => {
            let fix = format!("correct that line ({} --defaultconfig shows every key)", T::PROGRAM);
            Err(Finding::fail(CHECK, err, fix))
        }
        Err(err) => Err(Finding::fail(CHECK, err, format!("{made_by}, or name the file with --config"))),
    }
}

/// Can the program write there? A folder that is not there yet is made at the first start.
pub(super) fn data_dir(program: &str, folder: &Path) -> Finding {
    const CHECK: &str = "data folder";
    let Some(there) = nearest(folder) else {
        return Finding::fail(CHECK, format!("{} cannot be reached", folder.display()), "correct dataDir");
    };
    let shown = folder.display();
    if !there.is_dir() {
        let text = format!("{} is no folder", there.display());
        return Finding::fail(CHECK, text, "remove that file, or set another dataDir");
    }
    match access(&there, AccessFlags::W_OK) {
        Ok(()) if there == folder => Finding::ok(CHECK, format!("{shown} can be written")),
        Ok(()) => Finding::ok(CHECK, format!("{shown} is made when {program} starts")),
        Err(nix::errno::Errno::EACCES) if !is_root() => {
            Finding::skip(CHECK, format!("{} is root's: only root may write there", there.display()))
        }
        Err(err) => Finding::fail(
            CHECK,
            format!("{} cannot be written: {}", there.display(), err.desc()),
            "mount it for writing, or set another dataDir",
        ),
    }
}

/// The folder, or the one above it that is there.
fn nearest(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|path| path.symlink_metadata().is_ok()).map(Path::to_path_buf)
}

pub(super) fn disk(folder: &Path) -> Finding {
    const CHECK: &str = "disk";
    let Some(there) = nearest(folder) else { return Finding::skip(CHECK, "the folder cannot be reached") };
    match statvfs(&there) {
        Err(err) => Finding::skip(CHECK, format!("{}: {}", there.display(), err.desc())),
        Ok(stat) => {
            let unit = stat.fragment_size();
            let free = stat.blocks_available().saturating_mul(unit);
            judge_disk(folder, free, stat.blocks().saturating_mul(unit))
        }
    }
}

fn judge_disk(folder: &Path, free: u64, size: u64) -> Finding {
    let (shown, mib) = (folder.display(), |bytes: u64| bytes >> 20);
    let text = format!("{} MiB of {} MiB are free below {shown}", mib(free), mib(size));
    let little = free < AMPLE && free.saturating_mul(100) < size.saturating_mul(LEAST_FREE_PERCENT);
    if free < LEAST_FREE || little {
        return Finding::fail(
            "disk",
            text,
            "free some space (unused images: crictl rmi --prune), or set another dataDir",
        );
    }
    Finding::ok("disk", text)
}

/// A certificate and its key: both there, of each other, and good now.
pub(super) struct Pair<'a> {
    pub check: &'static str,
    pub cert: &'a Path,
    /// `None`: kept elsewhere, in a token or offline.
    pub key: Option<&'a Path>,
    pub roots: &'a Path,
    /// What to do when it is missing, broken or over.
    pub fix: String,
}

pub(super) fn pair(pair: &Pair<'_>, now: SystemTime) -> Finding {
    let (check, cert, fix) = (pair.check, pair.cert, &pair.fix);
    let say = |path: &Path, content: Content| match content {
        Content::Text(text) => Ok(text),
        Content::Missing => Err(Finding::fail(check, format!("{} is missing", path.display()), fix)),
        Content::Denied => Err(Finding::skip(check, format!("only root may read {}", path.display()))),
        Content::Bad(why) => {
            Err(Finding::fail(check, format!("cannot read {}: {why}", path.display()), "repair the file"))
        }
    };
    let texts = (|| {
        let cert_pem = say(cert, read(cert))?;
        let key_pem = pair.key.map(|key| say(key, read(key))).transpose()?;
        Ok((cert_pem, key_pem, say(pair.roots, read(pair.roots))?))
    })();
    let (cert_pem, key_pem, roots) = match texts {
        Ok(texts) => texts,
        Err(finding) => return finding,
    };
    let shown = cert.display();
    let Some(facts) = cert_ders_from_pem(&cert_pem).first().and_then(|der| cert_facts(der).ok()) else {
        return Finding::fail(check, format!("{shown} holds no certificate"), fix);
    };
    if let (Some(key_pem), Some(key)) = (key_pem, pair.key) {
        let pair = KeyPair { cert_pem, key_pem };
        // Building a configuration compares key and certificate.
        if let Err(err) = client_tls(&roots, Some(&pair)) {
            let text = format!("{shown} and {} do not go together: {err}", key.display());
            return Finding::fail(check, text, fix);
        }
    }
    let (from, to) = (time(facts.valid.not_before), time(facts.valid.not_after));
    if now < facts.valid.not_before {
        let text = format!("{shown} is good from {from} on: this machine's clock is behind");
        return Finding::fail(check, text, "set the time");
    }
    match facts.valid.not_after.duration_since(now) {
        Err(_) => Finding::fail(check, format!("{shown} ended at {to}"), fix),
        Ok(left) => Finding::ok(check, format!("{shown} is good until {to} ({})", span(left))),
    }
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map_or_else(|_| "?".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// `3 d`, `5 h`, `12 min`, `40 s`.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        secs if secs >= 2 * 86_400 => format!("{} d", secs / 86_400),
        secs if secs >= 2 * 3_600 => format!("{} h", secs / 3_600),
        secs if secs >= 120 => format!("{} min", secs / 60),
        secs => format!("{secs} s"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::app::keadm::finding::Verdict;
    use crate::identity::{Ca, CaSettings};

    #[test]
    fn modes_and_folders() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (a, b) = (dir.path().join("a.key"), dir.path().join("b.key"));
        assert_eq!(modes(std::slice::from_ref(&a)).verdict, Verdict::Skip);
        for (file, mode) in [(&a, 0o600), (&b, 0o640)] {
            fs::write(file, "x").expect("write");
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        assert_eq!(modes(std::slice::from_ref(&a)).verdict, Verdict::Ok);
        let found = modes(&[a.clone(), b.clone()]);
        assert_eq!(found.fix, format!("chmod 600 {}", b.display()));
        assert!(found.text.ends_with("b.key is 0640"), "{found}");
        for (folder, want) in [
            (dir.path().to_owned(), "can be written"),
            (dir.path().join("x/y"), "is made when edgecore starts"),
            (a.join("x"), "a.key is no folder"),
        ] {
            assert!(data_dir("edgecore", &folder).text.ends_with(want), "{}", data_dir("edgecore", &folder));
        }
        assert_ne!(disk(&dir.path().join("none")).verdict, Verdict::Skip);
    }

    #[test]
    fn full_disks() {
        const GIB: u64 = 1 << 30;
        for (free, size, fails) in [
            (10 * GIB, 100 * GIB, false),
            (GIB, 100 * GIB, true),
            (2 * GIB, 500 * GIB, false),
            (100 << 20, GIB, true),
            (300 << 20, 2 * GIB, false),
            (0, 0, true),
        ] {
            assert_eq!(judge_disk(Path::new("/data"), free, size).failed(), fails, "{free} of {size}");
        }
    }

    #[test]
    fn certificates() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = SystemTime::now();
        let file = |name: &str| dir.path().join(name);
        let ca = Ca::open(CaSettings::new(&file("ca.crt"), &file("ca.key")), now).expect("ca");
        let hour = Duration::from_secs(3_600);
        let one = ca.issue_client("edge-1", &[], hour).expect("pair");
        let other = ca.issue_client("edge-1", &[], hour).expect("pair");
        for (name, text) in [
            ("one.crt", &one.cert_pem),
            ("one.key", &one.key_pem),
            ("other.key", &other.key_pem),
            ("odd.crt", &"odd".to_owned()),
        ] {
            fs::write(file(name), text).expect("write");
        }
        let roots = file("ca.crt");
        for (cert, key, at, want) in [
            ("one.crt", Some("one.key"), now, "one.crt is good until "),
            ("one.crt", None, now, "one.crt is good until "),
            ("one.crt", Some("other.key"), now, "do not go together"),
            ("one.crt", Some("none.key"), now, "none.key is missing"),
            ("odd.crt", Some("one.key"), now, "holds no certificate"),
            ("one.crt", Some("one.key"), now + 2 * hour, "one.crt ended at "),
            ("one.crt", Some("one.key"), now - 48 * hour, "this machine's clock is behind"),
        ] {
            let (cert, key) = (file(cert), key.map(file));
            let fix = "join again".to_owned();
            let found = pair(
                &Pair { check: "certificate", cert: &cert, key: key.as_deref(), roots: &roots, fix },
                at,
            );
            assert!(found.text.contains(want), "want {want}, got {found}");
            assert_eq!(found.failed(), !want.ends_with("good until "), "{found}");
        }
        assert_eq!(
            [200_000, 8_000, 130, 5].map(|secs| span(Duration::from_secs(secs))),
            ["2 d", "2 h", "2 min", "5 s"]
        );
    }
}
