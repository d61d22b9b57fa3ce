//! Clients.

use super::soon;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) type Outgoing = BoxBody<Bytes, std::io::Error>;

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Outgoing {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// An HTTP/1.1 connection.
pub(crate) async fn http1(to: SocketAddr) -> http1::SendRequest<Outgoing> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// An HTTP/2 connection.
pub(crate) async fn http2(to: SocketAddr) -> http2::SendRequest<Outgoing> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "inventory")
}

pub(crate) async fn collect(response: Response<Incoming>) -> Seen {
    let (head, body) = response.into_parts();
    let body = soon("the body", body.collect()).await.expect("a whole body");
    let trailers = body.trailers().cloned().unwrap_or_default();
    Seen {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
        trailers,
    }
}

/// Sends a request on a connection of its own.
pub(crate) async fn send(to: SocketAddr, request: Request<Outgoing>) -> Seen {
    let mut sender = http1(to).await;
    let response = soon("a response", sender.send_request(request))
        .await
        .expect("a response");
    collect(response).await
}

pub(crate) async fn get(to: SocketAddr, path: &str) -> Seen {
    send(to, request("GET", path).body(full("")).unwrap()).await
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn raw(to: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // A refusal may come, and the connection close, before everything is written.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    let _ = soon("the connection's end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until there is this text.
pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    while !String::from_utf8_lossy(&answer).contains(text) {
        let read = soon(text, stream.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "closed before {text:?}: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
