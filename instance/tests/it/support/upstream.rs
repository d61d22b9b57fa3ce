//! Upstreams: one that answers by a function, one that says exact bytes.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) type Answer = Response<BoxBody<Bytes, std::io::Error>>;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

pub(crate) struct Stub {
    pub(crate) url: String,
    pub(crate) authority: String,
    pub(crate) arrived: Arc<Mutex<Vec<Arrived>>>,
    task: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stub {
    pub(crate) fn count(&self) -> usize {
        self.arrived.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Arrived {
        self.arrived.lock().unwrap().last().expect("a request").clone()
    }
}

pub(crate) fn text(status: u16, text: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {});
    Response::builder().status(status).body(body.boxed()).unwrap()
}

/// Answers by a function, over HTTP/1.1 and HTTP/2.
pub(crate) async fn stub<F, Fut>(answer: F) -> Stub
where
    F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let (answer, seen) = (Arc::new(answer), Arc::clone(&arrived));
    let task = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    seen.lock().unwrap().push(Arrived {
                        method: request.method().to_string(),
                        uri: request.uri().to_string(),
                        version: request.version(),
                        headers: request.headers().clone(),
                    });
                    let answer = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Stub {
        url: format!("http://{authority}"),
        authority,
        arrived,
        task,
    }
}

/// Answers everything with 200.
pub(crate) async fn healthy() -> Stub {
    stub(async |_| text(200, "fine")).await
}

/// How a scripted connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Close,
    Reset,
    /// Keeps it open and says nothing more.
    Hang,
}

/// Reads each request's headers, says these bytes, and ends the connection so.
pub(crate) async fn scripted(bytes: impl Into<Vec<u8>>, ending: Ending) -> Stub {
    let bytes: Arc<[u8]> = bytes.into().into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&arrived);
    let task = tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            let (bytes, seen) = (Arc::clone(&bytes), Arc::clone(&seen));
            tokio::spawn(async move {
                if !read_head(&mut stream).await {
                    return;
                }
                seen.lock().unwrap().push(Arrived {
                    method: String::new(),
                    uri: String::new(),
                    version: Version::HTTP_11,
                    headers: HeaderMap::new(),
                });
                let _ = stream.write_all(&bytes).await;
                match ending {
                    Ending::Close => {}
                    Ending::Reset => {
                        let _ = stream.set_zero_linger();
                    }
                    Ending::Hang => {
                        // Until the other side goes.
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
    });
    Stub {
        url: format!("http://{authority}"),
        authority,
        arrived,
        task,
    }
}

async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut buffer = [0; 1_024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    true
}
