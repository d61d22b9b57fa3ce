//! A dashboard over a made-up fleet in every state there is, to look at: `cargo run -p ui --example gallery`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;
use tiebar::memory::MemoryStore;
use ui::{Actions, Auth, Dashboard, Operator, Settings};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let store = Arc::new(MemoryStore::new());
    let settings = Settings {
        listen,
        hosts: Vec::new(),
        auth: Auth::None,
        actions: Actions::Operator {
            operator: Operator::new("http://127.0.0.1:8081").map_err(anyhow::Error::msg)?,
            people: Vec::new(),
            local: true,
        },
        key_prefix: Some("cb:".to_owned()),
        max_viewers: 100,
    };
    let dashboard = Dashboard::bind(Arc::clone(&store) as _, settings).await?;
    println!("http://{}/", dashboard.local_addr()?);
    let fleet = async {
        let mut fleet = support::Fleet::new(store);
        fleet.seed().await;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            fleet.step(500).await;
        }
    };
    tokio::select! {
        served = dashboard.run(std::future::pending()) => Ok(served?),
        () = fleet => Ok(()),
    }
}
