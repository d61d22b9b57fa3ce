//! The fleet's history: transitions gathered into incidents, in each the first to open on top.
//!
//! A cascade shows its root that way: the dependency that failed first stands above those that failed of it.

use crate::chart;
use crate::detail::Moment;
use crate::model::{Entry, Model};
use crate::observed::Observed;
use crate::query::{Query, encode};
use crate::words;
use std::collections::BTreeMap;
use tiebar::id::ServiceId;
use tiebar::state::State;

/// Calm shorter than this joins two troubles to one incident, milliseconds.
const CALM_MS: u64 = 60_000;
/// Incidents shown.
const MAX_INCIDENTS: usize = 20;
/// Single transitions shown.
pub(crate) const MAX_MOMENTS: usize = 200;

/// A stretch of time in which something was not closed.
#[derive(Debug, Clone)]
pub(crate) struct Incident {
    /// The first breaker to open.
    pub(crate) root: String,
    /// That breaker was only observed: it rejected nothing.
    pub(crate) root_observed: bool,
    pub(crate) started_iso: String,
    pub(crate) started: String,
    pub(crate) lasted: String,
    pub(crate) ongoing: bool,
    pub(crate) lanes: Vec<Lane>,
}

/// One breaker's part in an incident.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) id: String,
    pub(crate) href: String,
    /// After the incident's start.
    pub(crate) offset: String,
    pub(crate) reason: &'static str,
    pub(crate) evidence: String,
    pub(crate) openings: String,
    pub(crate) drawing: String,
    pub(crate) ongoing: bool,
    /// It rejected nothing: all its openings are a shadow machine's.
    pub(crate) observed: bool,
}

/// One line of the list.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) href: String,
    pub(crate) moment: Moment,
}

/// From when to when a breaker was in one state that is not closed.
#[derive(Debug, Clone)]
struct Piece<'a> {
    entry: &'a Entry,
    observed: bool,
    start: u64,
    /// None: until now.
    end: Option<u64>,
}

/// The transitions that a query admits, newest first.
pub(crate) fn lines(model: &Model, query: &Query, now: u64) -> Vec<Line> {
    let admitted = model.timeline.iter().filter(|entry| query.admits(&entry.id));
    let mut observed = Observed::new(model);
    admitted
        .take(MAX_MOMENTS)
        .map(|entry| Line {
            id: entry.id.to_string(),
            href: format!("/breakers/{}", entry.id),
            moment: Moment::new(&entry.event, observed.next(&entry.id, &entry.event), now),
        })
        .collect()
}

/// The incidents that a query admits, newest first.
pub(crate) fn incidents(model: &Model, query: &Query, now: u64) -> Vec<Incident> {
    let admitted = model.timeline.iter().filter(|entry| query.admits(&entry.id));
    let mut pieces = pieces(admitted, Observed::new(model));
    // A piece without an end may only be one whose end is too old to be kept; then the breaker's present state says so.
    for piece in &mut pieces {
        let present = model
            .breakers
            .get(&piece.entry.id)
            .and_then(|breaker| breaker.snapshot.as_ref());
        let generation = present.map(|snapshot| snapshot.view.generation);
        if piece.end.is_none() && generation != Some(piece.entry.event.generation) {
            piece.end = Some(piece.start);
        }
    }
    pieces.sort_by(|a, b| (a.start, &a.entry.id).cmp(&(b.start, &b.entry.id)));
    let mut groups: Vec<Vec<Piece<'_>>> = Vec::new();
    let mut until = 0;
    for piece in pieces {
        let end = piece.end.unwrap_or(now);
        match groups.last_mut() {
            Some(group) if piece.start <= until + CALM_MS => group.push(piece),
            _ => groups.push(vec![piece]),
        }
        until = until.max(end);
    }
    let newest = groups.iter().rev().take(MAX_INCIDENTS);
    newest.map(|group| incident(group, now)).collect()
}

fn pieces<'a>(newest_first: impl Iterator<Item = &'a Entry>, mut observed: Observed<'_>) -> Vec<Piece<'a>> {
    let mut ended: BTreeMap<&ServiceId, u64> = BTreeMap::new();
    let mut pieces = Vec::new();
    for entry in newest_first {
        let end = ended.insert(&entry.id, entry.event.at);
        let observed = observed.next(&entry.id, &entry.event);
        if entry.event.to.openness() > 0 {
            pieces.push(Piece {
                entry,
                observed,
                start: entry.event.at,
                end,
            });
        }
    }
    pieces
}

fn incident(pieces: &[Piece<'_>], now: u64) -> Incident {
    let start = pieces.first().map_or(now, |piece| piece.start);
    let end = pieces.iter().map(|piece| piece.end.unwrap_or(now)).max().unwrap_or(now);
    let length = (end - start).max(1);
    // In the order of their first piece, which is the order of opening.
    let mut order: Vec<&ServiceId> = Vec::new();
    let mut by_id: BTreeMap<&ServiceId, Vec<&Piece<'_>>> = BTreeMap::new();
    for piece in pieces {
        let parts = by_id.entry(&piece.entry.id).or_default();
        if parts.is_empty() {
            order.push(&piece.entry.id);
        }
        parts.push(piece);
    }
    let at = |instant: u64| (instant - start) * 1_000 / length;
    let lanes: Vec<Lane> = order
        .iter()
        .map(|id| {
            let parts = &by_id[id];
            let drawn: Vec<(u64, u64, &str)> = parts
                .iter()
                .map(|piece| {
                    (
                        at(piece.start),
                        at(piece.end.unwrap_or(now)),
                        class(piece.entry.event.to, piece.observed),
                    )
                })
                .collect();
            let first = parts[0].entry;
            let observed = parts.iter().all(|piece| piece.observed);
            let opened = if observed { "would have opened" } else { "opened" };
            let openings = parts
                .iter()
                .filter(|piece| piece.entry.event.to != State::HalfOpen)
                .count();
            let moment = Moment::new(&first.event, parts[0].observed, now);
            Lane {
                id: id.to_string(),
                href: format!("/breakers/{id}"),
                offset: match first.event.at - start {
                    0 => "first".to_owned(),
                    ms if ms < 10_000 => format!("+{}.{} s", ms / 1_000, ms % 1_000 / 100),
                    ms => format!("+{}", words::span(ms)),
                },
                reason: moment.reason,
                evidence: moment.evidence,
                openings: match openings {
                    1 => format!("{opened} once"),
                    times => format!("{opened} {times} times"),
                },
                drawing: chart::lane(&drawn),
                ongoing: parts.iter().any(|piece| piece.end.is_none()),
                observed,
            }
        })
        .collect();
    Incident {
        root: order.first().map_or_else(String::new, ToString::to_string),
        root_observed: pieces.first().is_some_and(|piece| piece.observed),
        started_iso: words::instant(start),
        started: words::clock(start, now),
        lasted: words::span(end - start),
        ongoing: lanes.iter().any(|lane| lane.ongoing),
        lanes,
    }
}

fn class(state: State, observed: bool) -> &'static str {
    match state {
        State::HalfOpen if observed => "shadow-half-open",
        State::Open if observed => "shadow-open",
        State::HalfOpen => "half-open",
        State::ForcedOpen => "forced-open",
        _ => "open",
    }
}

impl Incident {
    /// For a link into the page.
    pub(crate) fn anchor(&self) -> String {
        format!("incident-{}", encode(&self.started_iso))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tiebar::state::Reason;
    use tiebar::store::Event;

    fn entry(id: &str, at: u64, from: State, to: State) -> Entry {
        Entry {
            id: ServiceId::parse(id).unwrap(),
            event: Event {
                generation: at,
                from: Some(from),
                to,
                reason: Reason::FailureRateExceeded,
                at,
                instance: "one".to_owned(),
                snapshot: "{}".to_owned(),
            },
            frame: 0,
        }
    }

    #[test]
    fn the_first_to_open_stands_on_top_and_calm_parts_incidents() {
        use State::{Closed, HalfOpen, Open};
        let mut timeline = vec![
            entry("root", 1_000, Closed, Open),
            entry("middle", 3_500, Closed, Open),
            entry("leaf", 14_000, Closed, Open),
            entry("root", 31_000, Open, HalfOpen),
            entry("root", 32_000, HalfOpen, Closed),
            entry("middle", 33_000, Open, Closed),
            entry("leaf", 34_000, Open, Closed),
            entry("leaf", 500_000, Closed, Open),
            entry("leaf", 510_000, Open, Closed),
        ];
        timeline.reverse();
        let model = Model {
            timeline: Arc::new(timeline.into()),
            ..Model::default()
        };
        let found = incidents(&model, &Query::default(), 600_000);
        let told: Vec<(&str, Vec<(&str, &str)>)> = found
            .iter()
            .map(|incident| {
                let lanes = incident
                    .lanes
                    .iter()
                    .map(|lane| (lane.id.as_str(), lane.offset.as_str()));
                (incident.root.as_str(), lanes.collect())
            })
            .collect();
        assert_eq!(
            told,
            [
                ("leaf", vec![("leaf", "first")]),
                ("root", vec![("root", "first"), ("middle", "+2.5 s"), ("leaf", "+13 s")]),
            ]
        );
        assert!(found.iter().all(|incident| !incident.ongoing));
    }
}
