//! Every operation of the store, on a real Redis, as the users that `acl` prints; and what they may not do.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{KeyStyle, Keys, RedisSettings, RedisStore};
use tiebar::store::{Acquire, Announcement, Batch, Beat, Exchange, Leader, Programme, Store, StoreError, StoreResult};

/// The process, its port, and the folder that goes with it.
struct Redis(Child, u16, #[expect(dead_code, reason = "held")] tempfile::TempDir);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn redis() -> Redis {
    let folder = tempfile::tempdir().unwrap();
    let lines = operator::acl(&Keys::new("cb:", KeyStyle::Plain)).replace("PASSWORD", "secret");
    let file: Vec<&str> = lines.lines().filter(|line| line.starts_with("user ")).collect();
    std::fs::write(
        folder.path().join("users.acl"),
        file.join("\n") + "\nuser default off\n",
    )
    .unwrap();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .arg("--dir")
        .arg(folder.path())
        .arg("--aclfile")
        .arg(folder.path().join("users.acl"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let redis = Redis(child, port, folder);
    let store = redis.store("tiebar-dashboard");
    let begun = Instant::now();
    while let Err(error) = store.now().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "redis-server: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    redis
}

impl Redis {
    fn store(&self, user: &str) -> RedisStore {
        let mut settings = RedisSettings::new(&format!("redis://{user}:secret@127.0.0.1:{}", self.1));
        settings.timeout = Duration::from_secs(5);
        RedisStore::new(settings).unwrap()
    }
}

fn id() -> ServiceId {
    ServiceId::parse("shop/inventory").unwrap()
}

fn programme() -> Programme {
    Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy: Policy::default(),
        forced: None,
    }
}

fn exchange() -> Exchange {
    Exchange {
        instance: "i".to_owned(),
        boot: "b".to_owned(),
        seed: true,
        batch: Some(Batch {
            number: 1,
            ..Batch::default()
        }),
        acquire: Some(Acquire { token: 1, want: 1 }),
        ..Exchange::default()
    }
}

fn refused<T: std::fmt::Debug>(result: StoreResult<T>, what: &str) {
    match result {
        Err(StoreError::Refused(text)) => assert!(text.to_lowercase().contains("no permissions"), "{what}: {text}"),
        other => panic!("{what}: {other:?}"),
    }
}

#[tokio::test]
async fn each_role_may_do_its_work_and_nothing_else() {
    let redis = redis().await;
    let id = id();
    let beat = Beat {
        instance: "i".to_owned(),
        boot: "b".to_owned(),
        state: "closed".to_owned(),
        ..Beat::default()
    };

    let operator = redis.store("tiebar-operator");
    operator.now().await.unwrap();
    let mut heard = operator.subscribe();
    operator.configure(&id, &programme()).await.unwrap();
    loop {
        match tokio::time::timeout(Duration::from_secs(5), heard.recv()).await {
            Ok(Ok(Announcement::Revision(heard))) if heard == id => break,
            Ok(Ok(_)) => {}
            other => panic!("not heard: {other:?}"),
        }
    }

    let instance = redis.store("tiebar-instance");
    instance.exchange(&id, &exchange()).await.unwrap();
    instance.beat(&[(id.clone(), beat)]).await.unwrap();
    instance.goodbye(std::slice::from_ref(&id), "i").await.unwrap();

    operator.eviction_policy().await.unwrap();
    operator.reset(&id, &Leader::default(), "now").await.unwrap();
    operator.config(&id).await.unwrap().unwrap();
    operator.snapshot(&id).await.unwrap().unwrap();
    operator.events(&id, 10).await.unwrap();
    operator.instances(&id).await.unwrap();
    assert_eq!(operator.ids().await.unwrap(), std::slice::from_ref(&id));

    let dashboard = redis.store("tiebar-dashboard");
    dashboard.config(&id).await.unwrap().unwrap();
    dashboard.snapshot(&id).await.unwrap().unwrap();
    assert!(!dashboard.events(&id, 10).await.unwrap().is_empty());
    dashboard.instances(&id).await.unwrap();
    assert!(!dashboard.is_replica().await.unwrap());
    assert_eq!(dashboard.ids().await.unwrap(), std::slice::from_ref(&id));
    let surveys = dashboard.survey(std::slice::from_ref(&id)).await.unwrap();
    assert!(surveys[0].as_ref().unwrap().snapshot.is_some());
    refused(dashboard.configure(&id, &programme()).await, "the dashboard programs");
    refused(dashboard.exchange(&id, &exchange()).await, "the dashboard reports");
    refused(
        dashboard.tombstone(&id, &Leader::default()).await,
        "the dashboard deletes",
    );
    refused(
        dashboard.reset(&id, &Leader::default(), "x").await,
        "the dashboard resets",
    );
    refused(instance.ids().await, "an instance lists");
    refused(instance.events(&id, 1).await, "an instance reads history");

    let elsewhere = |user: &str| {
        let mut settings = RedisSettings::new(&format!("redis://{user}:secret@127.0.0.1:{}", redis.1));
        settings.prefix = "other:".to_owned();
        settings.timeout = Duration::from_secs(5);
        RedisStore::new(settings).unwrap()
    };
    for user in ["tiebar-operator", "tiebar-instance", "tiebar-dashboard"] {
        // Not even its channel.
        refused(elsewhere(user).config(&id).await, user);
        for command in [
            &["FLUSHALL"][..],
            &["KEYS", "*"],
            &["CONFIG", "GET", "*"],
            &["SET", "other:x", "1"],
        ] {
            let output = Command::new("redis-cli")
                .args([
                    "-p",
                    &redis.1.to_string(),
                    "--user",
                    user,
                    "--pass",
                    "secret",
                    "--no-auth-warning",
                ])
                .args(command)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("NOPERM"), "{user} {command:?}: {said}");
        }
    }
    operator.tombstone(&id, &Leader::default()).await.unwrap();
}
