//! Counters that every call touches, striped: threads that share a cache line wait for each other at every call.

use crate::state::Kind;
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads beyond these share.
pub(super) const STRIPES: usize = 16;

thread_local! {
    static MINE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES
    };
}

/// The calling thread's number, below [`STRIPES`].
pub(super) fn mine() -> usize {
    // A thread that ends has lost its number.
    MINE.try_with(|mine| *mine).unwrap_or(0)
}

#[derive(Debug, Default)]
struct Stripe {
    begun: AtomicU64,
    /// By outcome, then rejected.
    counts: [AtomicU64; 6],
}

/// Calls begun, ended and rejected.
#[derive(Debug, Default)]
pub(super) struct Stripes([CachePadded<Stripe>; STRIPES]);

impl Stripes {
    fn mine(&self) -> &Stripe {
        &self.0[mine()]
    }

    /// A call begins.
    pub(super) fn begin(&self) {
        self.mine().begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls begun on this thread's stripe.
    pub(super) fn begun(&self) -> u64 {
        self.mine().begun.load(Ordering::Relaxed)
    }

    /// It ended so.
    pub(super) fn end(&self, kind: Kind) {
        self.mine().counts[kind.code() as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// One was rejected.
    pub(super) fn count_rejected(&self) {
        self.mine().counts[5].fetch_add(1, Ordering::Relaxed);
    }

    /// Calls by outcome, then rejected ones.
    pub(super) fn counts(&self) -> [u64; 6] {
        std::array::from_fn(|index| {
            self.0
                .iter()
                .map(|stripe| stripe.counts[index].load(Ordering::Relaxed))
                .sum()
        })
    }

    /// Calls running.
    pub(super) fn in_flight(&self) -> u64 {
        // The ended first: a call that ends in between then counts as running, not as less than nothing.
        let ended: u64 = self.counts()[..5].iter().sum();
        let begun: u64 = self.0.iter().map(|stripe| stripe.begun.load(Ordering::Relaxed)).sum();
        begun.saturating_sub(ended)
    }
}
