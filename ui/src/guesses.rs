//! Bounds how many tokens may be tried.
//!
//! A wrong token puts its source, and all sources together, in debt, which time pays back; who is too deep in debt is
//! refused unheard, with a right token too, or trying on would still tell which one is right. What a source has tried
//! before is no new guess: a forgotten tab or script with an old token shuts out nobody, even where an ingress gives
//! everybody one address. Rejected: `governor`, which can neither look without taking nor give back, so that right tokens
//! would use up what wrong ones may; and locking by name, by which anybody could lock out anybody.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Ten at once from one source, then one in six seconds.
const SOURCE: Price = Price {
    each: 6_000,
    most: 60_000,
};
/// A thousand at once from all, then twenty a second.
const ALL: Price = Price { each: 50, most: 50_000 };
/// Sources remembered. Those in debt are fewer, because all together may not owe more; the others may be forgotten.
const MAX_SOURCES: usize = 4_096;
/// Tokens looked up at once: so many guesses at most are heard beyond what may be owed.
const AT_ONCE: usize = 8;
/// Tried tokens remembered of one source: more than people behind one ingress have old ones.
const MAX_TRIED: usize = 1_024;

/// What a guess costs, and how much may be owed; milliseconds.
#[derive(Debug, Clone, Copy)]
struct Price {
    each: u64,
    most: u64,
}

/// Milliseconds owed at an instant.
#[derive(Debug, Clone, Copy, Default)]
struct Debt {
    owed: u64,
    at: u64,
}

impl Debt {
    fn owed(self, now: u64) -> u64 {
        self.owed.saturating_sub(now.saturating_sub(self.at))
    }

    /// How long until another guess is heard; 0: it is now.
    fn wait(self, price: Price, now: u64) -> u64 {
        (self.owed(now) + price.each).saturating_sub(price.most)
    }

    fn charge(&mut self, price: Price, now: u64) {
        *self = Self {
            owed: (self.owed(now) + price.each).min(price.most),
            at: now,
        };
    }
}

#[derive(Debug, Default)]
struct Source {
    debt: Debt,
    /// Hashes of its wrong tokens, oldest first.
    tried: VecDeque<u64>,
}

/// Everybody's debts; time is an argument.
#[derive(Debug, Default)]
struct Ledger {
    all: Debt,
    sources: HashMap<IpAddr, Source>,
}

impl Ledger {
    fn wait(&self, source: IpAddr, now: u64) -> u64 {
        let own = self
            .sources
            .get(&source)
            .map_or(0, |source| source.debt.wait(SOURCE, now));
        own.max(self.all.wait(ALL, now))
    }

    /// Whether it was a new guess.
    fn wrong(&mut self, source: IpAddr, token: u64, now: u64) -> bool {
        if self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, source| source.debt.owed(now) > 0);
        }
        let source = self.sources.entry(source).or_default();
        if source.tried.contains(&token) {
            return false;
        }
        if source.tried.len() >= MAX_TRIED {
            source.tried.pop_front();
        }
        source.tried.push_back(token);
        source.debt.charge(SOURCE, now);
        self.all.charge(ALL, now);
        true
    }
}

/// The ledger by this process's clock.
#[derive(Debug)]
pub(crate) struct Guesses {
    born: Instant,
    /// Random per process: what is remembered of a wrong token is of no use elsewhere.
    hasher: RandomState,
    ledger: Mutex<Ledger>,
    turns: Semaphore,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            hasher: RandomState::new(),
            ledger: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

impl Guesses {
    /// How long this source must wait before a token of its is heard; none: it is heard now.
    pub(crate) fn wait(&self, peer: IpAddr) -> Option<Duration> {
        let wait = self.ledger().wait(network(peer), self.now());
        (wait > 0).then(|| Duration::from_millis(wait))
    }

    /// Waits for a turn to look a token up, and holds it.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.turns.acquire().await.ok()
    }

    /// Takes note of a wrong token.
    pub(crate) fn wrong(&self, peer: IpAddr, token: &str) {
        let (source, now) = (network(peer), self.now());
        let mut ledger = self.ledger();
        if ledger.wrong(source, self.hasher.hash_one(token), now) && ledger.wait(source, now) > 0 {
            tracing::warn!(%source, "too many wrong tokens; it is refused for a while");
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who has an IPv6 address has a whole /64 of them.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        network(text.parse().unwrap())
    }

    #[test]
    fn ten_guesses_are_heard_at_once_then_one_in_six_seconds_and_others_are_not_concerned() {
        let mut ledger = Ledger::default();
        let (guesser, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
        for token in 0..10 {
            assert_eq!(ledger.wait(guesser, 1_000), 0, "guess {token}");
            assert!(ledger.wrong(guesser, token, 1_000));
        }
        assert_eq!(ledger.wait(guesser, 1_000), 6_000);
        assert_eq!(ledger.wait(guesser, 6_999), 1);
        assert_eq!(ledger.wait(guesser, 7_000), 0);
        assert!(ledger.wrong(guesser, 10, 7_000));
        assert_eq!(ledger.wait(guesser, 7_000), 6_000);
        assert_eq!(ledger.wait(other, 7_000), 0);
    }

    #[test]
    fn the_same_wrong_token_again_is_no_guess() {
        let mut ledger = Ledger::default();
        let old_tab = ip("10.0.0.1");
        assert!(ledger.wrong(old_tab, 7, 0));
        assert!((0..1_000).all(|second| !ledger.wrong(old_tab, 7, second * 1_000)));
        assert_eq!(ledger.wait(old_tab, 1_000_000), 0);
    }

    #[test]
    fn many_sources_together_are_bounded_in_guesses_and_in_memory() {
        let mut ledger = Ledger::default();
        let mut heard = 0;
        for n in 0..100_000_u32 {
            let source = IpAddr::from(n.to_be_bytes());
            // A guess a millisecond, each from somewhere else.
            if ledger.wait(source, u64::from(n)) == 0 {
                ledger.wrong(source, 1, u64::from(n));
                heard += 1;
            }
        }
        assert!((2_900..3_100).contains(&heard), "{heard} of 100,000 in 100 s");
        assert!(ledger.sources.len() <= MAX_SOURCES);
        assert_eq!(ledger.wait(ip("2001:db8::1"), 1_000_000), 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_mapped_addresses_are_ipv4() {
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::ffff:0:0:2"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    }
}
