//! Writes a set of files so that readers see all of the old or all of the new, as the kubelet does:
//!
//! ```text
//! volume/..2026_11_22_20_40_01.123456789/key     the files, in a folder of their own
//! volume/..data -> ..2026_11_22_20_40_01.123456789
//! volume/key -> ..data/key                       what containers open
//! ```
//! An update writes a new folder and renames a new `..data` over the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::FileMaterial;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Brings the folder `dir` (which exists and is ours) to hold exactly `files`; false when it did
/// already. `group` owns what is written. A crash at any point leaves old or new, and the next
/// call cleans up.
///
/// # Errors
/// The first failing file operation. Paths in `files` are trusted: check them with
/// [`super::material::check_path`].
pub fn write(dir: &Path, files: &BTreeMap<String, FileMaterial>, group: Option<u32>) -> io::Result<bool> {
    let current = current_dir(dir);
    let same = match &current {
        Some(name) => holds(&dir.join(name), files, group)?,
        None => false,
    };
    let live = match current {
        Some(name) if same => name,
        _ => {
            let name = fresh_name();
            let path = dir.join(&name);
            create_dir(&path, group)?;
            for (relative, file) in files {
                write_file(&path, relative, file, group)?;
            }
            let link = dir.join(DATA_NEW);
            remove_if_there(&link)?;
            symlink(&name, &link)?;
            fs::rename(&link, dir.join(DATA))?;
            name
        }
    };
    let tops: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let (link, target) = (dir.join(top), Path::new(DATA).join(top));
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            remove_if_there(&link)?;
            symlink(&target, &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let wanted = *name == *live || *name == *DATA || tops.contains(&*name);
        if wanted {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(!same)
}

/// The folder `..data` points at, if that is one of ours and there.
fn current_dir(dir: &Path) -> Option<String> {
    let target = fs::read_link(dir.join(DATA)).ok()?;
    let name = target.to_str()?;
    let ours = name.starts_with("..") && name != ".." && !name.contains('/');
    (ours && fs::symlink_metadata(dir.join(name)).ok()?.is_dir()).then(|| name.to_owned())
}

/// Does `dir` hold exactly these files, with these modes and owners?
fn holds(dir: &Path, files: &BTreeMap<String, FileMaterial>, group: Option<u32>) -> io::Result<bool> {
    let mut found = 0;
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, meta) = (entry.path(), entry.metadata()?);
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(dir).ok().and_then(Path::to_str);
            let Some(file) = relative.and_then(|relative| files.get(relative)) else { return Ok(false) };
            let owned = file.owner.is_none_or(|owner| owner == meta.uid())
                && group.is_none_or(|group| group == meta.gid());
            let size = u64::try_from(file.data.len()).unwrap_or(u64::MAX);
            let alike = meta.is_file() && owned && meta.mode() & 0o777 == file.mode && meta.len() == size;
            if !alike || fs::read(&path)? != file.data {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == files.len())
}

fn write_file(root: &Path, relative: &str, file: &FileMaterial, group: Option<u32>) -> io::Result<()> {
    let path = root.join(relative);
    let mut folder = root.to_owned();
    let mut parts: Vec<&str> = relative.split('/').collect();
    parts.pop();
    for part in parts {
        folder.push(part);
        if !folder.is_dir() {
            create_dir(&folder, group)?;
        }
    }
    // Closed to others until owner and mode are right.
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    out.write_all(&file.data)?;
    if file.owner.is_some() || group.is_some() {
        chown(&path, file.owner, group)?;
    }
    out.set_permissions(fs::Permissions::from_mode(file.mode))
}

fn create_dir(path: &Path, group: Option<u32>) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    // The umask may have taken bits that users in containers need.
    let mode = if group.is_some() { 0o2775 } else { 0o755 };
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
    }
}

fn fresh_name() -> String {
    let now = jiff::Timestamp::now();
    format!("{}.{:09}", now.strftime("..%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn material(files: &[(&str, &str)]) -> BTreeMap<String, FileMaterial> {
        let file = |text: &str| FileMaterial { data: text.into(), mode: 0o640, owner: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    /// What a container sees: every file that is reachable without knowing of `..` names.
    fn seen(dir: &Path) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap().to_str().unwrap().starts_with("..") {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                    out.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        out
    }

    fn texts(files: &BTreeMap<String, FileMaterial>) -> BTreeMap<String, String> {
        let text = |file: &FileMaterial| String::from_utf8(file.data.clone()).unwrap();
        files.iter().map(|(path, file)| (path.clone(), text(file))).collect()
    }

    #[test]
    fn an_update_swaps_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let first = material(&[("a", "1"), ("d/b", "2"), ("d/c", "3")]);
        assert!(write(dir, &first, None).unwrap());
        assert_eq!(seen(dir), texts(&first));
        assert_eq!(fs::metadata(dir.join("a")).unwrap().mode() & 0o777, 0o640);
        let link = fs::read_link(dir.join(DATA)).unwrap();
        assert!(!write(dir, &first, None).unwrap(), "nothing changed");
        assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), link);

        // A reader that holds the old folder open keeps a whole old set.
        let old = fs::File::open(dir.join("a")).unwrap();
        let second = material(&[("a", "new"), ("e", "4")]);
        assert!(write(dir, &second, None).unwrap());
        assert_eq!(seen(dir), texts(&second));
        assert_eq!(io::read_to_string(old).unwrap(), "1");
        let entries = fs::read_dir(dir).unwrap().count();
        assert_eq!(entries, 4, "one folder, ..data and two links: nothing old stays");
    }

    #[test]
    fn owners_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = material(&[("d/token", "t")]);
        files.get_mut("d/token").unwrap().owner = Some(4711);
        assert!(write(dir.path(), &files, Some(815)).unwrap());
        let meta = fs::metadata(dir.path().join("d/token")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (4711, 815));
        assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o7777, 0o2775);
        assert!(!write(dir.path(), &files, Some(815)).unwrap());
        assert!(write(dir.path(), &files, Some(816)).unwrap(), "the group changed");
    }

    #[test]
    fn leftovers_of_a_crash_are_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let files = material(&[("a", "1"), ("b", "2")]);
        fs::create_dir(dir.join("..2020_01_01_00_00_00.000000000")).unwrap();
        symlink("..nowhere", dir.join(DATA_NEW)).unwrap();
        symlink("/etc", dir.join(DATA)).unwrap();
        fs::write(dir.join("b"), "a file where a link belongs").unwrap();
        assert!(write(dir, &files, None).unwrap());
        assert_eq!(seen(dir), texts(&files));
        fs::write(dir.join("a"), "changed by hand").unwrap();
        fs::remove_file(dir.join("b")).unwrap();
        assert!(write(dir, &files, None).unwrap());
        assert_eq!(seen(dir), texts(&files));
        assert!(Path::new("/etc/passwd").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_sequence_of_sets_shows_the_last(
            sets in prop::collection::vec(
                prop::collection::btree_map("[ab]", "[xy]{0,3}", 0..3), 1..5),
        ) {
            let dir = tempfile::tempdir().unwrap();
            for set in sets {
                let pairs: Vec<(&str, &str)> = set.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                let files = material(&pairs);
                write(dir.path(), &files, None).unwrap();
                prop_assert_eq!(seen(dir.path()), texts(&files));
                prop_assert!(!write(dir.path(), &files, None).unwrap());
            }
        }
    }
}
