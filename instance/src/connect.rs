//! A connection to an upstream: address, TCP, TLS.

use crate::routes::{Scheme, Upstream};
use http::uri::Authority;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A peer that is gone without a word is noticed within a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectTrouble {
    /// The name stands for no address.
    Dns,
    /// Nobody listens, or no way leads there.
    Refused,
    /// Not in time.
    TimedOut,
    /// The peer is not who it should be, or speaks no TLS.
    Tls,
    /// This process has no file descriptor or port left, which says nothing about the upstream.
    Own,
}

/// Where to connect, and how.
#[derive(Clone)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    tls: Option<Tls>,
    /// HTTP/2 without asking.
    pub(crate) h2c: bool,
}

#[derive(Clone)]
struct Tls {
    name: ServerName<'static>,
    /// Offers HTTP/2 and HTTP/1.1.
    both: TlsConnector,
    /// Offers HTTP/1.1, which upgrades need.
    http1: TlsConnector,
}

impl Endpoint {
    /// Prepares a checked upstream.
    ///
    /// # Errors
    /// What is wrong with the CA file's content or the host's name.
    pub(crate) fn new(upstream: &Upstream, ca: Option<&[u8]>) -> Result<Self, String> {
        let bare = upstream.authority.host();
        let host = bare.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if upstream.scheme == Scheme::Https {
            let name = ServerName::try_from(host.clone()).map_err(|_| format!("{host:?} is no name for TLS"))?;
            let roots = Arc::new(roots(ca)?);
            Some(Tls {
                name,
                both: connector(&roots, &[b"h2", b"http/1.1"])?,
                http1: connector(&roots, &[b"http/1.1"])?,
            })
        } else {
            None
        };
        Ok(Self {
            host,
            port: port(&upstream.authority, upstream.scheme),
            tls,
            h2c: upstream.scheme == Scheme::H2c,
        })
    }

    /// Whether the protocol is known only once connected.
    pub(crate) fn negotiates(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects within `limit`; says whether the peer speaks HTTP/2.
    pub(crate) async fn dial(&self, limit: Duration, http1: bool) -> Result<(Stream, bool), ConnectTrouble> {
        let deadline = Instant::now() + limit;
        let stream = self.tcp(deadline).await?;
        let Some(tls) = &self.tls else {
            return Ok((Stream::Plain(stream), self.h2c && !http1));
        };
        let connector = if http1 { &tls.http1 } else { &tls.both };
        let shaken = timeout_at(deadline, connector.connect(tls.name.clone(), stream)).await;
        let stream = shaken.map_err(|_| ConnectTrouble::TimedOut)?.map_err(|error| {
            tracing::debug!(host = %self.host, %error, "TLS");
            ConnectTrouble::Tls
        })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Stream::Tls(Box::new(stream)), http2))
    }

    async fn tcp(&self, deadline: Instant) -> Result<TcpStream, ConnectTrouble> {
        let found = timeout_at(deadline, tokio::net::lookup_host((self.host.as_str(), self.port))).await;
        let addresses: Vec<SocketAddr> = found
            .map_err(|_| ConnectTrouble::TimedOut)?
            .map_err(|error| trouble(&error, ConnectTrouble::Dns))?
            .collect();
        let mut last = ConnectTrouble::Dns;
        for (index, address) in addresses.iter().enumerate() {
            // One silent address must not use up the time of the others.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
            last = match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    tune(&stream);
                    return Ok(stream);
                }
                Ok(Err(error)) => trouble(&error, ConnectTrouble::Refused),
                Err(_) => ConnectTrouble::TimedOut,
            };
        }
        Err(last)
    }
}

/// No delay, and keepalive; a socket without them works too.
pub(crate) fn tune(stream: &TcpStream) {
    let (time, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new()
        .with_time(time)
        .with_interval(interval)
        .with_retries(retries);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket could not be tuned");
    }
}

fn port(authority: &Authority, scheme: Scheme) -> u16 {
    authority
        .port_u16()
        .unwrap_or(if scheme == Scheme::Https { 443 } else { 80 })
}

/// EMFILE, ENFILE, EADDRNOTAVAIL, ENOBUFS, ENOMEM: ours.
fn trouble(error: &io::Error, otherwise: ConnectTrouble) -> ConnectTrouble {
    match error.raw_os_error() {
        Some(24 | 23 | 99 | 105 | 12) => {
            tracing::warn!(%error, "no connection could be made, for lack of own resources");
            ConnectTrouble::Own
        }
        _ => otherwise,
    }
}

/// A CA file replaces the public roots: whoever names one means it.
fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = ca else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("{error}; wanted certificates in PEM"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("{error}; wanted CA certificates in PEM"))?;
    }
    if roots.is_empty() {
        return Err("no certificate in it; wanted CA certificates in PEM".to_owned());
    }
    Ok(roots)
}

fn connector(roots: &Arc<RootCertStore>, protocols: &[&[u8]]) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A stream, encrypted or not.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}
