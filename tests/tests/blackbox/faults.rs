//! The fault matrix, as `tests/FAULTS.md` declares it: an open circuit is closed by none of them, healthy calls keep
//! flowing, everybody says within two seconds what is the matter, and the return is no stampede.

use std::time::{Duration, Instant};
use tests::{Ensemble, Fault, Reach, Settings, Traffic, eventually, holds};

/// Three times the two seconds in which a fault must show.
const SHOWN: Duration = Duration::from_secs(6);
/// Three times the five seconds after which the fallback is over.
const RECOVERED: Duration = Duration::from_secs(15);
/// How long a fault lasts: long enough for every timeout to have run out.
const LASTS: Duration = Duration::from_secs(3);
/// How long commands are counted after the return.
const RETURN: Duration = Duration::from_secs(3);

/// What the dashboard says about the store.
async fn dashboard_says(ensemble: &Ensemble, up: bool) -> Result<(), String> {
    let list = ensemble.dashboard.list().await;
    holds(list["storeUp"] == up, &list)?;
    let shown = ensemble.dashboard.metrics().await.value("tiebar_store_up", &[]);
    holds(shown == Some(f64::from(u8::from(up))), format!("{shown:?}"))
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
    if fault.reach() == Reach::Nobody {
        for instance in 0..ensemble.instances.len() {
            ensemble.says(instance, false).await.expect("nobody goes on alone");
        }
    }
    fault.heal(ensemble).await;
    let healed = Instant::now();
    ensemble.primary().forget_commands().await;
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
    let (commands, most) = ensemble.primary().commands().await;
    let seconds = healed.elapsed().as_secs_f64();
    println!("after the return: {:.0} commands a second, most: {most}", commands as f64 / seconds);
    ensemble.agree(Ensemble::WELL, "closed").await;
    ensemble.agree(Ensemble::SICK, "open").await;

    let seen = traffic.stop().await;
    println!("{fault:?}: {} calls, the slowest {:.1?}", seen.calls, seen.slowest);
    assert!(seen.wrong.is_empty(), "{} went wrong: {:#?}", seen.wrong.len(), seen.wrong.first());
    assert!(seen.calls > 100, "{}", seen.calls);
    assert!(seen.slowest < Duration::from_secs(2), "a call waited for the store");
    let transitions = ensemble.primary().transitions(Ensemble::SICK).await;
    let closed = transitions.iter().skip(1).any(|line| line.contains("→ closed"));
    assert!(!closed, "{transitions:?}");
    // A few a second and instance: heartbeats, resyncs, the batches of the closed circuit, two that watch.
    assert!(commands as f64 / seconds < 500.0, "a stampede: {commands} commands");
}

/// Everybody whom it concerns says so.
async fn shows(fault: Fault, ensemble: &Ensemble) {
    let instances = match fault.reach() {
        Reach::Nobody => 0,
        Reach::First => 1,
        Reach::All => ensemble.instances.len(),
    };
    eventually(SHOWN, "who is cut off says so", async || {
        for instance in 0..instances {
            ensemble.says(instance, true).await?;
        }
        Ok::<(), String>(())
    })
    .await;
    if fault.reach() == Reach::First {
        ensemble.says(1, false).await.expect("the others are not concerned");
    }
    if fault.reach() == Reach::All && !fault.leaves_reading() {
        eventually(SHOWN, "the dashboard says that the store is gone", async || {
            dashboard_says(ensemble, false).await
        })
        .await;
        let says = |line: &str| line.contains("the store does not answer").then_some(());
        ensemble.operator.process.logged("the operator says so", says).await;
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
