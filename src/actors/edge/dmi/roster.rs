//! Which mappers registered: as rows of the store, and what a registration must say. Pure.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::{Batch, Row, Table};
use crate::wire::dmi::MapperInfo;

/// Prefix of Dmi's rows: one for each protocol.
pub const PREFIX: &str = "dmi/mapper/";

const MAX_NAME_BYTES: usize = 253;
/// The path of a unix socket cannot be longer (unix(7)).
const MAX_PATH_BYTES: usize = 107;

/// A mapper as it registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapper {
    pub name: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub api_version: String,
    pub protocol: String,
    /// Socket it serves on.
    pub address: PathBuf,
}

impl Mapper {
    /// Checks a registration.
    ///
    /// # Errors
    /// Names the field that is missing or too long.
    pub fn from_info(info: MapperInfo) -> Result<Self, String> {
        let MapperInfo { name, version, api_version, protocol, address, state: _ } = info;
        if protocol.is_empty() {
            return Err("mapper.protocol: is missing".to_owned());
        }
        for (field, text) in [("name", &name), ("protocol", &protocol), ("version", &version)] {
            if text.len() > MAX_NAME_BYTES {
                return Err(format!("mapper.{field}: longer than {MAX_NAME_BYTES} bytes"));
            }
        }
        let address = String::from_utf8(address).map_err(|_| "mapper.address: not UTF-8".to_owned())?;
        let path = address.strip_prefix("unix:").unwrap_or(&address);
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(format!("mapper.address: longer than {MAX_PATH_BYTES} bytes"));
        }
        if !path.is_absolute() {
            return Err(format!("mapper.address: {address:?} is no absolute path of a unix socket"));
        }
        Ok(Self { name, version, api_version, protocol, address: path })
    }

    /// The write that remembers it; replaces the protocol's earlier one.
    pub fn stored(&self) -> Batch {
        let value = serde_json::to_vec(self).unwrap_or_default();
        Batch::new().put(Table::Objects, key(&self.protocol), value)
    }

    /// Reads a row back; `None` if it is unreadable.
    pub fn from_row((_, value): &Row) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// Where the mapper of a protocol is remembered.
#[must_use]
pub fn key(protocol: &str) -> String {
    format!("{PREFIX}{protocol}")
}

/// The socket of `dmiSockPath`: a path that ends in `.sock` names its folder (protocol section 8).
#[must_use]
pub fn socket_path(configured: &Path) -> PathBuf {
    let folder = match configured.extension() {
        Some(extension) if extension == "sock" => configured.parent().unwrap_or(configured),
        _ => configured,
    };
    folder.join("dmi.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> MapperInfo {
        MapperInfo {
            name: "modbus-mapper".into(),
            version: "v1".into(),
            api_version: "v1beta1".into(),
            protocol: "modbus".into(),
            address: b"/run/modbus.sock".to_vec(),
            state: "OK".into(),
        }
    }

    #[test]
    fn a_registration_needs_a_protocol_and_a_socket() {
        type Change = fn(&mut MapperInfo);
        let cases: [(Change, &str); 5] = [
            (
                |info| info.address = format!("/{}", "a".repeat(107)).into_bytes(),
                "mapper.address: longer than 107 bytes",
            ),
            (|info| info.protocol.clear(), "mapper.protocol: is missing"),
            (|info| info.address = vec![0xff], "mapper.address: not UTF-8"),
            (|info| info.address = b"m.sock".to_vec(), "mapper.address: \"m.sock\" is no absolute path"),
            (|info| info.name = "n".repeat(254), "mapper.name: longer than 253 bytes"),
        ];
        for (change, want) in cases {
            let mut info = info();
            change(&mut info);
            let err = Mapper::from_info(info).unwrap_err();
            assert!(err.starts_with(want), "{err}");
        }
        let url = MapperInfo { address: b"unix:///run/modbus.sock".to_vec(), ..info() };
        assert_eq!(Mapper::from_info(url), Mapper::from_info(info()));
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let mapper = Mapper::from_info(info()).unwrap();
        let batch = mapper.stored();
        let [crate::store::Op::Put { table: Table::Objects, key, value }] = batch.ops() else {
            panic!("{batch:?}")
        };
        assert_eq!(key, b"dmi/mapper/modbus");
        assert_eq!(Mapper::from_row(&(key.clone(), value.clone())), Some(mapper));
        assert_eq!(Mapper::from_row(&(key.clone(), b"{".to_vec())), None);
    }

    #[test]
    fn a_path_that_ends_in_sock_names_its_folder() {
        for (configured, want) in [
            ("/etc/kubeedge", "/etc/kubeedge/dmi.sock"),
            ("/etc/kubeedge/", "/etc/kubeedge/dmi.sock"),
            ("/etc/kubeedge/dmi.sock", "/etc/kubeedge/dmi.sock"),
            ("/run/other.sock", "/run/dmi.sock"),
        ] {
            assert_eq!(socket_path(Path::new(configured)), PathBuf::from(want), "{configured}");
        }
    }
}
