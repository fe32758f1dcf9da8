//! `keadm svid`: asks the SPIFFE Workload API of this node for the identities of the process that runs
//! it, as any SPIFFE client does. It gets what its pod gets; outside of pods nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use http::uri::PathAndQuery;
use jiff::Timestamp;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::Refusal;
use crate::identity::{
    KEY_MODE, PUBLIC_MODE, chain_pem, key_pem_from_pkcs8, split_certificates, validity, write_atomic,
};
use crate::wire::workload::{
    Everything, JwtSvidRequest, JwtSvidResponse, SECURITY_HEADER, X509Svid, X509SvidResponse,
};

/// Where edgecore serves it unless configured otherwise.
const SOCKET: &str = "/run/kubeedge/spiffe.sock";
/// Of the whole call.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer taken.
const MAX_ANSWER_BYTES: usize = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct SvidArgs {
    /// Socket of the Workload API, a path or unix://PATH [default: $SPIFFE_ENDPOINT_SOCKET, or
    /// /run/kubeedge/spiffe.sock]
    #[arg(long)]
    socket: Option<String>,
    /// Writes the first identity's svid.pem, key.pem and bundle.pem into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "jwt")]
    write: Option<PathBuf>,
    /// Prints a JWT-SVID for this audience instead
    #[arg(long, value_name = "AUDIENCE")]
    jwt: Option<String>,
}

pub(super) async fn svid(args: &SvidArgs, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    let socket = args.socket.clone().or_else(|| std::env::var("SPIFFE_ENDPOINT_SOCKET").ok());
    let socket = socket.unwrap_or_else(|| SOCKET.to_owned());
    let bare = socket.strip_prefix("unix://").or_else(|| socket.strip_prefix("unix:")).unwrap_or(&socket);
    let path = std::path::absolute(bare)?;
    let asked = tokio::time::timeout(DEADLINE, async {
        let client = connect(&path).await?;
        match &args.jwt {
            Some(audience) => jwt(client, audience, out).await,
            None => x509(client, args.write.as_deref(), now, out).await,
        }
    });
    let silent = || Refusal::new(format!("{} did not answer within {DEADLINE:?}", path.display()));
    asked.await.map_err(|_| silent())?
}

async fn connect(path: &Path) -> Result<Grpc<Channel>, Refusal> {
    let fail = |err: tonic::transport::Error| {
        let why = super::super::program::chain(&err);
        Refusal::new(format!("cannot ask the Workload API at {}: {why}", path.display()))
    };
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).map_err(fail)?;
    let channel = endpoint.connect().await.map_err(fail)?;
    Ok(Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

fn refused(status: &Status) -> Refusal {
    Refusal::new(format!("the Workload API refused: {:?}: {}", status.code(), status.message()))
}

async fn x509(
    mut client: Grpc<Channel>,
    folder: Option<&Path>,
    now: SystemTime,
    out: &mut dyn Write,
) -> Result<(), Refusal> {
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
    let codec = ProstCodec::<Everything, X509SvidResponse>::default();
    client.ready().await.map_err(|err| Refusal::new(err.to_string()))?;
    let answer = client.server_streaming(request(Everything {}), path, codec).await;
    let first = answer.map_err(|status| refused(&status))?.into_inner().message().await;
    let svids = first.map_err(|status| refused(&status))?.unwrap_or_default().svids;
    for svid in &svids {
        let chain = split_certificates(&svid.x509_svid)?;
        let leaf = chain.first().ok_or_else(|| Refusal::new("the Workload API sent no certificate"))?;
        let until = validity(leaf)?.not_after;
        let left = until.duration_since(now).unwrap_or_default().as_secs() / 60;
        let shown = Timestamp::try_from(until).map_or_else(|_| "?".to_owned(), |at| at.to_string());
        writeln!(out, "{} until {shown} ({left} minutes)", svid.spiffe_id)?;
    }
    match (svids.first(), folder) {
        (Some(svid), Some(folder)) => write(svid, folder),
        _ => Ok(()),
    }
}

fn write(svid: &X509Svid, folder: &Path) -> Result<(), Refusal> {
    let pem = |ders: &[u8]| Ok::<String, Refusal>(chain_pem(&split_certificates(ders)?));
    let put = |name: &str, text: String, mode| write_atomic(&folder.join(name), text.as_bytes(), mode);
    put("key.pem", key_pem_from_pkcs8(&svid.x509_svid_key), KEY_MODE)?;
    put("svid.pem", pem(&svid.x509_svid)?, PUBLIC_MODE)?;
    put("bundle.pem", pem(&svid.bundle)?, PUBLIC_MODE)?;
    Ok(())
}

async fn jwt(mut client: Grpc<Channel>, audience: &str, out: &mut dyn Write) -> Result<(), Refusal> {
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchJWTSVID");
    let codec = ProstCodec::<JwtSvidRequest, JwtSvidResponse>::default();
    client.ready().await.map_err(|err| Refusal::new(err.to_string()))?;
    let message = JwtSvidRequest { audience: vec![audience.to_owned()], spiffe_id: String::new() };
    let answer = client.unary(request(message), path, codec).await.map_err(|status| refused(&status))?;
    for svid in answer.into_inner().svids {
        writeln!(out, "{}", svid.svid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::keadm;

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("no.sock").display().to_string();
        for given in [socket.clone(), format!("unix:{socket}"), format!("unix://{socket}")] {
            let why = keadm(&["svid", "--socket", &given]).await.expect_err("nobody is there");
            assert!(why.starts_with("cannot ask the Workload API at") && why.contains(&socket), "{why}");
        }
        let both = keadm(&["svid", "--write", "/tmp", "--jwt", "a"]).await.expect_err("both");
        assert!(both.contains("cannot be used with"), "{both}");
    }
}
