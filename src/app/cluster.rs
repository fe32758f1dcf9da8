//! A client of a real cluster: who cloudcore is there, and what its connections bear.
//!
//! An API server that is slow, busy, restarting or gone is an ordinary day: calls end by their own
//! deadlines, connections that say nothing are given up, and what the server asks to repeat is repeated.

use std::time::Duration;

use ::kube::client::{Body, ClientBuilder, ConfigExt as _};
use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::{Client, Config};
use http::HeaderValue;
use http::header::USER_AGENT;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::retry::RetryLayer;
use tower::timeout::TimeoutLayer;
use tower::{BoxError, ServiceBuilder};

use self::patience::Patience;
use self::token::TokenFile;
use super::program::Fatal;
use crate::config::KubeApiConfig;
use crate::identity;

mod patience;
mod token;

/// Who writes, in the API's audit log and as the field manager of what is written.
const WHO: &str = concat!("cloudcore/", env!("CARGO_PKG_VERSION"), " (kubeedge-rs)");
/// For a connection with its TLS handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing arrives is given up: longer than a watch may be silent
/// (`watch_worker::LIFE_SECS`).
const SILENCE: Duration = Duration::from_secs(150);
/// Until the head of an answer. kube-apiserver itself gives up after 60 s.
const ANSWER: Duration = Duration::from_secs(65);
/// A peer that is gone without a word is found by the kernel: this long idle, then so many probes.
const KEEPALIVE: Duration = Duration::from_secs(20);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// Unused connections are closed before [`SILENCE`] could count against their next use.
const POOL_IDLE: Duration = Duration::from_secs(60);

/// A cluster that can be asked.
pub(super) struct Cluster {
    pub client: Client,
    /// The CA its certificate is signed by, PEM.
    pub ca_pem: String,
    /// How it is reached.
    pub settings: Config,
}

/// The cluster that `kubeAPIConfig` names. Nothing is asked yet: it may be away.
///
/// # Errors
/// What is wrong with the configuration or the files it names.
pub(super) async fn connect(api: &KubeApiConfig) -> Result<Cluster, Fatal> {
    let mut settings = if api.in_cluster {
        Config::incluster().map_err(|err| format!("kubeAPIConfig.inCluster: {}", chain(&err)))?
    } else if api.kube_config.as_os_str().is_empty() {
        Config::new(api.master.parse()?)
    } else {
        let file = Kubeconfig::read_from(&api.kube_config)?;
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
    };
    if !api.master.is_empty() {
        settings.cluster_url = api.master.parse()?;
    }
    settings.connect_timeout = Some(CONNECT);
    settings.read_timeout = Some(SILENCE);
    // Its pauses grow to a quarter of an hour; ours are in `patience`.
    settings.default_retry = false;
    settings.headers.push((USER_AGENT, HeaderValue::from_static(WHO)));
    let ca_pem = settings.root_cert.iter().flatten().map(|der| identity::cert_pem_from_der(der)).collect();
    Ok(Cluster { client: client(&settings)?, ca_pem, settings })
}

fn client(settings: &Config) -> Result<Client, Fatal> {
    let mut socket = HttpConnector::new();
    socket.enforce_http(false);
    socket.set_nodelay(true);
    socket.set_keepalive(Some(KEEPALIVE));
    socket.set_keepalive_interval(Some(PROBE_EVERY));
    socket.set_keepalive_retries(Some(PROBES));
    let mut connector = TimeoutConnector::new(settings.rustls_https_connector_with_connector(socket)?);
    connector.set_connect_timeout(settings.connect_timeout);
    connector.set_read_timeout(settings.read_timeout);
    connector.set_write_timeout(settings.write_timeout);
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_timer(TokioTimer::new())
        .build(connector);

    let mut known = settings.clone();
    let inline = known.auth_info.token.is_some();
    let token = known.auth_info.token_file.take().filter(|_| !inline).map(|path| TokenFile::new(path.into()));
    let service = ServiceBuilder::new()
        .layer(settings.base_uri_layer())
        .layer(RetryLayer::new(Patience::new(token.clone())))
        .option_layer(known.auth_layer()?)
        .option_layer(token.map(tower::filter::AsyncFilterLayer::new))
        .layer(settings.extra_headers_layer()?)
        .layer(TimeoutLayer::new(ANSWER))
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, settings.default_namespace.clone()).build())
}

fn chain(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |cause| cause.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}
