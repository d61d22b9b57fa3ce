//! A link that misbehaves: TCP in front of a server's socket file or port, which delays, cuts or swallows what passes.
//!
//! Rejected: `tc netem`, which needs root and hits everything on the machine; toxiproxy, one more program to install.

use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Parts of replies under way; more wait at the server.
const UNDER_WAY: usize = 1_024;

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Every reply comes so much later.
    Delay(Duration),
    /// Of every reply half comes, then a reset.
    CutReplies,
    /// Nothing passes, in either direction; connections stay, and are accepted.
    Silence,
}

/// Where a link leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A socket file.
    Socket(PathBuf),
    /// A port of this machine.
    Port(u16),
}

#[derive(Debug, Clone)]
struct Control {
    target: Target,
    trouble: Trouble,
    /// Connections of an earlier one are reset.
    epoch: u64,
}

/// One link; dropping it ends it.
#[derive(Debug)]
pub struct FaultLink {
    port: u16,
    control: watch::Sender<Control>,
    task: JoinHandle<()>,
}

impl FaultLink {
    /// Opens a link.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn open(target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let (control, controlled) = watch::channel(Control {
            target,
            trouble: Trouble::None,
            epoch: 0,
        });
        let task = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(serve(caller, controlled.clone()));
            }
        });
        Self { port, control, task }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address for `--redis`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on, on open connections too.
    pub fn suffer(&self, trouble: Trouble) {
        self.control.send_modify(|control| control.trouble = trouble);
    }

    /// Leads elsewhere; open connections are reset.
    pub fn lead_to(&self, target: Target) {
        self.control.send_modify(|control| {
            control.target = target;
            control.epoch += 1;
        });
    }
}

impl Drop for FaultLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut caller: TcpStream, control: watch::Receiver<Control>) {
    let target = control.borrow().target.clone();
    match target {
        Target::Socket(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                let (from, to) = server.into_split();
                pass(&mut caller, from, to, control).await;
            }
        }
        Target::Port(port) => {
            if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                let (from, to) = server.into_split();
                pass(&mut caller, from, to, control).await;
            }
        }
    }
    // A link that is cut does not say goodbye.
    let _ = caller.set_zero_linger();
}

/// Passes bytes until one side ends, or the link is cut.
async fn pass(
    caller: &mut TcpStream,
    mut from_server: impl AsyncRead + Unpin,
    mut to_server: impl AsyncWrite + Unpin,
    control: watch::Receiver<Control>,
) {
    let epoch = control.borrow().epoch;
    let (mut from_caller, mut to_caller) = caller.split();
    let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let requests = async {
        let mut part = vec![0; 16 * 1_024];
        while let Ok(read @ 1..) = from_caller.read(&mut part).await {
            heard(&control).await;
            if to_server.write_all(&part[..read]).await.is_err() {
                return;
            }
        }
    };
    let replies = async {
        let mut part = vec![0; 16 * 1_024];
        while let Ok(read @ 1..) = from_server.read(&mut part).await {
            let trouble = control.borrow().trouble;
            let delay = if let Trouble::Delay(delay) = trouble {
                delay
            } else {
                Duration::ZERO
            };
            if late
                .send((Instant::now() + delay, part[..read].to_vec()))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    let delivery = async {
        while let Some((at, part)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            heard(&control).await;
            let cut = control.borrow().trouble == Trouble::CutReplies;
            let whole = if cut { part.len() / 2 } else { part.len() };
            if to_caller.write_all(&part[..whole]).await.is_err() || cut {
                return;
            }
        }
    };
    let mut watched = control.clone();
    tokio::select! {
        () = requests => {}
        () = replies => {}
        () = delivery => {}
        _ = watched.wait_for(|control| control.epoch != epoch) => {}
    }
}

/// Waits while nothing passes.
async fn heard(control: &watch::Receiver<Control>) {
    let mut control = control.clone();
    // An error would mean that the link is gone, and its connections with it.
    let _ = control.wait_for(|control| control.trouble != Trouble::Silence).await;
}
