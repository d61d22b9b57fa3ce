//! Contenders in turns.

use std::time::{Duration, Instant};

/// Turns per contender.
const TURNS: usize = 31;

/// Nanoseconds per operation: the median turn, and the middle half of all turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize];
        Self {
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
        }
    }

    /// `129 ns (121–140)`.
    pub(crate) fn text(&self) -> String {
        let (unit, scale) = match self.median {
            ns if ns < 10_000.0 => ("ns", 1.0),
            ns if ns < 10_000_000.0 => ("µs", 1e3),
            _ => ("ms", 1e6),
        };
        let number = |ns: f64| {
            let value = ns / scale;
            if value < 10.0 {
                format!("{value:.1}")
            } else {
                format!("{value:.0}")
            }
        };
        format!(
            "{} {unit} ({}–{})",
            number(self.median),
            number(self.low),
            number(self.high)
        )
    }
}

/// One turn: does its operations and says how long they took and how many they were.
pub(crate) type Contender<'a> = Box<dyn FnMut() -> (Duration, u64) + 'a>;

/// Times `work`, done `count` times.
pub(crate) fn timed(count: u64, mut work: impl FnMut()) -> (Duration, u64) {
    let start = Instant::now();
    for _ in 0..count {
        work();
    }
    (start.elapsed(), count)
}

/// Lets all contenders take turns; the first turns are not counted.
pub(crate) fn in_turns(contenders: &mut [Contender<'_>]) -> Vec<Spread> {
    let mut samples = vec![Vec::new(); contenders.len()];
    for turn in 0..=TURNS {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            let (took, count) = contender();
            if turn > 0 {
                samples.push(took.as_nanos() as f64 / count as f64);
            }
        }
    }
    samples.into_iter().map(Spread::of).collect()
}
