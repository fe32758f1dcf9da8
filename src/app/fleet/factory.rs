//! The factory of simulated machines: a CA that cloudcore is told to trust (`identity.factoryCaFile`),
//! and a certificate for each machine, by which it joins as real ones do.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

use crate::app::program::Fatal;
use crate::config::{EdgeHubConfig, EdgeIdentityConfig};
use crate::identity::{KEY_MODE, PUBLIC_MODE, write_atomic};
use crate::model::NodeName;

/// Makes certificates of machines.
pub struct Factory {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

fn named(cn: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cn);
    params
}

impl Factory {
    /// The factory of `folder`; made when there is none yet.
    ///
    /// # Errors
    /// Files that cannot be read or written, named.
    pub fn open(folder: &Path) -> Result<Self, Fatal> {
        let (root, key_file) = (Self::root(folder), folder.join("factory-ca.key"));
        let named_file = |path: &Path, err: &dyn std::fmt::Display| format!("{}: {err}", path.display());
        let read = |path: &Path| fs::read_to_string(path).map_err(|err| named_file(path, &err));
        if !root.exists() {
            let key = KeyPair::generate()?;
            let mut params = named("edge-fleet factory");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            // The certificate last: where it is, the key is.
            write_atomic(&key_file, key.serialize_pem().as_bytes(), KEY_MODE)?;
            write_atomic(&root, params.self_signed(&key)?.pem().as_bytes(), PUBLIC_MODE)?;
        }
        let key = KeyPair::from_pem(&read(&key_file)?).map_err(|err| named_file(&key_file, &err))?;
        let issuer = Issuer::from_ca_cert_pem(&read(&root)?, key).map_err(|err| named_file(&root, &err))?;
        Ok(Self { folder: folder.to_owned(), issuer })
    }

    /// What cloudcore's `identity.factoryCaFile` must name.
    #[must_use]
    pub fn root(folder: &Path) -> PathBuf {
        folder.join("factory-ca.crt")
    }

    /// Puts everything in place with which `node` joins: its factory certificate and the roots of its
    /// cloud. What it got from the cloud before stays.
    ///
    /// # Errors
    /// Files that cannot be written, named.
    pub fn equip(
        &self,
        node: &NodeName,
        cloud_roots: &str,
        hub: &mut EdgeHubConfig,
    ) -> Result<EdgeIdentityConfig, Fatal> {
        let folder = self.folder.join(node.as_str());
        hub.tls_ca_file = folder.join("rootCA.crt");
        hub.tls_cert_file = folder.join("server.crt");
        hub.tls_private_key_file = folder.join("server.key");
        hub.bootstrap_file = folder.join("no-token");
        let identity = EdgeIdentityConfig {
            factory_cert_file: folder.join("factory.crt"),
            factory_key_file: folder.join("factory.key"),
            ..EdgeIdentityConfig::default()
        };
        if !identity.factory_cert_file.exists() {
            let key = KeyPair::generate()?;
            let certificate = named(node.as_str()).signed_by(&key, &self.issuer)?;
            write_atomic(&identity.factory_key_file, key.serialize_pem().as_bytes(), KEY_MODE)?;
            write_atomic(&identity.factory_cert_file, certificate.pem().as_bytes(), PUBLIC_MODE)?;
        }
        if !hub.tls_ca_file.exists() {
            write_atomic(&hub.tls_ca_file, cloud_roots.as_bytes(), PUBLIC_MODE)?;
        }
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::identity::{FactoryRoots, cert_ders_from_pem};

    #[test]
    fn its_machines_are_known_by_its_root_and_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeName::parse("hollow-1").unwrap();
        let mut pems = Vec::new();
        for _ in 0..2 {
            let factory = Factory::open(dir.path()).unwrap();
            let mut hub = EdgeHubConfig::default();
            let identity = factory.equip(&node, "roots", &mut hub).unwrap();
            pems.push(fs::read_to_string(&identity.factory_cert_file).unwrap());
            assert_eq!(fs::read_to_string(&hub.tls_ca_file).unwrap(), "roots");
        }
        assert_eq!(pems[0], pems[1], "kept for a second run");
        let roots = FactoryRoots::load(&Factory::root(dir.path())).unwrap();
        assert_eq!(roots.node_of(&cert_ders_from_pem(&pems[0]), SystemTime::now()).unwrap(), node);
    }
}
