//! Accepts connections, serves each in its own task, and drains them.
//!
//! Plain hyper instead of axum: three routes need no router, and resetting a connection needs the stream.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Reset, Resettable};
use crate::faults::FaultProfile;
use crate::handle::Handle;
use crate::service::{self, Context};

/// How long a drain waits for requests under way before it cuts them.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, say), so that the loop does not spin until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound, not yet serving upstream.
#[derive(Debug)]
pub struct Upstream {
    listener: TcpListener,
    addr: SocketAddr,
    handle: Handle,
}

/// How a server tells its connections to end.
#[derive(Debug, Clone, Default)]
struct Ending {
    /// Finish what is under way.
    drain: CancellationToken,
    /// Do not even finish that.
    cut: CancellationToken,
}

impl Upstream {
    /// Binds `addr`; port 0 picks a free one, see [`Upstream::local_addr`].
    ///
    /// # Errors
    /// When the address cannot be bound, or, as `InvalidInput`, when the profile is out of range.
    pub async fn bind(addr: impl ToSocketAddrs, faults: FaultProfile) -> io::Result<Self> {
        let handle = Handle::new(faults).map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, handle })
    }

    /// The address really bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// A way to set faults and read statistics while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` is ready; then accepts no more, ends hanging requests at once, and waits for the others
    /// up to [`DRAIN_LIMIT`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tracing::info!(addr = %self.addr, "listening");
        let ending = Ending::default();
        let connections = TaskTracker::new();
        {
            let mut shutdown = std::pin::pin!(shutdown);
            loop {
                let accepted = tokio::select! {
                    accepted = self.listener.accept() => accepted,
                    () = &mut shutdown => break,
                };
                match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, self.handle.clone(), ending.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(self.listener);
        tracing::info!(in_flight = self.handle.stats().in_flight, "draining");
        ending.drain.cancel();
        connections.close();
        if tokio::time::timeout(DRAIN_LIMIT, connections.wait()).await.is_err() {
            tracing::warn!(
                in_flight = self.handle.stats().in_flight,
                "drain limit reached, cutting connections"
            );
            ending.cut.cancel();
            connections.wait().await;
        }
    }
}

async fn serve(stream: TcpStream, handle: Handle, ending: Ending) {
    // Small answers must not wait for the client's ACK; without the option they are only slower.
    let _ = stream.set_nodelay(true);
    let reset = Reset::default();
    let context = Context {
        handle,
        reset: reset.clone(),
        draining: ending.drain.clone(),
    };
    let service = hyper::service::service_fn(move |request| service::answer(context.clone(), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let io = TokioIo::new(Resettable::new(stream, reset.clone()));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let mut draining = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(error, "connection ended");
                }
                break;
            }
            () = reset.asked() => break,
            () = ending.cut.cancelled() => break,
            () = ending.drain.cancelled(), if !draining => {
                connection.as_mut().graceful_shutdown();
                draining = true;
            }
        }
    }
}
