//! How the end of the process reaches every connection.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Context;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving = 0,
    /// Running calls end, new ones are not taken.
    Draining = 1,
    /// Whatever still runs is cut.
    Cut = 2,
}

#[derive(Debug, Default)]
pub(crate) struct Drain {
    stage: AtomicU8,
    changed: Notify,
}

impl Drain {
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Draining,
            _ => Stage::Cut,
        }
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Resolves at a stage.
    pub(crate) async fn reached(&self, stage: Stage) {
        loop {
            let changed = self.changed.notified();
            if self.stage() >= stage {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn watch(&self) -> Watcher<'_> {
        Watcher {
            drain: self,
            changed: Box::pin(self.changed.notified()),
            registered: None,
        }
    }
}

/// One task's look at the stage. It registers its waker once, not at every poll: connections are polled often, and the
/// process ends once.
pub(crate) struct Watcher<'a> {
    drain: &'a Drain,
    changed: Pin<Box<Notified<'a>>>,
    registered: Option<Stage>,
}

impl Watcher<'_> {
    /// The stage; a later change wakes the task, which must stay the same.
    pub(crate) fn look(&mut self, cx: &mut Context<'_>) -> Stage {
        loop {
            let stage = self.drain.stage();
            if self.registered == Some(stage) {
                return stage;
            }
            self.changed.set(self.drain.changed.notified());
            // Ready means that the stage has changed meanwhile, which the next round sees.
            let _ = self.changed.as_mut().poll(cx);
            self.registered = Some(stage);
        }
    }
}
