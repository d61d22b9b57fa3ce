//! TLS to the upstream: whom to trust, HTTP/1.1 and HTTP/2.

use crate::support::client::{full, get, http1, request};
use crate::support::{PATIENT, Proxy, eventually};
use http::Version;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertificateParams, Issuer, KeyPair};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

/// A server for `localhost` that says which protocol it was asked by.
async fn server(by: &Authority, protocols: &[&str]) -> u16 {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &by.issuer).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let said = format!("{:?} {}", request.version(), request.uri());
                    Ok::<_, std::convert::Infallible>(crate::support::upstream::text(200, &said))
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    port
}

fn ca_file(folder: &TempDir, pem: &str) -> PathBuf {
    let file = folder.path().join("ca.pem");
    let fresh = folder.path().join("fresh.pem");
    std::fs::write(&fresh, pem).unwrap();
    std::fs::rename(&fresh, &file).unwrap();
    file
}

#[tokio::test]
async fn the_upstream_chooses_the_protocol() {
    let by = authority();
    let folder = tempfile::tempdir().unwrap();
    let file = ca_file(&folder, &by.pem);
    for (protocols, wanted) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let port = server(&by, protocols).await;
        let file = file.clone();
        let upstream = format!("https://localhost:{port}");
        let proxy = Proxy::start_with(PATIENT, &upstream, |settings| settings.routes[0].ca_file = Some(file)).await;
        for _ in 0..3 {
            let seen = get(proxy.traffic, "/x").await;
            let said = if wanted == Version::HTTP_2 {
                format!("HTTP/2.0 {upstream}/x")
            } else {
                "HTTP/1.1 /x".to_owned()
            };
            assert_eq!((seen.status.as_u16(), seen.text()), (200, said.as_str()));
        }
        // An upgrade needs HTTP/1.1, which its own connection asks for.
        if protocols.len() == 2 {
            let asked = request("GET", "/ws")
                .header("connection", "upgrade")
                .header("upgrade", "websocket");
            let mut sender = http1(proxy.traffic).await;
            let response = sender.send_request(asked.body(full("")).unwrap()).await.unwrap();
            assert_eq!(crate::support::client::collect(response).await.text(), "HTTP/1.1 /ws");
        }
    }
}

#[tokio::test]
async fn whoever_is_not_trusted_is_no_upstream_until_the_ca_file_says_so() {
    let (by, other) = (authority(), authority());
    let port = server(&by, &["http/1.1"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = ca_file(&folder, &other.pem);
    let upstream = format!("https://localhost:{port}");
    // Neither by the public roots, nor by another authority.
    let public = Proxy::start(PATIENT, &upstream).await;
    let path = file.clone();
    let proxy = Proxy::start_with(PATIENT, &upstream, move |settings| {
        settings.routes[0].ca_file = Some(path)
    })
    .await;
    for proxy in [&public, &proxy] {
        let seen = get(proxy.traffic, "/").await;
        assert_eq!(seen.status, 502);
        assert_eq!(seen.header("proxy-status"), "tiebar; error=tls_certificate_error");
        assert_eq!(proxy.outcomes().await, [0, 1, 0, 0, 0, 0]);
    }
    // A name the certificate does not have.
    let path = file.clone();
    let unnamed = format!("https://127.0.0.1:{port}");
    ca_file(&folder, &by.pem);
    let stranger = Proxy::start_with(PATIENT, &unnamed, move |settings| {
        settings.routes[0].ca_file = Some(path)
    })
    .await;
    assert_eq!(get(stranger.traffic, "/").await.status, 502);
    eventually("the new CA", async || {
        (get(proxy.traffic, "/").await.status == 200).then_some(())
    })
    .await;
}
