//! What a server asks of us, and what we ask of it apart from breakers.

mod support;

use redis::AsyncCommands as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::RedisServer;
use tiebar::id::ServiceId;
use tiebar::redis::{RedisSettings, RedisStore, SCRIPT};
use tiebar::store::{Beat, Store as _};

#[tokio::test]
async fn user_and_password_of_the_settings_open_the_store() {
    let server = RedisServer::start().await;
    let mut admin = redis::Client::open(format!("unix://{}", server.socket()))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "caller", "on", ">theirs", "~*", "&*", "+@all"])
        .query_async(&mut admin)
        .await
        .unwrap();
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "ours"])
        .query_async(&mut admin)
        .await
        .unwrap();

    let now = async |username: Option<&str>, password: Option<&str>| {
        let mut settings = RedisSettings::new(&server.url());
        settings.username = username.map(str::to_owned);
        settings.password = password.map(str::to_owned);
        RedisStore::new(settings).unwrap().now().await
    };
    assert!(now(None, Some("ours")).await.is_ok(), "the default user's password");
    assert!(now(Some("caller"), Some("theirs")).await.is_ok(), "a user of its own");
    assert!(now(None, None).await.is_err(), "no password");
    assert!(now(Some("caller"), Some("ours")).await.is_err(), "another's password");
}

#[tokio::test]
async fn the_eviction_policy_is_the_servers() {
    let server = RedisServer::start().await;
    let store = RedisStore::new(RedisSettings::new(&server.url())).unwrap();
    assert_eq!(store.eviction_policy().await.unwrap(), "noeviction");
    let mut admin = redis::Client::open(format!("unix://{}", server.socket()))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory-policy", "allkeys-lru"])
        .query_async(&mut admin)
        .await
        .unwrap();
    assert_eq!(store.eviction_policy().await.unwrap(), "allkeys-lru");
}

#[tokio::test]
async fn heartbeats_of_the_gone_are_swept_once_there_are_many() {
    let server = RedisServer::start().await;
    let time = Arc::new(AtomicU64::new(1_764_000_000_000));
    let read = Arc::clone(&time);
    let mut settings = RedisSettings::new(&server.url());
    settings.timeout = std::time::Duration::from_secs(10);
    let clock = Arc::new(move || read.load(Ordering::Relaxed));
    let store = RedisStore::with_script(settings, SCRIPT, Some(clock)).unwrap();
    let beat = |name: &str| {
        let beat = Beat {
            instance: name.to_owned(),
            boot: "b".to_owned(),
            state: "closed".to_owned(),
            ..Beat::default()
        };
        (ServiceId::parse("a").unwrap(), beat)
    };
    let client = redis::Client::open(format!("unix://{}", server.socket())).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let beats: Vec<_> = (0..2_000).map(|n| beat(&format!("i{n}"))).collect();
    store.beat(&beats).await.unwrap();
    for (passed, kept) in [(59_999, 2_001), (1, 1)] {
        time.fetch_add(passed, Ordering::Relaxed);
        store.beat(&[beat("late")]).await.unwrap();
        let found: u64 = raw.hlen("cb:a:instances").await.unwrap();
        assert_eq!(found, kept, "{passed} ms on");
    }
}
