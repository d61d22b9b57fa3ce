//! A rule's evidence against its threshold: as a figure, a bar, and a word beside it.

use crate::evidence::Evidence;
use crate::view::Kind;
use crate::{chart, words};
use tiebar::policy::{Policy, Window};
use tiebar::store::Snapshot;

/// One rule's evidence against its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gauge {
    /// No such rule.
    Absent,
    /// Nothing in the window.
    Quiet { threshold_bp: u64 },
    /// Not enough calls to judge.
    TooFew {
        calls: u64,
        minimum: u64,
        bp: u64,
        threshold_bp: u64,
    },
    /// Judged.
    Rate { bp: u64, threshold_bp: u64 },
    /// Failures in a row, where that is the only rule.
    Run { run: u64, of: u64 },
    /// Open: what it tripped at.
    Tripped { bp: u64, threshold_bp: u64 },
    /// Half-open: probes out, back and bad.
    Probes { out: u64, back: u64, bad: u64, of: u64 },
}

impl Gauge {
    /// There is nothing to compare.
    pub(crate) fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// For sorting; what cannot be told is 0.
    pub(crate) fn rate_bp(self) -> u64 {
        match self {
            Self::Absent | Self::Quiet { .. } => 0,
            Self::TooFew { bp, .. } | Self::Rate { bp, .. } | Self::Tripped { bp, .. } => bp,
            Self::Run { run, of } => (10_000 * run).checked_div(of).unwrap_or(0),
            Self::Probes { back, bad, .. } => (10_000 * bad).checked_div(back).unwrap_or(0),
        }
    }

    /// The figure.
    pub(crate) fn figure(self) -> String {
        match self {
            Self::Absent => "–".to_owned(),
            Self::Quiet { .. } => "no calls".to_owned(),
            Self::TooFew { calls, minimum, .. } => format!("{calls} of {minimum} calls"),
            Self::Rate { bp, .. } => words::percent(bp),
            Self::Run { run, of } => format!("{run} of {of} in a row"),
            Self::Tripped { bp, .. } => words::percent(bp),
            Self::Probes { back, of, .. } => format!("{back} of {of} back"),
        }
    }

    /// What must be said beside the bar.
    pub(crate) fn aside(self) -> String {
        match self {
            Self::Tripped { .. } => "at trip".to_owned(),
            Self::TooFew { .. } => "not judged yet".to_owned(),
            Self::Probes { bad, .. } if bad > 0 => format!("{bad} bad"),
            _ => String::new(),
        }
    }

    /// The threshold, when there is one to compare the figure with.
    pub(crate) fn threshold(self) -> Option<String> {
        match self {
            Self::Quiet { threshold_bp } | Self::Rate { threshold_bp, .. } | Self::Tripped { threshold_bp, .. } => {
                Some(words::percent(threshold_bp))
            }
            _ => None,
        }
    }

    /// A small bar with the threshold's mark.
    pub(crate) fn meter(self) -> String {
        match self {
            Self::Rate { bp, threshold_bp } => chart::meter(bp, Some(threshold_bp), "judged"),
            Self::Tripped { bp, threshold_bp } => chart::meter(bp, Some(threshold_bp), "past"),
            Self::TooFew { bp, threshold_bp, .. } => chart::meter(bp, Some(threshold_bp), "unjudged"),
            Self::Run { .. } => chart::meter(self.rate_bp(), None, "judged"),
            Self::Probes { back, bad, of, .. } if of > 0 => chart::probes(back, bad, of),
            Self::Probes { .. } | Self::Quiet { .. } | Self::Absent => String::new(),
        }
    }
}

/// The rate at the last trip.
fn trip_rate(snapshot: &Snapshot, slow: bool) -> Option<u64> {
    let evidence = Evidence::read(&snapshot.last_trip)?;
    let running = evidence.running_slow;
    let (bad, calls) = if slow {
        (evidence.slow + running, evidence.calls + running)
    } else {
        (evidence.failures, evidence.calls)
    };
    (bad * 10_000).checked_div(calls)
}

pub(crate) fn gauge(kind: Kind, snapshot: Option<&Snapshot>, policy: &Policy, slow: bool) -> Gauge {
    let threshold_bp = if slow {
        policy.slow_rate_bp
    } else {
        policy.failure_rate_bp
    };
    let only_run = !slow && threshold_bp == 0 && policy.consecutive_failures > 0;
    let Some(snapshot) = snapshot else {
        return if threshold_bp > 0 {
            Gauge::Quiet { threshold_bp }
        } else {
            Gauge::Absent
        };
    };
    if kind == Kind::HalfOpen && !slow {
        return Gauge::Probes {
            out: snapshot.leases,
            back: snapshot.finished,
            bad: snapshot.failed,
            of: snapshot.permitted.max(1),
        };
    }
    if only_run {
        let (run, of) = (snapshot.run, policy.consecutive_failures);
        let run = if kind == Kind::Open { of } else { run.min(of) };
        return Gauge::Run { run, of };
    }
    if threshold_bp == 0 || kind == Kind::Disabled {
        return Gauge::Absent;
    }
    if matches!(kind, Kind::Open | Kind::ShadowOpen)
        && let Some(bp) = trip_rate(snapshot, slow)
    {
        return Gauge::Tripped { bp, threshold_bp };
    }
    let bad = if slow { snapshot.slow } else { snapshot.failing };
    let minimum = match policy.window {
        Window::Count(size) => policy.minimum_calls.min(size),
        Window::Time(_) => policy.minimum_calls,
    };
    match (bad * 10_000).checked_div(snapshot.calls) {
        None => Gauge::Quiet { threshold_bp },
        Some(bp) if snapshot.calls < minimum => Gauge::TooFew {
            calls: snapshot.calls,
            minimum,
            bp,
            threshold_bp,
        },
        Some(bp) => Gauge::Rate { bp, threshold_bp },
    }
}
