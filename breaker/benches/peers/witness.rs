//! Each instance's own word on when it learnt of a transition: the time of the line it logs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static LISTENING: AtomicBool = AtomicBool::new(false);
static SEEN: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

/// Takes the place of a log.
pub(crate) struct Witness;

/// Whether an event says that the circuit opened.
#[derive(Default)]
struct Opened(bool);

impl Visit for Opened {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= field.name() == "to" && format!("{value:?}") == "open";
    }
}

impl Subscriber for Witness {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO && metadata.target().starts_with("tiebar::guard")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if !LISTENING.load(Ordering::Acquire) {
            return;
        }
        let now = Instant::now();
        let mut opened = Opened::default();
        event.record(&mut opened);
        if opened.0 {
            SEEN.lock().expect("whole").push(now);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Begins to listen, from nothing.
pub(crate) fn listen() {
    SEEN.lock().expect("whole").clear();
    LISTENING.store(true, Ordering::Release);
}

/// How many have spoken so far.
pub(crate) fn heard() -> usize {
    SEEN.lock().expect("whole").len()
}

/// When each spoke.
pub(crate) fn testimony() -> Vec<Instant> {
    LISTENING.store(false, Ordering::Release);
    SEEN.lock().expect("whole").clone()
}
