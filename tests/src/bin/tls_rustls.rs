//! An HTTPS server, and a client of one, of hyper and rustls.
//!
//! `serve CERTIFICATE KEY`: answers any path; prints `port N`.
//!
//! `ask AUTHORITY`: a line of standard input asks for a round: `PORT PREFIX CONCURRENCY COUNT new|keep 1.2|1.3|h2`; for
//! every answer it prints `PATH LOCAL-PORT`, and after the round `done PREFIX`.

use std::convert::Infallible;
use std::io::BufRead as _;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

type HttpsClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["serve", certificate, key] => serve(certificate, key).await,
        ["ask", authority] => ask(authority).await,
        _ => bail!("serve CERTIFICATE KEY, or ask AUTHORITY"),
    }
}

async fn serve(certificate: &str, key: &str) -> anyhow::Result<()> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("port {}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who asks may be gone.
            if let Ok(stream) = acceptor.accept(stream).await {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            }
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    // Of some, many records.
    let times = if path.ends_with('7') { 100 } else { 1 };
    let body = vec![b'x'; path.len() * 37 % 3000 * times];
    Ok(Response::new(Full::new(body.into())))
}

async fn ask(authority: &str) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        roots.add(certificate?)?;
    }
    let mut lines = std::io::stdin().lock().lines();
    while let Some(line) = lines.next().transpose()? {
        let fields: Vec<&str> = line.split(' ').collect();
        let [port, prefix, concurrency, count, mode, version] = fields.as_slice() else {
            bail!("not a round: {line}");
        };
        let (port, concurrency, count) = (port.parse()?, concurrency.parse()?, count.parse::<usize>()?);
        let client = client(&roots, version, *mode == "keep");
        let mut all = JoinSet::new();
        for thread in 0..concurrency {
            let prefix = format!("/work/{prefix}.{thread}");
            all.spawn(get_all(client.clone(), port, prefix, count / concurrency));
        }
        while let Some(lines) = all.join_next().await {
            println!("{}", lines??.join("\n"));
        }
        println!("done {prefix}");
    }
    Ok(())
}

fn client(roots: &RootCertStore, version: &str, keep: bool) -> HttpsClient {
    let versions = if version == "1.2" { &[&rustls::version::TLS12][..] } else { rustls::ALL_VERSIONS };
    let config = ClientConfig::builder_with_protocol_versions(versions);
    let config = config.with_root_certificates(roots.clone()).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
    let mut builder = Client::builder(TokioExecutor::new());
    let connector = if version == "h2" {
        builder.http2_only(true);
        connector.enable_http2().build()
    } else {
        connector.enable_http1().build()
    };
    if !keep {
        builder.pool_max_idle_per_host(0);
    }
    builder.build(connector)
}

async fn get_all(
    client: HttpsClient,
    port: u16,
    prefix: String,
    count: usize,
) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for number in 0..count {
        let path = format!("{prefix}.{number}");
        let uri: Uri = format!("https://127.0.0.1:{port}{path}").parse()?;
        let response = client.get(uri).await?;
        ensure!(response.status() == 200, "{}", response.status());
        let local = response.extensions().get::<HttpInfo>().context("which connection it was")?.local_addr();
        response.into_body().collect().await?;
        lines.push(format!("{path} {}", local.port()));
    }
    Ok(lines)
}
