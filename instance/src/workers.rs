//! The threads that serve connections. A connection stays on one of them, and so do the connections to upstreams that its
//! calls open: no thread wakes another for a call.
//!
//! Rejected: tokio's runtime of many threads, which wakes a second one for most of what happens while there is little to
//! do; a listener per thread with SO_REUSEPORT, where a second proxy on the same port starts without an error and chance
//! decides which thread has how many connections.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// The calling thread's number among those that serve connections, from 0; of any other thread, 0.
pub(crate) fn number() -> usize {
    NUMBER.get()
}

struct Worker {
    runtime: Handle,
    /// Each connection holds it.
    connections: Arc<()>,
    /// The thread ends once this is dropped, and with it what runs on it.
    _stop: oneshot::Sender<Infallible>,
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                NUMBER.set(number);
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
            _stop: stop,
        })
    }
}

/// All of them; they end when this is dropped.
pub(crate) struct Workers(Vec<Worker>);

impl Workers {
    /// Starts so many threads.
    pub(crate) fn start(count: NonZeroUsize) -> io::Result<Self> {
        (0..count.get()).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    /// Serves a connection on the thread that has the fewest; the first of several, so that callers who come one at a
    /// time find the connections to upstreams that the one before them left.
    pub(crate) fn serve<F: Future<Output = ()> + Send + 'static>(
        &self,
        stream: TcpStream,
        tasks: &TaskTracker,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> io::Result<()> {
        let fewest = self
            .0
            .iter()
            .min_by_key(|worker| Arc::strong_count(&worker.connections));
        let worker = fewest.ok_or(io::ErrorKind::NotFound)?;
        let held = Arc::clone(&worker.connections);
        // A socket is polled by the runtime it was registered with.
        let stream = stream.into_std()?;
        let served = async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(%error, "a connection was not taken over"),
            }
            drop(held);
        };
        tasks.spawn_on(served, &worker.runtime);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn connections_are_spread_and_end_with_their_threads() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tasks = TaskTracker::new();
        let (serving, mut served) = mpsc::unbounded_channel();
        let mut callers = Vec::new();
        for _ in 0..6 {
            callers.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (stream, _) = listener.accept().await.unwrap();
            let serving = serving.clone();
            let serve = async move |stream: TcpStream| {
                serving.send(number()).unwrap();
                stream.readable().await.unwrap();
            };
            workers.serve(stream, &tasks, serve).unwrap();
        }
        drop(serving);
        let mut on = Vec::new();
        for _ in 0..6 {
            on.push(served.recv().await.unwrap());
        }
        on.sort_unstable();
        assert_eq!(on, [0, 0, 0, 1, 1, 1]);
        tasks.close();
        drop(workers);
        tasks.wait().await;
        assert_eq!(served.recv().await, None);
    }
}
