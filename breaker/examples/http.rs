//! Calls over HTTP behind the `tower` layer, on the breaker that every replica shares through Redis:
//!
//! ```console
//! redis-server &
//! cargo run -p upstream &
//! cargo run -p tiebar --example http
//! ```

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::sync::Arc;
use tiebar::guard::{Breakers, Settings, Verdict};
use tiebar::layer::GuardLayer;
use tiebar::policy::{Config, Policy};
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::state::Cause;
use tower::{Service, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = RedisStore::new(RedisSettings::new("redis://127.0.0.1:6379"))?;
    let breakers = Breakers::new(Arc::new(store), Settings::new("orders-1"));
    let guard = breakers.guard(&"unreliable_service".parse()?, Some(Config::local(Policy::default())));
    let judge = |result: &Result<http::Response<_>, _>| match result {
        Ok(response) if response.status().is_server_error() => {
            Verdict::Failure(Cause::Http(response.status().as_u16()))
        }
        Ok(_) => Verdict::Success,
        Err(_) => Verdict::Failure(Cause::Error("ConnectionFailure")),
    };
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut guarded = ServiceBuilder::new()
        .layer(GuardLayer::new(guard, judge))
        .service(client);
    for _ in 0..50 {
        let request = http::Request::get("http://127.0.0.1:9000/").body(Empty::new())?;
        match guarded.ready().await?.call(request).await {
            Ok(response) => println!("{}", response.status()),
            Err(error) => println!("{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    breakers.shutdown(std::time::Duration::from_secs(1)).await;
    Ok(())
}
