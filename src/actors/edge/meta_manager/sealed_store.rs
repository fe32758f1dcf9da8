//! Secrets at rest: a store whose rows of Secrets and service-account tokens are encrypted, so that
//! a stolen disk without the key file gives none of them away. To everybody above it is a store like
//! any other.
//!
//! Rows are encrypted with a data key. That key lies in the store itself, encrypted with the key of
//! the file; a store that was used with several files holds it once for each. Rows are bound to
//! their place: one copied to another key does not decrypt. Rows written before there was encryption
//! are rewritten at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::objects::{self, parse_key};
use super::tokens;
use crate::identity::{IdentityError, VAULT_KEY_BYTES, Vault, VaultError, sha256_hex};
use crate::store::{Batch, Op, Row, Store, StoreError, Table, scan_all};

/// Key prefix of the wrapped data keys in [`Table::Local`]; the rest names the file's key.
const KEYS: &str = "secrets/key/";
/// Kinds whose objects are secret as a whole.
const SECRET_KINDS: [&str; 2] = ["secret", "serviceaccounttoken"];

/// How secrets are kept.
#[derive(Debug, Clone)]
pub struct SecretSettings {
    /// Holds the key that everything hangs on, 0600. Created when it is missing.
    pub key_file: PathBuf,
    /// Off: what is written from now on is plain, what was encrypted is written anew.
    pub encrypt: bool,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error(transparent)]
    Key(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("secrets cannot be encrypted: {0}")]
    Vault(#[from] VaultError),
}

/// The store that encrypts.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    /// `None` when nothing is to be encrypted and there is no key.
    vault: Option<Vault>,
    encrypt: bool,
}

/// What opening found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Rows rewritten, encrypted or plain.
    pub rewritten: usize,
    /// Encrypted rows that no key here opens.
    pub unreadable: usize,
}

impl SealedStore {
    /// Opens `inner`, rewriting what is not as it should be. Encrypted rows whose key is gone count
    /// as absent, with one error in the log that names the file: the cloud sends them again.
    ///
    /// # Errors
    /// [`SecretsError`]: the key file cannot be read or written or is none; the store refuses.
    pub fn open(inner: Arc<dyn Store>, settings: &SecretSettings) -> Result<(Self, Found), SecretsError> {
        let vault = match settings.encrypt || settings.key_file.exists() {
            true => Some(data_vault(&*inner, &settings.key_file)?),
            false => None,
        };
        let store = Self { inner, vault, encrypt: settings.encrypt };
        let found = store.bring_up_to_date()?;
        if found.unreadable > 0 {
            tracing::error!(
                file = %settings.key_file.display(),
                rows = found.unreadable,
                "stored secrets were encrypted with another key than this file's: they are fetched from the \
                 cloud again, or bring the right file back and restart"
            );
        }
        if found.rewritten > 0 {
            tracing::info!(
                rows = found.rewritten,
                encrypted = settings.encrypt,
                "stored secrets were rewritten"
            );
        }
        Ok((store, found))
    }

    fn bring_up_to_date(&self) -> Result<Found, SecretsError> {
        let mut found = Found::default();
        for prefix in [objects::PREFIX, tokens::PREFIX] {
            let mut failed = None;
            scan_all(&*self.inner, Table::Objects, prefix, |rows| {
                let rewritten = rows.iter().filter(|(key, _)| is_secret(Table::Objects, key)).try_fold(
                    Batch::new(),
                    |batch, (key, value)| {
                        Ok::<_, VaultError>(match self.rewritten(key, value)? {
                            Rewrite::Fine => batch,
                            Rewrite::Unreadable => {
                                found.unreadable += 1;
                                batch
                            }
                            Rewrite::To(value) => batch.put(Table::Objects, key.as_slice(), value),
                        })
                    },
                );
                let written = rewritten.map_err(SecretsError::from).and_then(|batch| {
                    found.rewritten += batch.ops().len();
                    if batch.is_empty() { Ok(()) } else { Ok(self.inner.write(&[batch])?) }
                });
                failed = failed.take().or(written.err());
            })?;
            if let Some(err) = failed {
                return Err(err);
            }
        }
        if found.rewritten > 0 && self.encrypt {
            self.inner.scrub(Table::Objects)?;
        }
        Ok(found)
    }

    fn rewritten(&self, key: &[u8], value: &[u8]) -> Result<Rewrite, VaultError> {
        let plain = match (&self.vault, Vault::is_encrypted(value)) {
            (_, false) => None,
            (Some(vault), true) => match vault.decrypt(value, key) {
                Ok(plain) => Some(plain),
                Err(_) => return Ok(Rewrite::Unreadable),
            },
            (None, true) => return Ok(Rewrite::Unreadable),
        };
        Ok(match (&self.vault, plain) {
            (Some(vault), None) if self.encrypt => Rewrite::To(vault.encrypt(value, key)?),
            (_, Some(plain)) if !self.encrypt => Rewrite::To(plain),
            _ => Rewrite::Fine,
        })
    }

    /// The value as its owner wrote it; `None` when it cannot be decrypted.
    fn plain(&self, table: Table, key: &[u8], value: Vec<u8>) -> Option<Vec<u8>> {
        if !Vault::is_encrypted(&value) || !is_secret(table, key) {
            return Some(value);
        }
        self.vault.as_ref()?.decrypt(&value, key).ok()
    }

    fn sealed(&self, batch: &Batch) -> Result<Batch, VaultError> {
        let Some(vault) = &self.vault else { return Ok(batch.clone()) };
        batch.ops().iter().try_fold(Batch::new(), |out, op| {
            Ok(match op {
                Op::Put { table, key, value } if is_secret(*table, key) => {
                    out.put(*table, key.as_slice(), vault.encrypt(value, key)?)
                }
                Op::Put { table, key, value } => out.put(*table, key.as_slice(), value.as_slice()),
                Op::Delete { table, key } => out.delete(*table, key.as_slice()),
            })
        })
    }
}

enum Rewrite {
    Fine,
    To(Vec<u8>),
    Unreadable,
}

fn is_secret(table: Table, key: &[u8]) -> bool {
    if table != Table::Objects {
        return false;
    }
    key.starts_with(tokens::PREFIX.as_bytes())
        || (key.starts_with(objects::PREFIX.as_bytes())
            && parse_key(key).is_some_and(|key| SECRET_KINDS.contains(&key.kind.as_str())))
}

/// The vault with this store's data key. A file that has none here gets a fresh one.
fn data_vault(store: &dyn Store, key_file: &Path) -> Result<Vault, SecretsError> {
    let file_key = Vault::key_file(key_file)?;
    let name: String = sha256_hex(&file_key).chars().take(16).collect();
    let row = format!("{KEYS}{name}");
    let wrapping = Vault::open(file_key)?;
    if let Some(wrapped) = store.get(Table::Local, row.as_bytes())? {
        let key = wrapping.decrypt(&wrapped, row.as_bytes()).ok();
        match key.and_then(|key| <[u8; VAULT_KEY_BYTES]>::try_from(key.as_slice()).ok()) {
            Some(key) => return Ok(Vault::open(key)?),
            None => tracing::error!(row, "the stored data key is damaged, a new one is made"),
        }
    }
    let key = Vault::new_key()?;
    let wrapped = wrapping.encrypt(&key, row.as_bytes())?;
    store.write(&[Batch::new().put(Table::Local, row.as_str(), wrapped)])?;
    Ok(Vault::open(key)?)
}

impl Store for SealedStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner.get(table, key)?.and_then(|value| self.plain(table, key, value)))
    }

    /// Rows that cannot be decrypted stay in the page as they are: readers know rows that are no
    /// JSON, and a page must not seem to be the last one.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let mut rows = self.inner.scan(table, prefix, after, limit)?;
        for (key, value) in &mut rows {
            if Vault::is_encrypted(value)
                && let Some(plain) = self.plain(table, key, value.clone())
            {
                *value = plain;
            }
        }
        Ok(rows)
    }

    fn write(&self, batches: &[Batch]) -> Result<(), StoreError> {
        let secret = |op: &Op| matches!(op, Op::Put { table, key, .. } if is_secret(*table, key));
        if !self.encrypt || !batches.iter().flat_map(Batch::ops).any(secret) {
            return self.inner.write(batches);
        }
        let sealed: Result<Vec<Batch>, VaultError> = batches.iter().map(|batch| self.sealed(batch)).collect();
        let sealed = sealed.map_err(|err| StoreError::Io {
            op: "encrypt a row of",
            path: PathBuf::new(),
            why: err.to_string().into(),
        })?;
        self.inner.write(&sealed)
    }

    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn scrub(&self, table: Table) -> Result<(), StoreError> {
        self.inner.scrub(table)
    }
}

#[cfg(test)]
mod tests;
