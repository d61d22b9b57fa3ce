//! After a switch of protocols: bytes, both ways.

use crate::activity::Running;
use crate::drain::{Drain, Stage};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;

/// Copies both ways once both sides have switched, until both have ended or the process has. The call is in
/// flight until then.
pub(crate) async fn tunnel(client: OnUpgrade, upstream: OnUpgrade, drain: Arc<Drain>, held: Running) {
    let both = async {
        match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => {
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                    tracing::debug!(%error, "a tunnel broke");
                }
            }
            Err(error) => tracing::debug!(%error, "an upgrade was not carried out"),
        }
    };
    tokio::select! {
        () = both => {}
        () = drain.reached(Stage::Cut) => {}
    }
    drop(held);
}
