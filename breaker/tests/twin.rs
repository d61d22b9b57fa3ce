//! The script does what the model does: every reply, every stored field, every companion, after every step.

mod support;

use support::{RedisServer, twin};

/// Runs of a few hundred steps cover more starts than one long run of the same length.
#[tokio::test]
async fn model_and_script_agree_step_by_step() {
    let server = RedisServer::start().await;
    let first = std::env::var("TIEBAR_TWIN_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let runs = std::env::var("TIEBAR_TWIN_RUNS").map_or(120, |runs| runs.parse().expect("a number"));
    for seed in first..first + runs {
        if let Err(difference) = twin::run(&server, tiebar::redis::SCRIPT, seed, 250, &format!("t{seed}:")).await {
            panic!("{difference}");
        }
    }
}
