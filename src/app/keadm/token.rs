//! `keadm gettoken`, `keadm token list`, `keadm token revoke`.
//!
//! Tokens are minted from the key files of the cloud's machine, no running cloudcore needed. Ids and
//! expiry of what was minted here are noted beside the key, so that they can be listed; the tokens
//! themselves are stored nowhere.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::node::name;
use super::places::Places;
use super::records::shown;
use super::revocation::Fates;
use super::{Refusal, revocation};
use crate::config::{CloudCoreConfig, parse_go_duration};
use crate::identity::{
    JoinTokens, KEY_MODE, MintOptions, cert_der_from_pem, sha256_hex, split_join_token, write_atomic,
};
use crate::model::{NodeName, unix_secs};

#[derive(Debug, Args)]
pub(super) struct GetTokenArgs {
    /// How long the token is good, such as 30m or 24h [default: identity.joinTokenTtlSecs of the
    /// config; with --reusable its tokenRefreshDuration]
    #[arg(long, value_parser = lifetime)]
    ttl: Option<Duration>,
    /// The only node it is good for
    #[arg(long, value_name = "NAME", value_parser = name)]
    node: Option<NodeName>,
    /// For KubeEdge's own edges: good for many of them (needs identity.reusableTokens)
    #[arg(long)]
    reusable: bool,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Shows the tokens minted on this machine that have not expired
    List {
        #[command(flatten)]
        places: Places,
    },
    /// Ends a token before its time; nodes that joined with it stay
    Revoke {
        /// Id from `keadm token list`, or the token itself
        id: String,
        #[command(flatten)]
        places: Places,
    },
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match parse_go_duration(text)? {
        ttl if ttl < Duration::from_secs(1) => Err("it must be at least 1s".into()),
        ttl => Ok(ttl),
    }
}

pub(super) fn get_token(args: &GetTokenArgs, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    let config = args.places.load_cloud()?.config;
    let ca_file = &config.modules.cloud_hub.tls_ca_file;
    let pem = std::fs::read_to_string(ca_file).map_err(|err| {
        Refusal::new(format!(
            "cannot read {}: {err}; run keadm init or start cloudcore first",
            ca_file.display()
        ))
    })?;
    let der = cert_der_from_pem(&pem)
        .ok_or_else(|| Refusal::new(format!("{} holds no PEM certificate", ca_file.display())))?;
    if args.reusable && !config.identity.reusable_tokens {
        return Err(Refusal::new(
            "--reusable: cloudcore would refuse such a token; set identity.reusableTokens in its config first",
        ));
    }
    let hours = config.modules.cloud_hub.token_refresh_duration;
    let secs = if args.reusable { hours.saturating_mul(3600) } else { config.identity.join_token_ttl_secs };
    let ttl = args.ttl.unwrap_or(Duration::from_secs(secs));
    let options = MintOptions { ttl, node: args.node.clone(), reusable: args.reusable };
    writeln!(out, "{}", mint(&config, &sha256_hex(&der), options, now)?)?;
    Ok(())
}

/// Mints a token and notes its id.
pub(super) fn mint(
    config: &CloudCoreConfig,
    hash: &str,
    options: MintOptions,
    now: SystemTime,
) -> Result<String, Refusal> {
    let key_file = config.token_key_file();
    let (token, claims) = JoinTokens::load_or_create(&key_file)?.mint(hash, options, now);
    let mut record = Record::load(&key_file, now)?;
    record.tokens.push(Minted {
        id: claims.id,
        expires_at: claims.expires_at,
        node: claims.node,
        reusable: claims.reusable,
    });
    record.save()?;
    Ok(token)
}

pub(super) async fn token(
    command: TokenCommand,
    now: SystemTime,
    out: &mut dyn Write,
) -> Result<(), Refusal> {
    match command {
        TokenCommand::List { places } => {
            let config = places.load_cloud()?.config;
            let fates = match revocation::client(&config).await {
                Ok(client) => revocation::fates(client).await,
                Err(refusal) => Err(refusal),
            };
            list(&Record::load(&config.token_key_file(), now)?, fates, out)
        }
        TokenCommand::Revoke { id, places } => {
            let config = places.load_cloud()?.config;
            let is_whole = split_join_token(&id).is_ok();
            let id = token_id(&id)?;
            let record = Record::load(&config.token_key_file(), now)?;
            let expires_at =
                record.tokens.iter().find(|minted| minted.id == id).map(|minted| minted.expires_at);
            if expires_at.is_none() && !is_whole {
                return Err(Refusal::new(format!(
                    "no valid token {id} was made on this machine (keadm token list shows them); one made \
                     elsewhere is revoked by giving the whole token"
                )));
            }
            revocation::revoke(revocation::client(&config).await?, &id, expires_at, now).await?;
            writeln!(out, "token {id} is revoked")?;
            Ok(())
        }
    }
}

fn list(record: &Record, fates: Result<Fates, Refusal>, out: &mut dyn Write) -> Result<(), Refusal> {
    writeln!(out, "{:<14}{:<22}{:<22}STATE", "ID", "EXPIRES", "FOR")?;
    for minted in &record.tokens {
        let good_for = match &minted.node {
            Some(node) => node.to_string(),
            None if minted.reusable => "many nodes".to_owned(),
            None => "one node".to_owned(),
        };
        let state = match &fates {
            Ok(fates) if fates.revoked.contains(&minted.id) => "revoked".to_owned(),
            Ok(fates) => match fates.used.get(&minted.id) {
                Some(node) => format!("used by {node}"),
                None => "good".to_owned(),
            },
            Err(_) => "unknown".to_owned(),
        };
        writeln!(out, "{:<14}{:<22}{good_for:<22}{state}", minted.id, shown(minted.expires_at))?;
    }
    if let Err(refusal) = fates {
        writeln!(out, "revocations and uses are unknown: {refusal}")?;
    }
    Ok(())
}

/// An id as given, or the id inside a whole token. It becomes a key of a Secret.
fn token_id(text: &str) -> Result<String, Refusal> {
    let id = match split_join_token(text) {
        Ok((_, jwt)) => JoinTokens::id_of(&jwt)?,
        Err(_) => text.to_owned(),
    };
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    if id.is_empty() || id.len() > 64 || !id.bytes().all(legal) {
        return Err(Refusal::new(format!("{id:?} is not the id of a token (keadm token list shows them)")));
    }
    Ok(id)
}

/// What was minted here and has not expired.
struct Record {
    path: PathBuf,
    tokens: Vec<Minted>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Minted {
    id: String,
    /// Unix seconds.
    expires_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeName>,
    #[serde(default)]
    reusable: bool,
}

impl Record {
    fn load(token_key_file: &Path, now: SystemTime) -> Result<Self, Refusal> {
        let path = token_key_file.with_file_name("minted-tokens.json");
        let fail = |why: String| Refusal::new(format!("cannot read {}: {why}", path.display()));
        let mut tokens: Vec<Minted> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|err| fail(err.to_string()))?,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(err) => return Err(fail(err.to_string())),
        };
        let now = unix_secs(now);
        tokens.retain(|minted| minted.expires_at > now);
        Ok(Self { path, tokens })
    }

    fn save(&self) -> Result<(), Refusal> {
        let text = serde_json::to_vec_pretty(&self.tokens).map_err(|err| Refusal::new(err.to_string()))?;
        Ok(write_atomic(&self.path, &text, KEY_MODE)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::keadm;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::config::load;

    async fn cloud() -> (tempfile::TempDir, String, CloudCoreConfig) {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        keadm(&["init", "--root", &root]).await.expect("init");
        let path = dir.path().join("etc/kubeedge/config/cloudcore.yaml");
        let config = load::<CloudCoreConfig>(&path).expect("config").config;
        (dir, root, config)
    }

    #[tokio::test]
    async fn gettoken_mints_for_as_long_as_asked() {
        let (_dir, root, config) = cloud().await;
        let keys = JoinTokens::load_or_create(&config.token_key_file()).expect("key");
        for (args, secs) in [(&["--ttl", "1h30m"][..], 5400), (&[], 600), (&["--node", "edge-1"], 600)] {
            let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("time").as_secs();
            let token = keadm(&[&["gettoken", "--root", &root], args].concat()).await.expect("token");
            let (_, jwt) = split_join_token(&token).expect("splits");
            let claims = keys.verify(&jwt, SystemTime::now()).expect("verifies");
            assert!((before + secs..before + secs + 60).contains(&claims.expires_at), "{claims:?}");
            assert_eq!(token_id(&token).expect("id"), claims.id);
            let node = args.contains(&"--node").then_some("edge-1");
            assert_eq!((claims.node.as_ref().map(NodeName::as_str), claims.reusable), (node, false));
        }
        let err = keadm(&["gettoken", "--root", &root, "--reusable"]).await.expect_err("off by default");
        assert!(err.contains("identity.reusableTokens"), "{err}");
        let err = keadm(&["gettoken", "--root", &root, "--node", "Bad Name"]).await.expect_err("name");
        assert!(err.contains("--node") && err.contains("not a valid node name"), "{err}");
        for bad in ["0s", "soon", "-1h", "10"] {
            let err = keadm(&["gettoken", "--root", &root, &format!("--ttl={bad}")]).await.expect_err(bad);
            assert!(err.contains("--ttl"), "{err}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let err = keadm(&["gettoken", "--root", &root]).await.expect_err("no config");
        assert!(err.contains("cloudcore.yaml does not exist: run keadm init"), "{err}");
        let (_dir, root, config) = cloud().await;
        std::fs::remove_file(&config.modules.cloud_hub.tls_ca_file).expect("remove");
        let err = keadm(&["gettoken", "--root", &root]).await.expect_err("no CA");
        assert!(err.contains("rootCA.crt: No such file"), "{err}");
        let err = keadm(&["token", "revoke", "a/b", "--root", &root]).await.expect_err("bad id");
        assert!(err.contains("\"a/b\" is not the id of a token"), "{err}");
        let err = keadm(&["token", "revoke", "abc", "--root", &root]).await.expect_err("unknown id");
        assert!(err.contains("no valid token abc was made on this machine"), "{err}");
        let record = Record::load(&config.token_key_file(), SystemTime::now()).expect("record");
        let id = &record.tokens.first().expect("init's token").id;
        let err = keadm(&["token", "revoke", id, "--root", &root]).await.expect_err("no kubeconfig");
        assert!(err.contains("admin.conf does not exist: start cloudcore"), "{err}");
    }

    #[tokio::test]
    async fn list_shows_what_was_minted_and_forgets_what_expired() {
        let (_dir, root, config) = cloud().await;
        keadm(&["gettoken", "--root", &root, "--ttl", "1s"]).await.expect("short");
        let now = SystemTime::now() + Duration::from_secs(5);
        let record = Record::load(&config.token_key_file(), now).expect("record");
        let [kept] = record.tokens.as_slice() else { panic!("want init's token only: {:?}", record.tokens) };
        let text = keadm(&["token", "list", "--root", &root]).await.expect("list");
        assert!(text.contains(&kept.id) && text.contains("unknown"), "{text}");

        let mut out = Vec::new();
        let fates = Fates { revoked: [kept.id.clone()].into(), ..Fates::default() };
        list(&record, Ok(fates), &mut out).expect("list");
        assert!(String::from_utf8(out).expect("text").contains("revoked"));
        let mut out = Vec::new();
        let fates = Fates { used: [(kept.id.clone(), "edge-7".to_owned())].into(), ..Fates::default() };
        list(&record, Ok(fates), &mut out).expect("list");
        assert!(String::from_utf8(out).expect("text").contains("used by edge-7"));
        let path = config.token_key_file().with_file_name("minted-tokens.json");
        std::fs::write(path, "[{").expect("write");
        let err = keadm(&["gettoken", "--root", &root]).await.expect_err("damaged");
        assert!(err.contains("minted-tokens.json"), "{err}");
    }
}
