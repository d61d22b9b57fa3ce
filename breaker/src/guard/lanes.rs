//! Ways to what a guard's callers share, one a thread.
//!
//! A permit keeps its guard alive. With one reference count for all, each call would wait twice for the cache line that
//! holds it; a lane has a count of its own, in a line of its own. Rejected: permits that borrow, which no proxy could keep
//! beside an answer that is still streaming.

use super::inner::Inner;
use super::stripes::{STRIPES, mine};
use crossbeam_utils::CachePadded;
use std::ops::Deref;
use std::sync::Arc;

/// One way. Cheap to clone on the thread whose it is.
#[derive(Debug, Clone)]
pub(super) struct Lane(Arc<CachePadded<Arc<Inner>>>);

impl Deref for Lane {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// All ways to one guard's shared part.
#[derive(Debug)]
pub(super) struct Lanes([Lane; STRIPES]);

impl Lanes {
    pub(super) fn new(inner: Inner) -> Self {
        let inner = Arc::new(inner);
        Self(std::array::from_fn(|_| {
            Lane(Arc::new(CachePadded::new(Arc::clone(&inner))))
        }))
    }

    /// The calling thread's.
    pub(super) fn mine(&self) -> &Lane {
        &self.0[mine()]
    }

    /// The one that is also the recorder's.
    pub(super) fn first(&self) -> &Lane {
        &self.0[0]
    }

    /// Whether somebody besides the recorder goes on one of them.
    pub(super) fn are_used(&self) -> bool {
        let holders: usize = self.0.iter().map(|lane| Arc::strong_count(&lane.0)).sum();
        holders > STRIPES + 1
    }
}

impl Deref for Lanes {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        self.first()
    }
}
