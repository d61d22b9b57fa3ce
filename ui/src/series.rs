//! What happened lately, in slots of two seconds by the store's clock: the sparkline, and the chart of a breaker's page.
//!
//! Kept here and not in the store: nobody but people looks at it, and a restart of the dashboard loses five minutes at
//! most. Counts come from the growth of the window's buckets between two readings, which is exact to the reading; where
//! there is no such window (forced, disabled, by count) and for rejections they come from heartbeats.

use std::collections::VecDeque;
use tiebar::state::State;

/// A slot's length, milliseconds.
pub(crate) const SLOT_MS: u64 = 2_000;
/// Slots kept: five minutes.
pub(crate) const SLOTS: usize = 150;
/// Slots of a sparkline: two minutes.
pub(crate) const SPARK_SLOTS: usize = 60;
/// Slots that a present rate is taken over: ten seconds.
const RATE_SLOTS: usize = 5;

/// Two seconds of a breaker's life. Calls in thousandths, as heartbeats give rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Slot {
    /// Admitted calls, thousandths.
    pub(crate) calls: u64,
    /// Failed ones, thousandths.
    pub(crate) failed: u64,
    /// Rejected ones, thousandths.
    pub(crate) rejected: u64,
    /// The window as last seen: calls …
    pub(crate) window_calls: u64,
    /// … failing …
    pub(crate) window_failing: u64,
    /// … slow.
    pub(crate) window_slow: u64,
    /// The state as last seen; none: nothing was read.
    pub(crate) state: Option<State>,
}

/// The last five minutes, oldest first, the newest slot still filling.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Series {
    slots: VecDeque<Slot>,
    /// The newest slot's number; not hashed away: quiet slots that pass change nothing that is drawn.
    newest: u64,
}

impl Series {
    /// The slot of an instant, those in between filled with nothing. An instant before the newest slot (a clock that
    /// stepped back) counts as now.
    pub(crate) fn at(&mut self, now: u64) -> &mut Slot {
        let number = (now / SLOT_MS).max(self.newest);
        let passed = if self.slots.is_empty() {
            1
        } else {
            (number - self.newest).min(SLOTS as u64)
        };
        for _ in 0..passed {
            self.slots.push_back(Slot::default());
            if self.slots.len() > SLOTS {
                self.slots.pop_front();
            }
        }
        self.newest = number;
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }

    /// The last `count` slots, oldest first; fewer when the dashboard is younger.
    pub(crate) fn last(&self, count: usize) -> impl Iterator<Item = &Slot> {
        self.slots.iter().skip(self.slots.len().saturating_sub(count))
    }

    /// Thousandths of calls and of rejections per second, over the last full slots.
    pub(crate) fn rates(&self) -> (u64, u64) {
        let full = self.slots.len().saturating_sub(1).min(RATE_SLOTS);
        if full == 0 {
            return (0, 0);
        }
        let sums = self.slots.iter().rev().skip(1).take(full);
        let (calls, rejected) = sums.fold((0, 0), |(calls, rejected), slot| {
            (calls + slot.calls, rejected + slot.rejected)
        });
        let seconds = full as u64 * SLOT_MS / 1_000;
        (calls / seconds, rejected / seconds)
    }

    /// What is drawn, so that two series that look alike are told to be alike.
    pub(crate) fn drawn(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.last(SPARK_SLOTS).map(|slot| (slot.calls, slot.rejected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_the_clock_and_stay_bounded() {
        let mut series = Series::default();
        series.at(10_000).calls += 4_000;
        series.at(11_999).calls += 4_000;
        series.at(12_000).rejected += 2_000;
        assert_eq!(series.drawn().collect::<Vec<_>>(), [(8_000, 0), (0, 2_000)]);
        assert_eq!(series.rates(), (4_000, 0), "the slot that still fills is left out");
        series.at(1_000).calls += 1;
        assert_eq!(series.last(9).count(), 2, "a clock that steps back opens no slot");
        series.at(100_000_000).calls += 1;
        assert_eq!(series.last(SLOTS + 9).count(), SLOTS);
    }
}
