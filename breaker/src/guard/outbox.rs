//! Outcomes on their way from the calls to the recorder, in their order.
//!
//! Nearly every outcome is a plain success of the state in force, and which of several such came first says nothing. So a
//! thread counts its own and shares nothing with other threads. What else happens is queued and takes a turn, and each
//! count says at whose turn it began: the recorder puts both together again. One caller's outcomes keep their order
//! whatever threads it runs on, or a success between two failures could seem to have come after both.
//!
//! Rejected: one queue for all, which cost four times as much on two threads as on one; a queue per thread, which loses the
//! order; a shared number or a clock reading per outcome, which cost as much as the queue.

use super::inner::{Done, Route};
use super::stripes::{STRIPES, mine};
use super::word::Word;
use crate::state::{Cause, Kind};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// Queued outcomes; more are dropped and counted.
const QUEUE: usize = 16_384;
/// The recorder is not left asleep for more than this.
const MANY: u64 = QUEUE as u64 / 2;
/// The low bits of a count are how many, the others the turn: a million a thread, and years of turns.
const COUNT: u64 = (1 << 20) - 1;

/// States remembered for counts that a thread began and then did not get to write for so many transitions.
const STATES: usize = 1_024;

/// What callers see.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: ArrayQueue<Entry>,
    /// Grows by two with each outcome that is queued, other than a success; odd while the state changes.
    turn: CachePadded<AtomicU64>,
    counts: [CachePadded<AtomicU64>; STRIPES],
}

/// One outcome or several equal ones, by their place.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Successes of a turn come before what took it.
    place: (u64, bool),
    done: Done,
    times: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            queue: ArrayQueue::new(QUEUE),
            turn: CachePadded::default(),
            counts: Default::default(),
        }
    }

    /// Takes an outcome: whether there was room, and whether there is much by now. `word` is the guard's.
    pub(super) fn put(&self, done: Done, word: &AtomicU64) -> (bool, bool) {
        if done.kind != Kind::Success {
            let turn = self.turn.fetch_add(2, Ordering::AcqRel);
            return self.push(turn, true, done);
        }
        // The turn first: if it is even, and the word that is read after it is still the state of this call, it was all along.
        let turn = self.turn.load(Ordering::Acquire);
        let now = Word::unpack(word.load(Ordering::Acquire));
        if done.route == Route::Shared && turn & 1 == 0 && now.generation == done.generation && !now.local {
            let mine = &self.counts[mine()];
            let known = mine.load(Ordering::Relaxed);
            let fits = known & COUNT < COUNT && (known & COUNT == 0 || known & !COUNT == turn * (COUNT + 1));
            let counted = turn * (COUNT + 1) + (known & COUNT) + 1;
            // Another that shares this count, or the recorder, was here: no second try, the queue takes all.
            if fits
                && mine
                    .compare_exchange(known, counted, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
            {
                return (true, counted & COUNT == MANY);
            }
        }
        self.push(turn, false, done)
    }

    fn push(&self, turn: u64, last: bool, done: Done) -> (bool, bool) {
        let place = (turn, last);
        let room = self.queue.push(Entry { place, done, times: 1 }).is_ok();
        (room, self.queue.len() as u64 >= MANY)
    }

    /// Nothing waits here. A caller that has put something in and then sees the recorder asleep wakes it; a recorder that
    /// says it sleeps and then looks here finds it: all of that is sequentially consistent.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
            && self
                .counts
                .iter()
                .all(|count| count.load(Ordering::SeqCst) & COUNT == 0)
    }
}

/// What the recorder knows besides.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// What came out before its turn.
    early: Vec<Entry>,
    /// States, by the turn with which they began; successes are counted without saying which state they are of.
    states: Vec<(u64, u64)>,
}

impl Collector {
    /// Lets the word say something else: `change` does it.
    pub(super) fn change_state(&mut self, outbox: &Outbox, generation: u64, change: impl FnOnce()) {
        outbox.turn.fetch_add(1, Ordering::AcqRel);
        change();
        let before = outbox.turn.fetch_add(1, Ordering::AcqRel);
        self.states.push((before + 1, generation));
    }

    /// Something is here that [`Self::collect`] has not given out.
    pub(super) fn is_waiting(&self) -> bool {
        !self.early.is_empty()
    }

    /// Takes what has come, in order: outcomes, and how many of each. Nothing that the same caller did before one of them is
    /// still on its way.
    pub(super) fn collect(&mut self, outbox: &Outbox) -> Vec<(Done, usize)> {
        // All turns below this are taken. What such a caller did before is visible by that; what it did after is later.
        let turn = outbox.turn.load(Ordering::Acquire);
        let mut entries = std::mem::take(&mut self.early);
        for count in &outbox.counts {
            // Only then does it write where a caller writes.
            if count.load(Ordering::SeqCst) & COUNT == 0 {
                continue;
            }
            let counted = count.swap(0, Ordering::SeqCst);
            let begun = counted / (COUNT + 1);
            let state = self.states.iter().rfind(|(first, _)| *first <= begun);
            entries.push(Entry {
                place: (begun, false),
                done: Done {
                    route: Route::Shared,
                    generation: state.map_or(0, |(_, generation)| *generation),
                    kind: Kind::Success,
                    cause: Cause::None,
                },
                times: (counted & COUNT) as usize,
            });
        }
        // The queue last: what was put there before one of those was counted is there.
        while let Some(entry) = outbox.queue.pop() {
            entries.push(entry);
        }
        entries.sort_by_key(|entry| entry.place);
        self.early = entries.split_off(entries.partition_point(|entry| entry.place < (turn, true)));
        self.states.drain(..self.states.len().saturating_sub(STATES));
        entries.iter().map(|entry| (entry.done, entry.times)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Presented;
    use super::super::word::Gate;
    use super::*;
    use crate::state::State;
    use std::sync::mpsc;

    fn word(generation: u64) -> u64 {
        let word = Word {
            gate: Gate::Pass,
            hesitate: false,
            local: false,
            gauge: false,
            presented: Presented::State(State::Closed),
            generation,
        };
        word.pack()
    }

    fn admitted(shared: &AtomicU64) -> u64 {
        Word::unpack(shared.load(Ordering::Acquire)).generation
    }

    /// A call ends, as soon as there is room.
    fn end(outbox: &Outbox, shared: &AtomicU64, kind: Kind, generation: u64) {
        let done = Done {
            route: Route::Shared,
            generation,
            kind,
            cause: Cause::None,
        };
        while !outbox.put(done, shared).0 {
            std::thread::yield_now();
        }
    }

    /// Numbers below what is asked, from a seed.
    fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
        move |below| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        }
    }

    /// One caller that goes from thread to thread, and a recorder that collects and changes the state meanwhile.
    #[test]
    fn one_caller_s_outcomes_keep_their_order_and_state_whatever_threads_it_runs_on() {
        const CALLS: usize = 100_000;
        const THREADS: usize = 3;
        let (outbox, shared) = (Outbox::new(), AtomicU64::new(word(1)));
        let mut collector = Collector::default();
        collector.change_state(&outbox, 1, || ());
        let (mut seen, made) = std::thread::scope(|scope| {
            // What was made so far, and the call that runs.
            type Baton = (Vec<(Kind, u64)>, Option<u64>);
            let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<Baton>()).unzip();
            let (finish, finished) = mpsc::channel();
            for (thread, receiver) in receivers.into_iter().enumerate() {
                let next = senders[(thread + 1) % THREADS].clone();
                let (finish, outbox, shared) = (finish.clone(), &outbox, &shared);
                let mut random = numbers(thread as u64 + 5);
                scope.spawn(move || {
                    for (mut made, mut running) in receiver {
                        for _ in 0..=random(4) {
                            let Some(generation) = running.take() else {
                                running = Some(admitted(shared));
                                continue;
                            };
                            let kind = if random(3) == 0 { Kind::Failure } else { Kind::Success };
                            end(outbox, shared, kind, generation);
                            made.push((kind, generation));
                        }
                        if made.len() >= CALLS {
                            let _ = finish.send(made);
                            // The others end when their senders do.
                            return;
                        }
                        if next.send((made, running)).is_err() {
                            return;
                        }
                    }
                });
            }
            senders[0].send((Vec::new(), None)).unwrap();
            drop(senders);
            let (mut seen, mut generation) = (Vec::new(), 1);
            let mut random = numbers(99);
            loop {
                let made = finished.try_recv();
                seen.extend(collector.collect(&outbox));
                if random(8_192) == 0 {
                    generation += 1;
                    let change = || shared.store(word(generation), Ordering::Release);
                    collector.change_state(&outbox, generation, change);
                }
                if let Ok(made) = made {
                    break (seen, made);
                }
            }
        });
        while !outbox.is_empty() || collector.is_waiting() {
            seen.extend(collector.collect(&outbox));
        }
        let (states, mut made) = (made.last().unwrap().1, made);
        let mut seen: Vec<(Kind, u64)> = seen
            .into_iter()
            .flat_map(|(done, times)| std::iter::repeat_n((done.kind, done.generation), times))
            .collect();
        println!("{} calls, in {states} states", made.len());
        assert!(states > 10);
        assert_eq!(seen.len(), made.len());
        // Those of one state; between states there is nothing to keep.
        seen.sort_by_key(|(_, generation)| *generation);
        made.sort_by_key(|(_, generation)| *generation);
        for (place, (seen, made)) in seen.iter().zip(&made).enumerate() {
            assert_eq!(seen, made, "call {place}");
        }
    }

    #[test]
    fn of_many_callers_none_is_lost_and_none_counted_twice() {
        const CALLS: usize = 20_000;
        let (outbox, shared) = (Outbox::new(), AtomicU64::new(word(7)));
        let mut collector = Collector::default();
        collector.change_state(&outbox, 7, || ());
        let mut seen = std::thread::scope(|scope| {
            // More than there are counts: some are shared.
            let callers: Vec<_> = (0..STRIPES as u64 + 8)
                .map(|n| {
                    let (outbox, shared) = (&outbox, &shared);
                    scope.spawn(move || {
                        let mut random = numbers(n + 3);
                        let mut failures = 0;
                        for _ in 0..CALLS / STRIPES {
                            let kind = if random(50) == 0 { Kind::Failure } else { Kind::Success };
                            failures += usize::from(kind == Kind::Failure);
                            end(outbox, shared, kind, 7);
                        }
                        failures
                    })
                })
                .collect();
            let mut seen = Vec::new();
            while callers.iter().any(|caller| !caller.is_finished()) {
                seen.extend(collector.collect(&outbox));
            }
            let failures: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
            seen.extend(collector.collect(&outbox));
            let of = |wanted: Kind| {
                seen.iter()
                    .filter(|(done, _)| done.kind == wanted)
                    .map(|(_, times)| times)
                    .sum()
            };
            assert_eq!(failures, of(Kind::Failure));
            let successes: usize = of(Kind::Success);
            assert_eq!(failures + successes, CALLS / STRIPES * (STRIPES + 8));
            seen
        });
        seen.extend(collector.collect(&outbox));
        assert!(outbox.is_empty() && !collector.is_waiting());
    }

    #[test]
    fn who_ends_while_the_state_changes_is_of_the_state_that_admitted_him() {
        let (outbox, shared) = (Outbox::new(), AtomicU64::new(word(7)));
        let mut collector = Collector::default();
        collector.change_state(&outbox, 7, || ());
        end(&outbox, &shared, Kind::Success, 7);
        collector.change_state(&outbox, 8, || {
            end(&outbox, &shared, Kind::Success, 7);
            shared.store(word(8), Ordering::Release);
            end(&outbox, &shared, Kind::Success, 8);
            end(&outbox, &shared, Kind::Success, 7);
        });
        end(&outbox, &shared, Kind::Success, 7);
        end(&outbox, &shared, Kind::Success, 8);
        let seen: Vec<u64> = collector
            .collect(&outbox)
            .iter()
            .map(|(done, _)| done.generation)
            .collect();
        assert_eq!(
            seen.iter().filter(|generation| **generation == 7).count(),
            4,
            "{seen:?}"
        );
        assert_eq!(
            seen.iter().filter(|generation| **generation == 8).count(),
            2,
            "{seen:?}"
        );
    }

    #[test]
    fn a_count_that_is_full_leaves_the_rest_to_the_queue() {
        let (outbox, shared) = (Outbox::new(), AtomicU64::new(word(7)));
        let mut collector = Collector::default();
        collector.change_state(&outbox, 7, || ());
        for _ in 0..COUNT + 3 {
            end(&outbox, &shared, Kind::Success, 7);
        }
        let (counted, queued): (Vec<_>, Vec<_>) = collector
            .collect(&outbox)
            .into_iter()
            .partition(|(_, times)| *times > 1);
        assert_eq!((counted[0].1 as u64, queued.len()), (COUNT, 3));
    }
}
