//! What is to be done when: each key at most once, never twice at a time, urgent ones first.
//!
//! A key pushed again keeps its earlier time. While a key is taken, pushes wait until it is given back. A key may be held:
//! then nothing is due before that instant, which is how a status is written at once, then at most once a second, and the
//! last change always lands. Bounded by the number of keys.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct When {
    at: Instant,
    calm: bool,
}

#[derive(Debug)]
struct Inner<K> {
    waiting: HashMap<K, When>,
    /// The same, in order.
    urgent: BTreeSet<(Instant, K)>,
    calm: BTreeSet<(Instant, K)>,
    /// Taken keys, with what was pushed meanwhile.
    taken: HashMap<K, Option<When>>,
    held: HashMap<K, Instant>,
}

impl<K: Clone + Eq + Hash + Ord> Inner<K> {
    fn put(&mut self, key: K, mut when: When) {
        if let Some(until) = self.held.get(&key) {
            when.at = when.at.max(*until);
        }
        if let Some(before) = self.waiting.remove(&key) {
            self.order(before.calm).remove(&(before.at, key.clone()));
            when = earlier(before, when);
        }
        self.order(when.calm).insert((when.at, key.clone()));
        self.waiting.insert(key, when);
    }

    fn order(&mut self, calm: bool) -> &mut BTreeSet<(Instant, K)> {
        if calm { &mut self.calm } else { &mut self.urgent }
    }

    /// The first due key, or when the next will be.
    fn take(&mut self, now: Instant, urgent_only: bool) -> Result<(K, bool), Option<Instant>> {
        let mut next: Option<Instant> = None;
        for calm in [false, true] {
            if calm && urgent_only {
                continue;
            }
            let Some((at, key)) = self.order(calm).first().cloned() else {
                continue;
            };
            if at <= now {
                self.order(calm).remove(&(at, key.clone()));
                self.waiting.remove(&key);
                if self.held.get(&key).is_some_and(|until| *until <= now) {
                    self.held.remove(&key);
                }
                self.taken.insert(key.clone(), None);
                return Ok((key, !calm));
            }
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        Err(next)
    }
}

fn earlier(a: When, b: When) -> When {
    When {
        at: a.at.min(b.at),
        calm: a.calm && b.calm,
    }
}

#[derive(Debug)]
pub(crate) struct Due<K: Clone + Eq + Hash + Ord> {
    inner: Mutex<Inner<K>>,
    changed: Notify,
}

/// A key that nobody else has until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken<K: Clone + Eq + Hash + Ord> {
    due: Arc<Due<K>>,
    pub(crate) key: K,
    pub(crate) urgent: bool,
}

impl<K: Clone + Eq + Hash + Ord> Drop for Taken<K> {
    fn drop(&mut self) {
        let mut inner = self.due.lock();
        if let Some(Some(again)) = inner.taken.remove(&self.key) {
            inner.put(self.key.clone(), again);
        }
        drop(inner);
        self.due.changed.notify_waiters();
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for Due<K> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                waiting: HashMap::new(),
                urgent: BTreeSet::new(),
                calm: BTreeSet::new(),
                taken: HashMap::new(),
                held: HashMap::new(),
            }),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Due<K> {
    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a key due at an instant, or earlier if it was so already.
    pub(crate) fn push(&self, key: K, at: Instant, urgent: bool) {
        let when = When { at, calm: !urgent };
        let mut inner = self.lock();
        match inner.taken.get_mut(&key) {
            Some(again) => *again = Some(again.map_or(when, |before| earlier(before, when))),
            None => inner.put(key, when),
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Due at once.
    pub(crate) fn now(&self, key: K, urgent: bool) {
        self.push(key, Instant::now(), urgent);
    }

    /// Not due before an instant, whoever pushes.
    pub(crate) fn hold(&self, key: &K, until: Instant) {
        let mut inner = self.lock();
        inner.held.insert(key.clone(), until);
        if let Some(when) = inner.waiting.get(key).copied() {
            inner.order(when.calm).remove(&(when.at, key.clone()));
            inner.waiting.remove(key);
            inner.put(key.clone(), when);
        }
    }

    /// Forgets a key that no longer exists.
    pub(crate) fn forget(&self, key: &K) {
        let mut inner = self.lock();
        inner.held.remove(key);
        if let Some(when) = inner.waiting.remove(key) {
            inner.order(when.calm).remove(&(when.at, key.clone()));
        }
    }

    /// Waits for the next due key. `urgent_only`: leaves the others to somebody else.
    pub(crate) async fn next(self: &Arc<Self>, urgent_only: bool) -> Taken<K> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, or a push in between would be missed.
            changed.as_mut().enable();
            let taken = self.lock().take(Instant::now(), urgent_only);
            match taken {
                Ok((key, urgent)) => {
                    return Taken {
                        due: Arc::clone(self),
                        key,
                        urgent,
                    };
                }
                Err(Some(at)) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(at) => {}
                    }
                }
                Err(None) => changed.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn urgent_ones_first_then_by_time_and_each_once() {
        let due = Arc::new(Due::default());
        let now = Instant::now();
        due.push("later", now + SECOND, false);
        due.push("calm", now, false);
        due.push("calm", now + SECOND, false);
        due.push("urgent", now, true);
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(due.next(false).await.key);
        }
        assert_eq!(order, ["urgent", "calm", "later"]);
        assert_eq!(Instant::now(), now + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_pushed_while_taken_comes_afterwards() {
        let due = Arc::new(Due::default());
        due.now("a", false);
        let taken = due.next(false).await;
        due.now("a", true);
        assert!(tokio::time::timeout(SECOND, due.next(false)).await.is_err(), "taken");
        drop(taken);
        assert!(due.next(false).await.urgent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_key_is_due_once_when_the_hold_ends_however_often_it_is_pushed() {
        let due = Arc::new(Due::default());
        let begun = Instant::now();
        due.now("a", true);
        let taken = due.next(false).await;
        due.hold(&"a", begun + SECOND);
        drop(taken);
        for _ in 0..100 {
            due.now("a", true);
        }
        drop(due.next(false).await);
        assert_eq!(Instant::now(), begun + SECOND);
        assert!(
            tokio::time::timeout(SECOND, due.next(false)).await.is_err(),
            "only once"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_urgent_ones_only_leaves_the_rest() {
        let due = Arc::new(Due::default());
        due.now("calm", false);
        assert!(tokio::time::timeout(SECOND, due.next(true)).await.is_err());
        due.now("calm", true);
        assert_eq!(due.next(true).await.key, "calm");
        due.now("gone", true);
        due.forget(&"gone");
        assert!(tokio::time::timeout(SECOND, due.next(true)).await.is_err());
    }
}
