//! Redis as it is run in production: behind TLS, behind Sentinels, as a cluster, with passwords that change.

mod support;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::servers::{Server, cli, free_port};
use tiebar::guard::{Breakers, Guard, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{KeyStyle, RedisSettings, RedisStore};
use tiebar::state::Cause;
use tiebar::store::{Leader, Programme, Store as _, StoreError};

fn id(name: &str) -> ServiceId {
    ServiceId::parse(name).unwrap()
}

fn programme() -> Programme {
    Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy: Policy {
            consecutive_failures: 3,
            minimum_instances: 1,
            open_ms: 600_000,
            open_max_ms: 600_000,
            ..Policy::default()
        },
        forced: None,
    }
}

/// Waits for a condition, and prints how long it took.
async fn until(what: &str, bound: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{what}: {:.2} s", start.elapsed().as_secs_f64());
}

fn is(guard: &Guard, state: &str) -> bool {
    guard.status().state.as_str() == state
}

async fn fail_three_times(guard: &Guard) {
    for _ in 0..3 {
        guard
            .acquire()
            .await
            .unwrap()
            .record(Verdict::Failure(Cause::Http(503)));
    }
}

// --- TLS ------------------------------------------------------------------------------------------------------------

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // The crate's default name is everybody's, and who is named like his issuer counts as self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes `NAME.crt` and `NAME.key`.
    fn sign(&self, folder: &Path, name: &str) {
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn tls_with_client_certificates_that_are_replaced_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (ours, foreign) = (Authority::new(), Authority::new());
    ours.sign(folder.path(), "server");
    foreign.sign(folder.path(), "client");
    std::fs::write(file("ca.crt"), &ours.certificate).unwrap();
    let port = free_port();
    let path = folder.path().display();
    let _server = Server::start(
        port,
        &format!(
            "port 0\ntls-port {port}\ntls-cert-file {path}/server.crt\ntls-key-file {path}/server.key\n\
             tls-ca-cert-file {path}/ca.crt\ntls-auth-clients yes\nsave \"\"\n"
        ),
    );
    let settings = RedisSettings {
        ca_file: Some(file("ca.crt")),
        cert_file: Some(file("client.crt")),
        key_file: Some(file("client.key")),
        timeout: Duration::from_secs(2),
        ..RedisSettings::new(&format!("rediss://localhost:{port}"))
    };
    let store = RedisStore::new(settings.clone()).unwrap();
    let refused = store.now().await.unwrap_err();
    println!("a foreign client's certificate: {refused}");

    // The same store, once the file holds the right one.
    ours.sign(folder.path(), "client");
    until("the replaced certificate is used", Duration::from_secs(6), async || {
        store.configure(&id("shop/inventory"), &programme()).await.is_ok()
    })
    .await;

    std::fs::write(file("ca.crt"), &foreign.certificate).unwrap();
    let distrustful = RedisStore::new(settings).unwrap();
    let error = distrustful.now().await.unwrap_err();
    println!("a server of a foreign authority: {error}");
    assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
}

// --- passwords ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_password_is_exchanged_while_running() {
    let port = free_port();
    let _server = Server::start(
        port,
        &format!("port {port}\nsave \"\"\nuser tie on >first ~* &* +@all\n"),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let store = RedisStore::new(RedisSettings {
        username: Some("tie".to_owned()),
        password_file: Some(file.clone()),
        ..RedisSettings::new(&format!("redis://127.0.0.1:{port}"))
    })
    .unwrap();
    store.now().await.unwrap();
    cli(port, &["ACL", "SETUSER", "tie", "resetpass", ">second"]);
    cli(port, &["CLIENT", "KILL", "USER", "tie"]);
    until(
        "the old password is refused",
        Duration::from_secs(6),
        async || matches!(store.now().await, Err(StoreError::Refused(why)) if why.to_lowercase().contains("pass")),
    )
    .await;
    std::fs::write(&file, "second\n").unwrap();
    until("the new password is used", Duration::from_secs(6), async || {
        store.now().await.is_ok()
    })
    .await;
}

// --- Sentinel -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_sentinel_keeps_an_open_circuit_open() {
    let (first, second) = (free_port(), free_port());
    let mut master = Server::start(first, &format!("port {first}\nsave \"\"\n"));
    let _replica = Server::start(
        second,
        &format!("port {second}\nsave \"\"\nreplicaof 127.0.0.1 {first}\n"),
    );
    let sentinels: Vec<Server> = (0..3)
        .map(|_| {
            let port = free_port();
            Server::start(
                port,
                &format!(
                    "port {port}\nsentinel monitor main 127.0.0.1 {first} 2\nsentinel down-after-milliseconds main 1000\n\
                     sentinel failover-timeout main 3000\n"
                ),
            )
        })
        .collect();
    until(
        "the Sentinels know each other and the replica",
        Duration::from_secs(30),
        async || {
            sentinels.iter().all(|sentinel| {
                let known = cli(sentinel.port, &["SENTINEL", "MASTER", "main"]);
                let after = |name: &str| {
                    let mut lines = known.lines().skip_while(|line| *line != name);
                    lines.nth(1).map(str::to_owned)
                };
                after("num-slaves").as_deref() == Some("1") && after("num-other-sentinels").as_deref() == Some("2")
            })
        },
    )
    .await;
    let hosts: Vec<String> = sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
    let url = format!("redis+sentinel://127.0.0.1:{},{}/main", free_port(), hosts.join(","));
    let connect = || Arc::new(RedisStore::new(RedisSettings::new(&url)).unwrap());
    let inventory = id("shop/inventory");
    connect().configure(&inventory, &programme()).await.unwrap();
    let breakers: Vec<Breakers> = (0..2)
        .map(|n| Breakers::new(connect(), Settings::new(&format!("i{n}"))))
        .collect();
    let guards: Vec<Guard> = breakers
        .iter()
        .map(|breakers| breakers.guard(&inventory, None))
        .collect();
    until("closed", Duration::from_secs(15), async || {
        guards
            .iter()
            .all(|guard| is(guard, "closed") && guard.effective().is_some())
    })
    .await;
    until("a state is seeded", Duration::from_secs(10), async || {
        cli(first, &["GET", "cb:shop/inventory:state"]).trim() == "closed"
    })
    .await;
    fail_three_times(&guards[0]).await;
    until("open for both", Duration::from_secs(6), async || {
        guards.iter().all(|guard| is(guard, "open"))
    })
    .await;

    master.kill();
    until("without the master they say so", Duration::from_secs(6), async || {
        guards.iter().all(|guard| guard.status().degraded)
    })
    .await;
    assert!(guards.iter().all(|guard| is(guard, "open")));
    until("they act on the new master", Duration::from_secs(30), async || {
        guards.iter().all(|guard| !guard.status().degraded)
    })
    .await;
    assert!(
        guards.iter().all(|guard| is(guard, "open")),
        "a failover closed the circuit"
    );
    assert_eq!(cli(second, &["GET", "cb:shop/inventory:state"]).trim(), "open");
    for breakers in breakers {
        breakers.shutdown(Duration::from_secs(2)).await;
    }
}

// --- cluster --------------------------------------------------------------------------------------------------------

/// Three primaries with a replica each.
async fn cluster() -> Vec<Server> {
    let servers: Vec<Server> = (0..6)
        .map(|_| {
            let (port, bus) = (free_port(), free_port());
            Server::start(
                port,
                &format!(
                    "port {port}\ncluster-port {bus}\ncluster-enabled yes\ncluster-node-timeout 1000\nsave \"\"\n\
                     cluster-replica-validity-factor 0\n"
                ),
            )
        })
        .collect();
    let hosts: Vec<String> = servers.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(hosts.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
    let created = cli(servers[0].port, &create);
    assert!(created.contains("All 16384 slots covered"), "{created}");
    until("the cluster's nodes agree", Duration::from_secs(30), async || {
        servers.iter().all(|server| {
            let info = cli(server.port, &["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6")
        })
    })
    .await;
    servers
}

/// The server that holds a key.
fn holder(servers: &[Server], key: &str) -> usize {
    let mine = |server: &Server| {
        let there = cli(server.port, &["EXISTS", key]);
        let role = cli(server.port, &["ROLE"]);
        there.trim() == "1" && role.starts_with("master")
    };
    servers.iter().position(mine).expect("somebody holds the key")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_shares_its_breakers_among_its_nodes_and_survives_the_loss_of_one() {
    let mut servers = cluster().await;
    let url = format!(
        "redis+cluster://127.0.0.1:{},127.0.0.1:{}",
        servers[0].port, servers[1].port
    );
    let plain = RedisStore::new(RedisSettings::new(&url)).unwrap_err();
    assert!(plain.to_string().contains("hash-tag"), "{plain}");
    let connect = || {
        Arc::new(
            RedisStore::new(RedisSettings {
                style: KeyStyle::HashTag,
                ..RedisSettings::new(&url)
            })
            .unwrap(),
        )
    };
    let ids: Vec<ServiceId> = (0..12).map(|n| id(&format!("shop/service-{n}"))).collect();
    let operator = connect();
    for id in &ids {
        operator.configure(id, &programme()).await.unwrap();
    }
    let breakers: Vec<Breakers> = (0..2)
        .map(|n| Breakers::new(connect(), Settings::new(&format!("i{n}"))))
        .collect();
    let guards = |n: usize| -> Vec<Guard> { ids.iter().map(|id| breakers[n].guard(id, None)).collect() };
    let (one, other) = (guards(0), guards(1));
    until("a state is seeded everywhere", Duration::from_secs(15), async || {
        let mut seeded = true;
        for id in &ids {
            seeded &= operator.snapshot(id).await.is_ok_and(|snapshot| snapshot.is_some());
        }
        seeded && one.iter().chain(&other).all(|guard| guard.effective().is_some())
    })
    .await;
    let start = Instant::now();
    for guard in &one {
        fail_three_times(guard).await;
    }
    until("open on the other instance", Duration::from_secs(6), async || {
        other.iter().all(|guard| is(guard, "open"))
    })
    .await;
    println!("12 breakers tripped and known in {:?}", start.elapsed());
    assert_eq!(operator.ids().await.unwrap().len(), ids.len());
    let surveys = operator.survey(&ids).await.unwrap();
    assert!(surveys.iter().all(|survey| survey.as_ref().unwrap().snapshot.is_some()));

    // A slot moves to another node while instances go on asking for it.
    let key = format!("cb:{{{}}}:data", ids[0]);
    let (from, slot) = (
        holder(&servers, &key),
        cli(servers[0].port, &["CLUSTER", "KEYSLOT", &key]),
    );
    let to = (0..servers.len())
        .find(|n| *n != from && cli(servers[*n].port, &["ROLE"]).starts_with("master"))
        .unwrap();
    move_slot(&servers, slot.trim(), from, to);
    until("the moved breaker answers", Duration::from_secs(6), async || {
        operator
            .snapshot(&ids[0])
            .await
            .is_ok_and(|snapshot| snapshot.is_some())
    })
    .await;
    let leader = Leader::default();
    operator.reset(&ids[0], &leader, "after the move").await.unwrap();
    until("the moved breaker's news arrive", Duration::from_secs(6), async || {
        is(&one[0], "closed") && is(&other[0], "closed")
    })
    .await;

    let lost = holder(&servers, &format!("cb:{{{}}}:data", ids[1]));
    servers[lost].kill();
    until(
        "every breaker answers again after a primary is gone",
        Duration::from_secs(30),
        async || {
            let mut answers = true;
            for id in &ids {
                answers &= operator.snapshot(id).await.is_ok_and(|snapshot| snapshot.is_some());
            }
            answers && one.iter().chain(&other).all(|guard| !guard.status().degraded)
        },
    )
    .await;
    let still_open = |guards: &[Guard]| guards[1..].iter().all(|guard| is(guard, "open"));
    assert!(
        still_open(&one) && still_open(&other),
        "the loss of a node closed a circuit"
    );
    for breakers in breakers {
        breakers.shutdown(Duration::from_secs(2)).await;
    }
}

/// What `redis-cli --cluster reshard` does, for one slot.
fn move_slot(servers: &[Server], slot: &str, from: usize, to: usize) {
    let name = |n: usize| cli(servers[n].port, &["CLUSTER", "MYID"]).trim().to_owned();
    cli(
        servers[to].port,
        &["CLUSTER", "SETSLOT", slot, "IMPORTING", &name(from)],
    );
    cli(
        servers[from].port,
        &["CLUSTER", "SETSLOT", slot, "MIGRATING", &name(to)],
    );
    loop {
        let keys = cli(servers[from].port, &["CLUSTER", "GETKEYSINSLOT", slot, "100"]);
        let keys: Vec<&str> = keys.lines().map(str::trim).filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            break;
        }
        let port = servers[to].port.to_string();
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        migrate.extend(&keys);
        let moved = cli(servers[from].port, &migrate);
        assert!(moved.contains("OK") || moved.contains("NOKEY"), "{moved}");
    }
    for server in servers {
        if cli(server.port, &["ROLE"]).starts_with("master") {
            cli(server.port, &["CLUSTER", "SETSLOT", slot, "NODE", &name(to)]);
        }
    }
}
