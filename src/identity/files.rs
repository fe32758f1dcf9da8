//! Files that survive a power cut: the old content or the new, never half of it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::IdentityError;

/// Mode of files that hold a key or a token.
pub const KEY_MODE: u32 = 0o600;
/// Mode of certificates.
pub const PUBLIC_MODE: u32 = 0o644;
/// Keys and certificates are a few kilobytes; anything larger is another file.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Writes a file so that a crash leaves the old or the new one, with these permissions
/// (0o600 for keys), creating its folder.
///
/// # Errors
/// [`IdentityError::File`] naming the file and the step that failed; the old file is then untouched.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    #[cfg(test)]
    power::check(path)?;
    let fail = |op, err: std::io::Error| IdentityError::File { op, path: path.into(), why: err.to_string() };
    let Some(name) = path.file_name() else {
        return Err(IdentityError::File { op: "write", path: path.into(), why: "it names no file".into() });
    };
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(|err| fail("create the folder of", err))?;
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{:08x}.tmp", fastrand::u32(..)));
    let temporary = Temporary(folder.join(temporary_name));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary.0)
        .map_err(|err| fail("create a temporary file for", err))?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(|err| fail("set the permissions of", err))?;
    give_to_owner_of(folder, &file).map_err(|err| fail("set the owner of", err))?;
    file.write_all(content).map_err(|err| fail("write", err))?;
    file.sync_all().map_err(|err| fail("sync", err))?;
    fs::rename(&temporary.0, path).map_err(|err| fail("replace", err))?;
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(|err| fail("sync the folder of", err))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What root puts into somebody's folder becomes theirs: keadm run by root and a cloudcore that runs
/// as a user of its own change the same files.
pub(super) fn give_to_owner_of(folder: &Path, file: &File) -> std::io::Result<()> {
    let (folder, ours) = (fs::metadata(folder)?, file.metadata()?);
    if ours.uid() == 0 && folder.uid() != 0 {
        fchown(file, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

/// Makes renames and removals in a file's folder last.
pub(super) fn sync_folder(path: &Path) -> Result<(), IdentityError> {
    File::open(folder_of(path)).and_then(|dir| dir.sync_all()).map_err(|err| IdentityError::File {
        op: "sync the folder of",
        path: path.into(),
        why: err.to_string(),
    })
}

/// Removes the temporary file of a write that failed; after the rename there is nothing to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_file(&self.0)
            && err.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %err, "temporary file left behind");
        }
    }
}

/// Reads a small file; `None` when it does not exist.
pub(super) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let fail = |why: String| IdentityError::File { op: "read", path: path.into(), why };
    match fs::metadata(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(fail(err.to_string())),
        Ok(meta) if meta.len() > MAX_FILE_BYTES => return Err(fail("it is larger than 256 KiB".into())),
        Ok(_) => {}
    }
    fs::read(path).map(Some).map_err(|err| fail(err.to_string()))
}

/// Ends the power after so many changes on disk, so that tests can look at every state between.
#[cfg(test)]
pub(super) mod power {
    use std::cell::Cell;
    use std::path::Path;

    use super::IdentityError;

    thread_local! { static LEFT: Cell<Option<u32>> = const { Cell::new(None) } }

    pub fn cut_after(changes: Option<u32>) {
        LEFT.set(changes);
    }

    pub fn check(path: &Path) -> Result<(), IdentityError> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(IdentityError::File { op: "write", path: path.into(), why: "power cut".into() }),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
    }

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a/b/key");
        write_atomic(&path, b"one", PUBLIC_MODE).expect("first");
        assert_eq!(mode(&path), 0o644);
        write_atomic(&path, b"two", KEY_MODE).expect("second");
        assert_eq!((fs::read(&path).expect("read"), mode(&path)), (b"two".to_vec(), 0o600));
        let names: Vec<_> = fs::read_dir(dir.path().join("a/b")).expect("list").collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_folder() {
        let dir = tempfile::tempdir().expect("temp dir");
        // Only root can make somebody else's folder.
        let own = nix::unistd::geteuid();
        let owners = if own.is_root() { vec![0, 4321] } else { vec![own.as_raw()] };
        for owner in owners {
            let folder = dir.path().join(owner.to_string());
            fs::create_dir(&folder).expect("folder");
            std::os::unix::fs::chown(&folder, Some(owner), None).expect("chown");
            let path = folder.join("key");
            write_atomic(&path, b"one", KEY_MODE).expect("write");
            let meta = fs::metadata(&path).expect("metadata");
            assert_eq!((meta.uid(), mode(&path)), (owner, 0o600));
        }
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().expect("temp dir");
        let target = dir.path().join("folder");
        fs::create_dir(&target).expect("folder in the way");
        let err = write_atomic(&target, b"x", KEY_MODE).expect_err("a folder cannot be replaced");
        assert!(err.to_string().contains(&target.display().to_string()), "{err}");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
        let err = write_atomic(&dir.path().join("folder/../.."), b"x", KEY_MODE).expect_err("no file name");
        assert!(err.to_string().contains("names no file"), "{err}");
    }

    #[test]
    fn reading_tells_missing_from_huge() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert!(read_small(&dir.path().join("none")).expect("missing is no error").is_none());
        let huge = dir.path().join("huge");
        fs::write(&huge, vec![0; 300 * 1024]).expect("write");
        assert!(read_small(&huge).expect_err("too large").to_string().contains("256 KiB"));
    }
}
