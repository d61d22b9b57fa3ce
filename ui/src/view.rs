//! Rows and the bar on top: pure functions of a model and an instant.

use crate::chart;
use crate::gauge::{Gauge, gauge};
use crate::model::{Breaker, Counts, Model};
use crate::query::encode;
use crate::words;
use tiebar::policy::Mode;
use tiebar::state::State;

/// How a breaker is shown. Finer than the stored state: what people must tell apart at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Open,
    HalfOpen,
    Unknown,
    ForcedOpen,
    ForcedClosed,
    /// Observe, and it would be open.
    ShadowOpen,
    Ramping,
    Closed,
    /// Observe, and it would be closed.
    Shadow,
    Disabled,
    /// Programmed, and no call yet.
    Idle,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Open,
        Self::HalfOpen,
        Self::Unknown,
        Self::ForcedOpen,
        Self::ForcedClosed,
        Self::ShadowOpen,
        Self::Ramping,
        Self::Closed,
        Self::Shadow,
        Self::Disabled,
        Self::Idle,
    ];

    /// 0 is worst. What rejects calls comes first.
    pub(crate) fn severity(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::HalfOpen => 1,
            Self::Unknown => 2,
            Self::ForcedOpen => 3,
            Self::ForcedClosed => 4,
            Self::ShadowOpen => 5,
            Self::Ramping => 6,
            Self::Closed | Self::Shadow | Self::Disabled | Self::Idle => 7,
        }
    }

    /// Its class in the page, and its shape.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Unknown => "unknown",
            Self::ForcedOpen => "forced-open",
            Self::ForcedClosed => "forced-closed",
            Self::ShadowOpen => "shadow-open",
            Self::Ramping => "ramping",
            Self::Closed => "closed",
            Self::Shadow => "shadow",
            Self::Disabled => "disabled",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::HalfOpen => "Half-open",
            Self::Unknown => "Unknown",
            Self::ForcedOpen => "Forced open",
            Self::ForcedClosed => "Forced closed",
            Self::ShadowOpen => "Would be open",
            Self::Ramping => "Ramping up",
            Self::Closed => "Closed",
            Self::Shadow => "Observed",
            Self::Disabled => "Disabled",
            Self::Idle => "No calls yet",
        }
    }
}

/// An instant that something waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// Unix milliseconds by the store's clock.
    pub(crate) at: u64,
    /// What happens then.
    pub(crate) label: &'static str,
    /// What stands there once it has passed.
    pub(crate) passed: &'static str,
}

/// An override in force, or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forced {
    pub(crate) open: bool,
    pub(crate) reason: String,
    /// Unix milliseconds; 0: until removed.
    pub(crate) until: u64,
}

/// One breaker in a line.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) href: String,
    pub(crate) kind: Kind,
    /// More to the state than its word.
    pub(crate) note: String,
    /// Unix milliseconds by the store's clock; 0: unknown.
    pub(crate) since: u64,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) failures: Gauge,
    pub(crate) slow: Gauge,
    /// Thousandths per second.
    pub(crate) calls_rate: u64,
    /// Thousandths per second.
    pub(crate) rejected_rate: u64,
    pub(crate) counts: Counts,
    pub(crate) forced: Option<Forced>,
    pub(crate) version: u64,
    pub(crate) now: u64,
    spark: Spark,
}

#[derive(Debug, Clone)]
struct Spark(Vec<(u64, u64)>);

impl Row {
    /// Builds the row of a breaker.
    pub(crate) fn new(breaker: &Breaker, model: &Model, here: u64) -> Self {
        let now = model.store_time(here);
        let (kind, note) = kind(breaker, model, here, now);
        let (namespace, name) = split(breaker.id.as_str());
        let (calls_rate, rejected_rate) = breaker.series.rates();
        let policy = breaker.policy();
        Self {
            id: breaker.id.to_string(),
            href: format!("/breakers/{}", breaker.id),
            namespace,
            name,
            note,
            since: breaker.snapshot.as_ref().map_or(0, |snapshot| snapshot.since),
            deadline: deadline(kind, breaker),
            failures: gauge(kind, breaker.snapshot.as_ref(), &policy, false),
            slow: gauge(kind, breaker.snapshot.as_ref(), &policy, true),
            calls_rate,
            rejected_rate,
            counts: breaker.counts(),
            forced: forced(breaker, now),
            version: breaker.version,
            now,
            spark: Spark(breaker.series.drawn().collect()),
            kind,
        }
    }

    /// Something about it is not as it should be, whatever its state.
    pub(crate) fn needs_attention(&self) -> bool {
        let counts = &self.counts;
        self.kind.severity() < 6
            || counts.isolated + counts.lost + counts.degraded > 0
            || matches!(self.failures, Gauge::Rate { bp, threshold_bp } if bp * 2 >= threshold_bp)
    }

    /// Its override is in force.
    pub(crate) fn is_forced(&self) -> bool {
        matches!(self.kind, Kind::ForcedOpen | Kind::ForcedClosed)
    }

    pub(crate) fn sparkline(&self) -> String {
        chart::sparkline(&self.spark.0, self.calls_rate, self.rejected_rate)
    }

    pub(crate) fn shape(&self) -> &'static str {
        chart::shape(self.kind)
    }

    pub(crate) fn since_text(&self) -> String {
        words::span(self.now.saturating_sub(self.since))
    }

    pub(crate) fn since_iso(&self) -> String {
        words::instant(self.since)
    }

    pub(crate) fn since_clock(&self) -> String {
        words::clock(self.since, self.now)
    }

    pub(crate) fn calls_text(&self) -> String {
        words::rate(self.calls_rate)
    }

    pub(crate) fn rejected_text(&self) -> String {
        words::rate(self.rejected_rate)
    }

    /// The element's id: an id may hold a slash, which is fine there, but not in a selector.
    pub(crate) fn anchor(&self) -> String {
        format!("row-{}", encode(&self.id))
    }
}

impl Deadline {
    /// What stands there now.
    pub(crate) fn text(&self, now: &u64) -> String {
        if self.at > *now {
            format!("{} {}", self.label, words::wait(self.at - now))
        } else {
            self.passed.to_owned()
        }
    }

    pub(crate) fn iso(&self) -> String {
        words::instant(self.at)
    }
}

impl Forced {
    pub(crate) fn word(&self) -> &'static str {
        if self.open { "Forced open" } else { "Forced closed" }
    }

    pub(crate) fn until_text(&self, now: &u64) -> String {
        match self.until {
            0 => "until somebody clears it".to_owned(),
            until if until > *now => format!("lapses in {}", words::wait(until - now)),
            _ => "has lapsed".to_owned(),
        }
    }

    pub(crate) fn until_iso(&self) -> String {
        words::instant(self.until)
    }
}

fn split(id: &str) -> (Option<String>, String) {
    match id.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
        None => (None, id.to_owned()),
    }
}

fn kind(breaker: &Breaker, model: &Model, here: u64, now: u64) -> (Kind, String) {
    let (kind, note) = known_kind(breaker, now);
    if let Some(damage) = &breaker.damage {
        return (Kind::Unknown, damage.clone());
    }
    if model.is_unknown(here) {
        return (Kind::Unknown, format!("was {}", kind.word().to_lowercase()));
    }
    (kind, note)
}

fn known_kind(breaker: &Breaker, now: u64) -> (Kind, String) {
    let mode = breaker.policy().mode;
    if mode == Mode::Disabled {
        return (Kind::Disabled, "admits everything, counts nothing".to_owned());
    }
    let Some(snapshot) = &breaker.snapshot else {
        if let Some(forced) = forced(breaker, now) {
            let kind = if forced.open {
                Kind::ForcedOpen
            } else {
                Kind::ForcedClosed
            };
            return (kind, "no calls yet".to_owned());
        }
        let note = if breaker.is_configured() {
            ""
        } else {
            "nobody has programmed it"
        };
        return (Kind::Idle, note.to_owned());
    };
    let view = &snapshot.view;
    let none = String::new;
    match view.state {
        State::ForcedOpen => (Kind::ForcedOpen, none()),
        State::ForcedClosed => (Kind::ForcedClosed, none()),
        State::Open | State::HalfOpen if mode == Mode::Observe => {
            (Kind::ShadowOpen, "observed only: calls pass".to_owned())
        }
        State::Closed if mode == Mode::Observe => (Kind::Shadow, "calls pass whatever happens".to_owned()),
        State::Open => (Kind::Open, round(view.round)),
        State::HalfOpen => (Kind::HalfOpen, round(view.round)),
        State::Closed if snapshot.ramp_until > now => (Kind::Ramping, none()),
        State::Closed if !breaker.is_configured() => (Kind::Closed, "rules from code or file".to_owned()),
        State::Closed => (Kind::Closed, none()),
    }
}

fn round(round: u64) -> String {
    if round > 1 {
        format!("round {round}")
    } else {
        String::new()
    }
}

fn deadline(kind: Kind, breaker: &Breaker) -> Option<Deadline> {
    let snapshot = breaker.snapshot.as_ref()?;
    let at = |at: u64, label, passed| (at > 0).then_some(Deadline { at, label, passed });
    match kind {
        Kind::Open => at(snapshot.open_until, "probes in", "next call probes"),
        Kind::ShadowOpen => at(snapshot.open_until, "would probe in", "would probe now"),
        Kind::HalfOpen => at(snapshot.round_until, "verdict in", "verdict due"),
        Kind::Ramping => at(snapshot.ramp_until, "all calls in", "all calls"),
        _ => None,
    }
}

/// The override programmed, while it has not lapsed.
pub(crate) fn forced(breaker: &Breaker, now: u64) -> Option<Forced> {
    let config = breaker.config.as_ref()?.programmed.as_ref()?;
    let forced = config
        .config
        .forced
        .filter(|forced| forced.expires_at == 0 || forced.expires_at > now)?;
    let written = breaker.stored.spec.r#override.as_ref();
    Some(Forced {
        open: forced.open,
        reason: written.and_then(|written| written.reason.clone()).unwrap_or_default(),
        until: forced.expires_at,
    })
}

/// The bar on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) total: usize,
    pub(crate) open: usize,
    pub(crate) half_open: usize,
    pub(crate) forced: usize,
    pub(crate) unknown: usize,
    pub(crate) isolated: usize,
    pub(crate) outage: Option<String>,
    pub(crate) replica: bool,
    pub(crate) stale: bool,
    /// Unix milliseconds here of the last complete reading; 0: none yet.
    pub(crate) read_at: u64,
    pub(crate) now: u64,
    pub(crate) age_text: String,
}

impl Bar {
    /// Counts the whole fleet, whatever a page filters.
    pub(crate) fn new(model: &Model, here: u64) -> Self {
        let now = model.store_time(here);
        let kinds: Vec<Kind> = model
            .breakers
            .values()
            .map(|breaker| kind(breaker, model, here, now).0)
            .collect();
        let count = |wanted: &[Kind]| kinds.iter().filter(|kind| wanted.contains(kind)).count();
        Self {
            total: kinds.len(),
            open: count(&[Kind::Open]),
            half_open: count(&[Kind::HalfOpen]),
            forced: count(&[Kind::ForcedOpen, Kind::ForcedClosed]),
            unknown: count(&[Kind::Unknown]),
            isolated: model.breakers.values().map(|breaker| breaker.counts().isolated).sum(),
            outage: model.outage.as_ref().map(|outage| {
                format!(
                    "The store does not answer since {} ({})",
                    words::span(here.saturating_sub(outage.since)),
                    outage.error
                )
            }),
            replica: model.replica,
            stale: model.is_stale(here),
            read_at: if model.read_at > 0 {
                model.store_time(model.read_at)
            } else {
                0
            },
            now,
            age_text: model
                .age(here)
                .map_or_else(|| "nothing read yet".to_owned(), words::span),
        }
    }
}

/// All rows in the order of their ids.
pub(crate) fn rows(model: &Model, query: &crate::query::Query, here: u64) -> Vec<Row> {
    let admitted = model.breakers.values().filter(|breaker| query.admits(&breaker.id));
    admitted.map(|breaker| Row::new(breaker, model, here)).collect()
}

/// The namespaces in use; `-` for ids without one.
pub(crate) fn namespaces(model: &Model) -> Vec<String> {
    let of = |id: &str| id.split_once('/').map_or("-", |(namespace, _)| namespace).to_owned();
    let mut namespaces: Vec<String> = model.breakers.keys().map(|id| of(id.as_str())).collect();
    namespaces.dedup();
    namespaces.sort();
    namespaces.dedup();
    namespaces
}
