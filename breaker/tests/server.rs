//! What a server asks of us, and what we ask of it apart from breakers.

mod support;

use support::RedisServer;
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::store::Store as _;

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
