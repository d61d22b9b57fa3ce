//! The fault matrix, as `tests/FAULTS.md` declares it: an open circuit is closed by none of them, healthy calls keep
//! flowing, everybody says within two seconds what is the matter, and the return is no stampede.

use http::Method;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::{Ensemble, Fault, Reach, Settings, Target, Traffic, eventually, get, holds, send};

/// Three times the two seconds in which a fault must show.
const SHOWN: Duration = Duration::from_secs(6);
/// Three times the five seconds after which the fallback is over.
const RECOVERED: Duration = Duration::from_secs(15);
/// What no call takes, even while every core of the machine has other things to do.
const SLOW: Duration = Duration::from_secs(3);
/// Three times the ten seconds after which a state that cannot be read, or changed, is called unknown.
const UNKNOWN: Duration = Duration::from_secs(30);
/// What the operator adds to whatever is wrong with the store.
const TRYING_ON: &str = "; trying on";
/// How long a fault lasts: long enough for every timeout to have run out.
const LASTS: Duration = Duration::from_secs(3);
/// What one breaker may ask of its store, calls a second; and how many there are.
const PACE: f64 = 500.0;
const BREAKERS: f64 = 4.0;
/// How long calls are counted after the return.
const RETURN: Duration = Duration::from_secs(3);

/// What the dashboard says about the store.
async fn dashboard_says(ensemble: &Ensemble, up: bool) -> Result<(), String> {
    let list = ensemble.dashboard.list().await;
    holds(list["storeUp"] == up, &list)?;
    let shown = ensemble.dashboard.metrics().await.value("tiebar_store_up", &[]);
    holds(shown == Some(f64::from(u8::from(up))), format!("{shown:?}"))
}

/// A condition of a status; null when there is none.
fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let mut all = status["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// A fault from beginning to end, over a closed, busy circuit and an open one.
async fn endure(fault: Fault) {
    let mut ensemble = Ensemble::start(Settings::default()).await;
    endure_in(fault, &mut ensemble).await;
}

async fn endure_in(fault: Fault, ensemble: &mut Ensemble) {
    let traffic = Traffic::start(ensemble);
    let struck = Instant::now();
    fault.strike(ensemble).await;
    shows(fault, ensemble).await;
    tokio::time::sleep_until((struck + LASTS).into()).await;
    fault.heal(ensemble).await;
    let healed = Instant::now();
    let before = ensemble.primary().calls("fcall").await;
    eventually(RECOVERED, "every instance acts with the others", async || {
        for instance in 0..ensemble.instances.len() {
            ensemble.says(instance, false).await?;
        }
        Ok::<(), String>(())
    })
    .await;
    eventually(RECOVERED, "the dashboard has the store again", async || {
        dashboard_says(ensemble, true).await
    })
    .await;
    tokio::time::sleep_until((healed + RETURN).into()).await;
    let calls = ensemble.primary().calls("fcall").await - before;
    let a_second = calls as f64 / healed.elapsed().as_secs_f64();
    println!("after the return: {a_second:.0} calls of the store a second");
    ensemble.agree(Ensemble::WELL, "closed").await;
    ensemble.agree(Ensemble::SICK, "open").await;

    unharmed(traffic, &format!("{fault:?}")).await;
    let transitions = ensemble.primary().transitions(Ensemble::SICK).await;
    let closed = transitions.iter().skip(1).any(|line| line.contains("→ closed"));
    assert!(!closed, "{transitions:?}");
    assert!(a_second < PACE * BREAKERS, "a stampede: {a_second:.0} calls a second");
}

/// Everybody whom it concerns says so.
async fn shows(fault: Fault, ensemble: &Ensemble) {
    let instances = match fault.reach() {
        Reach::Nobody => 0,
        Reach::First => 1,
        Reach::All => ensemble.instances.len(),
    };
    eventually(SHOWN, "whoever is cut off shows that the store is down", async || {
        for instance in &ensemble.instances[..instances] {
            let up = instance.metrics().await.value("tiebar_store_up", &[]);
            holds(up == Some(0.0), format!("{}: {up:?}", instance.name))?;
        }
        Ok::<(), String>(())
    })
    .await;
    eventually(SHOWN, "whoever is cut off says that it goes on alone", async || {
        for instance in 0..instances {
            ensemble.says(instance, true).await?;
        }
        Ok::<(), String>(())
    })
    .await;
    if fault.reach() == Reach::First {
        ensemble.says(1, false).await.expect("the others are not concerned");
    }
    if fault.reach() != Reach::All {
        return;
    }
    let operator = &ensemble.operator;
    eventually(SHOWN, "the operator shows that the store is down", async || {
        let up = operator.metrics().await.value("tiebar_operator_store_up", &[]);
        holds(up == Some(0.0), format!("{up:?}"))
    })
    .await;
    let says = |line: &str| line.contains(TRYING_ON).then_some(());
    operator.process.logged("the operator says so", says).await;
    if let Some(reason) = fault.refused_as() {
        eventually(
            UNKNOWN,
            "the operator calls the state unknown, and says why",
            async || {
                let status = operator.status(Ensemble::SICK).await;
                let reachable = condition(&status, "StoreReachable");
                let told =
                    status["state"] == "Unknown" && reachable["status"] == "False" && reachable["reason"] == reason;
                holds(told, &status)
            },
        )
        .await;
        if fault == Fault::ReadOnly {
            eventually(SHOWN, "the dashboard says so", async || {
                let page = get(&ensemble.dashboard.url).await.body;
                holds(page.contains("The store is a replica"), page)
            })
            .await;
        }
    } else {
        eventually(SHOWN, "the dashboard says that the store is gone", async || {
            dashboard_says(ensemble, false).await
        })
        .await;
    }
}

macro_rules! faults {
    ($($name:ident: $fault:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            endure($fault).await;
        })+
    };
}

faults! {
    a_store_that_stands_still: Fault::Stopped;
    a_store_that_is_killed: Fault::Killed;
    a_store_that_comes_back_empty: Fault::RestartedEmpty;
    a_store_that_is_flushed: Fault::Flushed;
    a_store_that_forgets_scripts_and_functions: Fault::FunctionsFlushed;
    a_store_that_evicts: Fault::Evicting;
    a_store_out_of_memory: Fault::OutOfMemory;
    a_store_that_is_a_replica: Fault::ReadOnly;
    a_store_that_is_50_ms_away: Fault::Slow(Duration::from_millis(50));
    a_store_that_is_5_s_away: Fault::Slow(Duration::from_secs(5));
    replies_that_break_off: Fault::CutReplies;
    one_instance_cut_off: Fault::Partition;
    a_password_that_changed: Fault::Password;
}

/// Ends the traffic; none of it may have gone wrong.
async fn unharmed(traffic: Traffic, what: &str) {
    let seen = traffic.stop().await;
    println!(
        "{what}: {} calls, 99 of 100 within {:.1?}, the slowest {:.1?}",
        seen.calls,
        seen.percentile(99),
        seen.slowest
    );
    assert!(
        seen.wrong.is_empty(),
        "{} went wrong: {:#?}",
        seen.wrong.len(),
        seen.wrong.first()
    );
    assert!(seen.calls > 20, "{}", seen.calls);
    assert!(seen.slowest < SLOW, "a call waited for the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_the_trip_does_not_close() {
    let mut ensemble = Ensemble::start(Settings::default()).await;
    let traffic = Traffic::start(&ensemble);
    Fault::LostWrites.strike(&mut ensemble).await;
    // The new primary believed it closed.
    ensemble.agree(Ensemble::LATE, "open").await;
    let transitions = ensemble.primary().transitions(Ensemble::LATE).await;
    assert!(
        transitions.last().is_some_and(|last| last.ends_with("→ open Reseeded")),
        "{transitions:?}"
    );
    ensemble.agree(Ensemble::SICK, "open").await;
    ensemble.agree(Ensemble::WELL, "closed").await;
    unharmed(traffic, "a failover that lost a trip").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_primaries_are_healed_towards_open() {
    let mut ensemble = Ensemble::start(Settings::default()).await;
    ensemble.replicate().await;
    let other = ensemble.other.take().expect("a second server");
    let traffic = Traffic::start(&ensemble);
    other.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    ensemble.links[0].lead_to(Target::Socket(other.socket()));
    eventually(
        Duration::from_secs(15),
        "the first instance acts on the other primary",
        async || {
            ensemble.says(0, false).await?;
            let calls = other.calls("fcall").await;
            holds(calls > 0, calls)
        },
    )
    .await;
    ensemble.trip(Ensemble::LATE, 0).await;
    let (one, two) = (&ensemble.instances[0], &ensemble.instances[1]);
    assert_eq!(one.breaker_of(Ensemble::LATE).await["state"], "open");
    assert_eq!(
        two.breaker_of(Ensemble::LATE).await["state"],
        "closed",
        "it hears the other primary"
    );

    ensemble.links[0].lead_to(Target::Socket(ensemble.redis.socket()));
    drop(other);
    ensemble.agree(Ensemble::LATE, "open").await;
    ensemble.agree(Ensemble::SICK, "open").await;
    ensemble.agree(Ensemble::WELL, "closed").await;
    unharmed(traffic, "two primaries").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_whose_clocks_jump_by_five_minutes_change_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clock = |name: &str| folder.path().join(name).display().to_string();
    let library = std::fs::read_dir("/usr/lib")
        .expect("a system has libraries")
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists())
        .expect("libfaketime must be installed; `make test` does that");
    let environment = |name: &str| {
        std::fs::write(clock(name), "+0\n").expect("a file");
        [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", clock(name)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // A wall clock jumps; the monotonic one does not.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    };
    let ensemble = Ensemble::start(Settings {
        instance_environments: vec![environment("first"), environment("second")],
        ..Settings::default()
    })
    .await;
    let traffic = Traffic::start(&ensemble);
    // What each then writes into its log shows that it believes the new time.
    let believes = async |instance: usize, to: &str, wanted: i64| {
        let process = &ensemble.instances[instance].process;
        let ahead = process
            .logged(&format!("{to} is told"), |line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                let told = line["message"] == "transition" && line["breaker"] == "late" && line["to"] == to;
                let at: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
                told.then(|| at.as_second() - jiff::Timestamp::now().as_second())
            })
            .await;
        assert!((ahead - wanted).abs() <= 30, "{ahead} s, not {wanted}");
    };
    let jump = |first: &str, second: &str| {
        std::fs::write(clock("first"), format!("{first}\n")).expect("a file");
        std::fs::write(clock("second"), format!("{second}\n")).expect("a file");
    };
    jump("+300", "-300");
    ensemble.trip(Ensemble::LATE, 0).await;
    ensemble.agree(Ensemble::LATE, "open").await;
    believes(0, "open", 300).await;
    believes(1, "open", -300).await;
    jump("-300", "+300");
    let reset = format!("{}/breakers/late/reset", ensemble.operator.url);
    let answer = send(Method::POST, &reset, "").await.expect("an answer");
    assert_eq!(answer.status, 202, "{}", answer.body);
    ensemble.agree(Ensemble::LATE, "closed").await;
    believes(0, "closed", -300).await;
    believes(1, "closed", 300).await;
    ensemble.agree(Ensemble::SICK, "open").await;
    ensemble.agree(Ensemble::WELL, "closed").await;
    unharmed(traffic, "clocks that jump").await;
}

/// Writes `NAME.crt` and `NAME.key`, signed by an authority in `ca.crt`; valid until 2099, and expired ones until 2020.
fn certificates(folder: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("good names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate().expect("a key");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    write("ca.crt", &authority.self_signed(&key).expect("a certificate").pem());
    let issuer = Issuer::new(authority, key);
    for (name, year) in [("good", 2099), ("expired", 2020)] {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("good names");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        write(
            &format!("{name}.crt"),
            &params.signed_by(&key, &issuer).expect("a certificate").pem(),
        );
        write(&format!("{name}.key"), &key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expired_is_an_outage_and_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    // Redis cannot speak TLS on a socket file, and prints no port that it picked.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    drop(listener);
    let redis_args = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("good.crt"),
        "--tls-key-file",
        &path("good.key"),
        "--tls-ca-cert-file",
        &path("ca.crt"),
        "--tls-auth-clients",
        "no",
    ];
    let ensemble = Ensemble::start(Settings {
        redis_args: redis_args.iter().map(ToString::to_string).collect(),
        tls: Some((port, vec!["--redis-ca-file".to_owned(), path("ca.crt")])),
        ..Settings::default()
    })
    .await;
    let show = async |name: &str| {
        let (certificate, key) = (path(&format!("{name}.crt")), path(&format!("{name}.key")));
        let set = ["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key];
        ensemble.redis.ask::<()>(&set).await;
        ensemble.redis.throw_out().await;
    };
    let traffic = Traffic::start(&ensemble);
    show("expired").await;
    eventually(SHOWN, "everybody says so", async || {
        ensemble.says(0, true).await?;
        ensemble.says(1, true).await?;
        dashboard_says(&ensemble, false).await
    })
    .await;
    for process in [&ensemble.instances[0].process, &ensemble.operator.process] {
        let line = process
            .logged("why", |line| {
                line.to_lowercase().contains("expired").then(|| line.to_owned())
            })
            .await;
        println!("{line}");
    }
    eventually(SHOWN, "the dashboard says why", async || {
        let page = get(&ensemble.dashboard.url).await.body;
        holds(page.to_lowercase().contains("expired"), page)
    })
    .await;
    show("good").await;
    ensemble.agree(Ensemble::SICK, "open").await;
    ensemble.agree(Ensemble::WELL, "closed").await;
    unharmed(traffic, "an expired certificate").await;
}
