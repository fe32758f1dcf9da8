//! What a client must send, and what hostile ones may.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::world::{World, soon};
use crate::actors::edge::identity::Refusal;
use crate::wire::workload::{
    Everything, JwtBundlesResponse, JwtSvidRequest, JwtSvidResponse, MAX_REQUEST_BYTES,
    ValidateJwtSvidRequest, ValidateJwtSvidResponse,
};

const HOUR: Duration = Duration::from_secs(3_600);

async fn channel(world: &World) -> Channel {
    let path = world.socket.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// One call by hand. `header` is the value of the security header.
async fn call<Q: Message + 'static, A: Message + Default + 'static>(
    world: &World,
    name: &'static str,
    header: Option<&'static str>,
    request: Q,
) -> Result<A, Status> {
    let mut grpc = tonic::client::Grpc::new(channel(world).await);
    grpc.ready().await.unwrap();
    let mut request = Request::new(request);
    if let Some(value) = header {
        request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
    }
    let path = PathAndQuery::try_from(format!("/SpiffeWorkloadAPI/{name}")).unwrap();
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    soon(name, grpc.unary(request, path, codec)).await.map(tonic::Response::into_inner)
}

/// One container opens all the streams it may; a connection takes 128.
#[actix::test]
async fn one_container_cannot_take_all_streams() {
    let world = World::start(HOUR).await;
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchJWTBundles");
    let mut open = Vec::new();
    let refused = 'all: loop {
        let channel = channel(&world).await;
        for _ in 0..100 {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let mut request = Request::new(Everything {});
            request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
            let codec = tonic_prost::ProstCodec::<Everything, JwtBundlesResponse>::default();
            match soon("a stream", grpc.server_streaming(request, path.clone(), codec)).await {
                Ok(stream) => open.push(stream),
                Err(refused) => break 'all refused,
            }
            assert!(open.len() < 2_048, "one container has them all");
        }
    };
    assert_eq!((refused.code(), open.len()), (Code::ResourceExhausted, 512), "{refused:?}");
}

#[actix::test]
async fn every_call_needs_the_security_header() {
    let world = World::start(HOUR).await;
    for name in ["FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"] {
        for header in [None, Some("false"), Some("TRUE"), Some("")] {
            let refused = call::<_, JwtSvidResponse>(&world, name, header, Everything {}).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{name} {header:?}: {refused:?}");
        }
    }
    let unknown = call::<_, JwtSvidResponse>(&world, "FetchEverything", Some("true"), Everything {}).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}

#[actix::test]
async fn missing_and_endless_arguments() {
    let world = World::start(HOUR).await;
    let jwt = |audience: &[&str], id: &str| JwtSvidRequest {
        audience: audience.iter().map(|it| (*it).to_owned()).collect(),
        spiffe_id: id.to_owned(),
    };
    let long = "x".repeat(2_000);
    for (case, request, code) in [
        ("no audience", jwt(&[], ""), Code::InvalidArgument),
        ("empty audience", jwt(&["a", ""], ""), Code::InvalidArgument),
        ("long audience", jwt(&[&long], ""), Code::InvalidArgument),
        ("many audiences", jwt(&["a"; 100], ""), Code::InvalidArgument),
        ("no SPIFFE ID", jwt(&["a"], "http://x"), Code::InvalidArgument),
        ("not theirs", jwt(&["a"], "spiffe://kubeedge.local/node/edge-1"), Code::PermissionDenied),
    ] {
        let refused = call::<_, JwtSvidResponse>(&world, "FetchJWTSVID", Some("true"), request).await;
        assert_eq!(refused.unwrap_err().code(), code, "{case}");
    }
    let validate =
        |audience: &str, svid: &str| ValidateJwtSvidRequest { audience: audience.into(), svid: svid.into() };
    for (case, request) in
        [("no audience", validate("", "x")), ("no token", validate("a", "")), ("bad", validate("a", "a.b.c"))]
    {
        let refused =
            call::<_, ValidateJwtSvidResponse>(&world, "ValidateJWTSVID", Some("true"), request).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument, "{case}");
    }
    let huge = validate("a", &"x".repeat(MAX_REQUEST_BYTES + 1));
    let refused = call::<_, ValidateJwtSvidResponse>(&world, "ValidateJWTSVID", Some("true"), huge).await;
    assert!(matches!(refused.unwrap_err().code(), Code::OutOfRange | Code::ResourceExhausted));
}

#[actix::test]
async fn a_process_that_is_no_pod_gets_permission_denied_from_every_call() {
    let world = World::start(HOUR).await;
    world.callers_are(Err(Refusal::Unknown("the process is in no pod's cgroup".into())));
    let jwt = JwtSvidRequest { audience: vec!["a".into()], spiffe_id: String::new() };
    let refused = call::<_, JwtSvidResponse>(&world, "FetchJWTSVID", Some("true"), jwt).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().starts_with("no identity issued"), "{refused:?}");
    for name in ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"] {
        let refused =
            call::<_, JwtSvidResponse>(&world, name, Some("true"), Everything {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name}");
    }
    let validate = ValidateJwtSvidRequest { audience: "a".into(), svid: "x".into() };
    let refused = call::<_, ValidateJwtSvidResponse>(&world, "ValidateJWTSVID", Some("true"), validate).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

/// Who says nothing, nonsense, or too much keeps nobody from being served.
#[actix::test]
async fn noise_on_the_socket() {
    let world = World::start(HOUR).await;
    let silent = UnixStream::connect(&world.socket).await.unwrap();
    let mut noisy = UnixStream::connect(&world.socket).await.unwrap();
    let noise = [0xff_u8; 4_096];
    let mut closed = false;
    for _ in 0..1_000 {
        if noisy.write_all(&noise).await.is_err() {
            closed = true;
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut rest = Vec::new();
    closed |= soon("the noise is cut off", noisy.read_to_end(&mut rest)).await.is_ok();
    assert!(closed);
    assert_eq!(world.client().await.fetch_x509_context().await.unwrap().svids().len(), 1);
    drop(silent);
}
