//! Warns of a Redis that may evict what it was given.
//!
//! Only the operator looks: a fleet of instances would say the same thing a thousand times. A user who may not ask is left
//! in peace, since the least ACL need not allow it.

use std::sync::Arc;
use std::time::Duration;
use tiebar::redis::RedisStore;

/// Between looks; somebody may change it while the server runs.
const EVERY: Duration = Duration::from_secs(300);
/// While there was no answer yet.
const AGAIN: Duration = Duration::from_secs(10);

/// Looks until dropped, and says each change once.
pub async fn watch(store: Arc<RedisStore>) {
    let mut told = "noeviction".to_owned();
    loop {
        let pause = match store.eviction_policy().await {
            Ok(policy) => {
                if policy != told && policy != "noeviction" {
                    tracing::warn!(
                        policy,
                        "Redis' maxmemory-policy lets it evict breakers; wanted noeviction"
                    );
                }
                told = policy;
                EVERY
            }
            Err(_) => AGAIN,
        };
        tokio::time::sleep(pause).await;
    }
}
