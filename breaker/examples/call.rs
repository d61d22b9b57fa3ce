//! A service that guards its calls: rules from code, the store inside the process.
//! With `RedisStore` in place of `MemoryStore` every replica shares the breaker.

use std::sync::Arc;
use tiebar::guard::{Breakers, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::policy::{Config, Policy};
use tiebar::state::Cause;

async fn ask_inventory(item: u32) -> Result<u32, &'static str> {
    if item < 5 { Ok(item * 10) } else { Err("no connection") }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let breakers = Breakers::new(Arc::new(MemoryStore::new()), Settings::new("orders-1"));
    let rules = Policy {
        consecutive_failures: 3,
        minimum_instances: 1,
        ..Policy::default()
    };
    let guard = breakers.guard(&ServiceId::parse("shop/inventory")?, Some(Config::local(rules)));
    // Nobody remembers a state, so the first one is seeded after two seconds of silence.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    for item in 0..10 {
        let judge = |answer: &Result<u32, _>| match answer {
            Ok(_) => Verdict::Success,
            Err(_) => Verdict::Failure(Cause::Error("inventory")),
        };
        match guard.call(|| ask_inventory(item), judge).await {
            Ok(answer) => println!("item {item}: {answer:?}"),
            Err(rejected) => println!("item {item}: {rejected}"),
        }
    }
    breakers.shutdown(std::time::Duration::from_secs(1)).await;
    Ok(())
}
