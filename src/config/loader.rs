//! From a file and `--set` options to a checked structure (design D11): a wrong type, an unknown key
//! or a value out of range is an error with its path and line, a KubeEdge key we do not support a
//! warning.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use yaml_serde::{Mapping, Value};

use super::invalid::Invalid;
use super::place::line_of;
use super::spelling::nearest;

/// Largest file read, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A program's whole config file.
pub trait ConfigFile: Default + Serialize + DeserializeOwned {
    const API_VERSION: &'static str;
    const KIND: &'static str;
    /// `cloudcore` or `edgecore`.
    const PROGRAM: &'static str;
    /// What the program is, for `--help`.
    const ABOUT: &'static str;
    /// The shipped file: every key, its default, a comment.
    const DEFAULTS: &'static str;
    /// KubeEdge's keys that are accepted with a warning, as dotted paths.
    const FOREIGN_KEYS: &'static [&'static str];
    /// Maps whose keys are the user's own, as dotted paths.
    const FREE_MAPS: &'static [&'static str];

    /// # Errors
    /// The first key whose value is out of range.
    fn validate(&self) -> Result<(), Invalid>;

    /// A short file that works on this host.
    fn minimal(host: &Host) -> String;
}

/// What `--minconfig` must know of the machine.
#[derive(Debug, Clone)]
pub struct Host {
    /// A valid node name.
    pub name: String,
    /// The address other machines reach it at.
    pub address: std::net::IpAddr,
}

/// A checked file, and what the user should know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded<T> {
    pub config: T,
    /// One line each, naming the key.
    pub warnings: Vec<String>,
}

/// Why a file is not used. `Display` is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} does not exist: keadm writes it, and {program} --minconfig prints a short one", path.display())]
    Missing { path: PathBuf, program: &'static str },
    /// What a power cut leaves of a file that was being written: all defaults are not what its owner wants.
    #[error(
        "{} is empty: put it back, or begin anew with what {program} --minconfig prints",
        path.display()
    )]
    Empty { path: PathBuf, program: &'static str },
    #[error("cannot read {}: {why}", path.display())]
    Read { path: PathBuf, why: String },
    #[error("{place}: {why}")]
    Syntax { place: Place, why: String },
    #[error("{place}: {key}: {why}")]
    Key { place: Place, key: String, why: String },
}

/// `cloudcore.yaml, line 12`, or `--set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    /// From 1.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

/// Loads a file over the defaults.
///
/// # Errors
/// [`ConfigError`], naming file, line and key.
pub fn load<T: ConfigFile>(path: &Path) -> Result<Loaded<T>, ConfigError> {
    load_with(path, &[])
}

/// Loads a file, then applies `key.path=value` options.
///
/// # Errors
/// [`ConfigError`], naming file, line and key.
pub fn load_with<T: ConfigFile>(path: &Path, sets: &[String]) -> Result<Loaded<T>, ConfigError> {
    let fail = |why: String| ConfigError::Read { path: path.into(), why };
    let meta = std::fs::metadata(path).map_err(|err| match err.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing { path: path.into(), program: T::PROGRAM },
        _ => fail(err.to_string()),
    })?;
    if meta.len() > MAX_FILE_BYTES {
        return Err(fail("it is larger than 1 MiB".into()));
    }
    // A device or a pipe tells no size: what is read is bounded too.
    let mut text = String::new();
    let mut file = std::fs::File::open(path).map_err(|err| fail(err.to_string()))?.take(MAX_FILE_BYTES + 1);
    file.read_to_string(&mut text).map_err(|err| fail(err.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(fail("it is larger than 1 MiB".into()));
    }
    // Of a device it is meant.
    if meta.is_file() && text.chars().all(|c| c.is_whitespace() || c == '\0') {
        return Err(ConfigError::Empty { path: path.into(), program: T::PROGRAM });
    }
    parse(&text, &path.display().to_string(), sets)
}

/// Checks a text as if it were the file `file`, then applies `key.path=value` options.
///
/// # Errors
/// [`ConfigError`], naming file, line and key.
pub fn parse<T: ConfigFile>(text: &str, file: &str, sets: &[String]) -> Result<Loaded<T>, ConfigError> {
    let mut reader = Reader::<T>::new(text, file)?;
    let mut tree = reader.tree()?;
    reader.check_kind(&tree)?;
    let schema = reader.schema.clone();
    reader.sweep(&mut tree, &schema, "")?;
    for set in sets {
        reader.apply_set(&mut tree, set)?;
    }
    let config: T = serde_path_to_error::deserialize(Value::Mapping(tree)).map_err(|err| {
        let key = err.path().to_string();
        let why = err.into_inner().to_string();
        reader.wrong(&key, in_words(why))
    })?;
    config.validate().map_err(|invalid| reader.wrong(&invalid.key, invalid.why))?;
    Ok(Loaded { config, warnings: reader.warnings })
}

struct Reader<'t, T> {
    text: &'t str,
    file: &'t str,
    /// The defaults as a tree: which keys there are and of what type.
    schema: Mapping,
    warnings: Vec<String>,
    /// Keys that came from `--set`: they have no line.
    set_keys: Vec<String>,
    program: std::marker::PhantomData<T>,
}

impl<'t, T: ConfigFile> Reader<'t, T> {
    fn new(text: &'t str, file: &'t str) -> Result<Self, ConfigError> {
        let place = Place { file: file.to_owned(), line: None };
        let schema = match yaml_serde::to_value(T::default()) {
            Ok(Value::Mapping(schema)) => schema,
            _ => return Err(ConfigError::Syntax { place, why: "the defaults are no mapping".into() }),
        };
        let program = std::marker::PhantomData;
        Ok(Self { text, file, schema, warnings: Vec::new(), set_keys: Vec::new(), program })
    }

    fn tree(&self) -> Result<Mapping, ConfigError> {
        let fail =
            |line, why: String| ConfigError::Syntax { place: Place { file: self.file.into(), line }, why };
        match yaml_serde::from_str::<Value>(self.text) {
            Ok(Value::Mapping(tree)) => Ok(tree),
            Ok(Value::Null) => Ok(Mapping::new()),
            Ok(_) => Err(fail(Some(1), "the file must hold keys and values".into())),
            Err(err) => Err(fail(err.location().map(|at| at.line()), err.to_string())),
        }
    }

    /// `apiVersion` and `kind` may be absent; when there, they are this program's.
    fn check_kind(&self, tree: &Mapping) -> Result<(), ConfigError> {
        for (key, want) in [("apiVersion", T::API_VERSION), ("kind", T::KIND)] {
            match tree.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::String(found)) if found == want => {}
                Some(found) => {
                    let found = found.as_str().map_or_else(|| "no text".into(), |text| format!("{text:?}"));
                    let why = format!("want {want:?} for {}, the file has {found}", T::PROGRAM);
                    return Err(self.wrong(key, why));
                }
            }
        }
        Ok(())
    }

    /// Takes out what stands for nothing (nulls) and what is not ours (foreign keys), and refuses
    /// what nobody knows.
    fn sweep(&mut self, tree: &mut Mapping, schema: &Mapping, above: &str) -> Result<(), ConfigError> {
        let mut drop = Vec::new();
        for (key, value) in tree.iter_mut() {
            let Some(name) = key.as_str() else {
                let section = if above.is_empty() { "the file" } else { above };
                return Err(self.wrong(section, "a key here is not a text".into()));
            };
            let path = join(above, name);
            match (schema.get(name), value) {
                (None, _) => {
                    self.foreign(&path, schema)?;
                    drop.push(key.clone());
                }
                (Some(_), Value::Null) => drop.push(key.clone()),
                (Some(_), _) if T::FREE_MAPS.contains(&path.as_str()) => {}
                (Some(Value::Mapping(schema)), Value::Mapping(below)) => self.sweep(below, schema, &path)?,
                (Some(Value::Mapping(_)), _) => {
                    return Err(self.wrong(&path, "it is a section: its keys go below it".into()));
                }
                (Some(_), _) => {}
            }
        }
        for key in drop {
            tree.remove(&key);
        }
        Ok(())
    }

    /// Warns about one of KubeEdge's keys, refuses any other.
    fn foreign(&mut self, path: &str, siblings: &Mapping) -> Result<(), ConfigError> {
        if T::FOREIGN_KEYS.contains(&path) {
            let place = self.place(path);
            self.warnings.push(format!("{path} is a key of KubeEdge that has no effect here ({place})"));
            return Ok(());
        }
        let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
        let ours = siblings.keys().filter_map(Value::as_str);
        let foreign = T::FOREIGN_KEYS.iter().filter_map(|key| {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            (section == above).then_some(name)
        });
        let hint = nearest(name, ours.chain(foreign)).map(|near| format!(", did you mean {near}?"));
        Err(self.wrong(path, format!("unknown key{}", hint.unwrap_or_default())))
    }

    fn apply_set(&mut self, tree: &mut Mapping, set: &str) -> Result<(), ConfigError> {
        let Some((path, raw)) = set.split_once('=') else {
            let place = Place { file: "--set".into(), line: None };
            return Err(ConfigError::Syntax { place, why: format!("{set:?} is not key.path=value") });
        };
        self.set_keys.push(path.to_owned());
        let (mut above, mut rest, mut level) = (String::new(), path, self.schema.clone());
        let mut target = tree;
        loop {
            let (name, below) = match rest.split_once('.') {
                Some((name, below)) => (name, Some(below)),
                None => (rest, None),
            };
            let here = join(&above, name);
            match (level.get(name).cloned(), below) {
                (None, _) => return self.foreign(&here, &level),
                (Some(Value::Mapping(schema)), Some(below)) => {
                    let slot = target.entry(name.into()).or_insert_with(|| Value::Mapping(Mapping::new()));
                    let Value::Mapping(next) = slot else {
                        return Err(self.wrong(&here, "it is a section: its keys go below it".into()));
                    };
                    if T::FREE_MAPS.contains(&here.as_str()) {
                        next.insert(below.into(), raw.into());
                        return Ok(());
                    }
                    (target, above, rest, level) = (next, here, below, schema);
                }
                (Some(Value::Mapping(_)), None) => {
                    return Err(self.wrong(path, "it is a section: name a key below it".into()));
                }
                (Some(_), Some(_)) => return Err(self.wrong(path, format!("{here} has no keys below it"))),
                (Some(kind), None) => {
                    target.insert(name.into(), set_value(&kind, raw));
                    return Ok(());
                }
            }
        }
    }

    fn wrong(&self, key: &str, why: String) -> ConfigError {
        ConfigError::Key { place: self.place(key), key: key.to_owned(), why }
    }

    fn place(&self, key: &str) -> Place {
        let plain = key.split('[').next().unwrap_or(key);
        if self.set_keys.iter().any(|set| set == plain || set.starts_with(&format!("{plain}."))) {
            return Place { file: "--set".into(), line: None };
        }
        let path: Vec<&str> = plain.split('.').collect();
        Place { file: self.file.to_owned(), line: line_of(self.text, &path) }
    }
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") }
}

/// `expected u16` says little to who does not write Rust.
fn in_words(why: String) -> String {
    let numbers = [
        ("u8", "a whole number from 0 to 255"),
        ("u16", "a whole number from 0 to 65535"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("u64", "a whole number, 0 or more"),
        ("a boolean", "true or false"),
    ];
    let Some((before, kind)) = why.rsplit_once(", expected ") else { return why };
    match numbers.iter().find(|(rust, _)| *rust == kind) {
        Some((_, words)) => format!("{before}, expected {words}"),
        None => why,
    }
}

/// The text after `=` as a value of the type the key has.
fn set_value(kind: &Value, raw: &str) -> Value {
    match kind {
        Value::String(_) => raw.into(),
        Value::Sequence(_) => match yaml_serde::from_str(raw) {
            Ok(Value::Sequence(list)) => Value::Sequence(list),
            _ => raw.split(',').map(str::trim).filter(|one| !one.is_empty()).map(Value::from).collect(),
        },
        _ => yaml_serde::from_str(raw).unwrap_or_else(|_| raw.into()),
    }
}

#[cfg(test)]
mod tests;
