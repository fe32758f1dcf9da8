//! Reads the folder of static pods, off the arbiter.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::gate::files::FileText;

/// Largest file, bytes; the API takes no larger object either.
const MAX_FILE: u64 = 1 << 20;
/// Files that are looked at, in order of their names.
const MAX_FILES: usize = 128;

/// The files by name, or why the folder cannot be read.
pub type Folder = Result<BTreeMap<String, FileText>, String>;

/// Reads every regular file whose name begins with no dot. No folder means no files, and so does an
/// empty path.
pub async fn read_folder(folder: PathBuf) -> Folder {
    if folder.as_os_str().is_empty() {
        return Ok(BTreeMap::new());
    }
    let reading = tokio::task::spawn_blocking(move || read_all(&folder));
    reading.await.unwrap_or_else(|err| Err(err.to_string()))
}

fn read_all(folder: &Path) -> Folder {
    let named = |err: std::io::Error| format!("{}: {err}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(err) => return Err(named(err)),
    };
    let mut paths = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(named)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if !name.starts_with('.') && path.is_file() {
            paths.insert(name, path);
        }
    }
    if paths.len() > MAX_FILES {
        tracing::warn!(folder = %folder.display(), files = paths.len(), most = MAX_FILES, "too many static pods");
    }
    Ok(paths.into_iter().take(MAX_FILES).map(|(name, path)| (name, read(&path))).collect())
}

fn read(path: &Path) -> FileText {
    let mut text = String::new();
    let file = File::open(path).map_err(|err| err.to_string())?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|err| err.to_string())?;
    if text.len() as u64 > MAX_FILE { Err(format!("it is larger than {MAX_FILE} bytes")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn folders() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path();
        fs::write(path.join("a.yaml"), "a").expect("write");
        fs::write(path.join(".hidden"), "b").expect("write");
        fs::write(path.join("bytes"), [0xff]).expect("write");
        fs::write(path.join("large"), vec![b' '; usize::try_from(MAX_FILE).expect("small") + 1])
            .expect("write");
        fs::create_dir(path.join("sub")).expect("folder");
        let files = read_folder(path.to_owned()).await.expect("files");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.yaml", "bytes", "large"]);
        assert_eq!(files["a.yaml"], Ok("a".to_owned()));
        assert!(files["bytes"].is_err() && files["large"].as_ref().is_err_and(|err| err.contains("larger")));
        assert_eq!(read_folder(path.join("none")).await, Ok(BTreeMap::new()));
        assert_eq!(read_folder(PathBuf::new()).await, Ok(BTreeMap::new()));
        assert!(read_folder(path.join("a.yaml")).await.is_err(), "no folder");
    }
}
