//! What of the fleet a page shows, from its address: filters, order, page.

use crate::view::{Kind, Row};
use serde::Deserialize;
use std::cmp::Reverse;
use std::fmt::Write as _;

/// Rows of one page.
pub(crate) const PAGE_ROWS: usize = 200;
/// The longest filter text, characters.
const MAX_TEXT: usize = 256;

/// `?ns=shop&state=open&q=inv&sort=name&page=2`. Unknown values mean "no filter": a link must never break a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    ns: String,
    state: String,
    q: String,
    sort: String,
    page: String,
}

/// The order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Worst first, then by name: rows do not jump while rates change.
    Worst,
    Name,
    Since,
    Failures,
    Slow,
    Calls,
    Rejected,
}

impl Sort {
    const ALL: [(&'static str, Self); 7] = [
        ("worst", Self::Worst),
        ("name", Self::Name),
        ("since", Self::Since),
        ("failures", Self::Failures),
        ("slow", Self::Slow),
        ("calls", Self::Calls),
        ("rejected", Self::Rejected),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, sort)| *sort == self)
            .map_or("worst", |(name, _)| name)
    }
}

/// The filters by state, as offered.
pub(crate) const STATES: [(&str, &str); 7] = [
    ("open", "Open"),
    ("half_open", "Half-open"),
    ("forced", "Forced"),
    ("unknown", "Unknown"),
    ("attention", "Anything to look at"),
    ("shadow", "Observed or disabled"),
    ("closed", "Closed"),
];

impl Query {
    pub(crate) fn text(&self) -> &str {
        let end = self.q.char_indices().nth(MAX_TEXT).map_or(self.q.len(), |(at, _)| at);
        self.q[..end].trim()
    }

    /// A namespace, `-` for ids without one; empty: all.
    pub(crate) fn namespace(&self) -> &str {
        &self.ns
    }

    pub(crate) fn state(&self) -> &str {
        STATES
            .iter()
            .find(|(name, _)| *name == self.state)
            .map_or("", |(name, _)| name)
    }

    pub(crate) fn sort(&self) -> Sort {
        Sort::ALL
            .iter()
            .find(|(name, _)| *name == self.sort)
            .map_or(Sort::Worst, |(_, sort)| *sort)
    }

    /// Counted from 1.
    pub(crate) fn page(&self) -> usize {
        self.page.parse().unwrap_or(1).max(1)
    }

    pub(crate) fn is_filtered(&self) -> bool {
        !self.text().is_empty() || !self.ns.is_empty() || !self.state().is_empty()
    }

    pub(crate) fn admits_id(&self, id: &str) -> bool {
        let namespace = id.split_once('/').map_or("-", |(namespace, _)| namespace);
        (self.ns.is_empty() || self.ns == namespace) && contains(id, self.text())
    }

    fn admits_state(&self, row: &Row) -> bool {
        match self.state() {
            "open" => row.kind == Kind::Open,
            "half_open" => row.kind == Kind::HalfOpen,
            "forced" => matches!(row.kind, Kind::ForcedOpen | Kind::ForcedClosed),
            "unknown" => row.kind == Kind::Unknown,
            "attention" => row.needs_attention(),
            "shadow" => matches!(row.kind, Kind::Shadow | Kind::ShadowOpen | Kind::Disabled),
            "closed" => matches!(row.kind, Kind::Closed | Kind::Ramping | Kind::Idle),
            _ => true,
        }
    }

    /// Whether an id passes the filters by text and namespace.
    pub(crate) fn admits(&self, id: &tiebar::id::ServiceId) -> bool {
        self.admits_id(id.as_str())
    }

    /// Filters and orders.
    pub(crate) fn select(&self, mut rows: Vec<Row>) -> Vec<Row> {
        rows.retain(|row| self.admits_state(row));
        // Rows come in the order of their ids, and the sort is stable.
        match self.sort() {
            Sort::Worst => rows.sort_by_key(|row| row.kind.severity() * 2 + u8::from(!row.needs_attention())),
            Sort::Name => {}
            Sort::Since => rows.sort_by_key(|row| Reverse(row.since)),
            Sort::Failures => rows.sort_by_key(|row| Reverse(row.failures.rate_bp())),
            Sort::Slow => rows.sort_by_key(|row| Reverse(row.slow.rate_bp())),
            Sort::Calls => rows.sort_by_key(|row| Reverse(row.calls_rate)),
            Sort::Rejected => rows.sort_by_key(|row| Reverse(row.rejected_rate)),
        }
        rows
    }

    /// The query of a link that differs in one thing; changing anything but the page returns to the first.
    pub(crate) fn with(&self, name: &str, value: &str) -> String {
        let mut changed = self.clone();
        if name != "page" {
            changed.page.clear();
        }
        match name {
            "ns" => value.clone_into(&mut changed.ns),
            "state" => value.clone_into(&mut changed.state),
            "sort" => value.clone_into(&mut changed.sort),
            "page" => value.clone_into(&mut changed.page),
            _ => {}
        }
        changed.to_query()
    }

    /// As it stands in an address, without the question mark; the same for equal queries.
    pub(crate) fn to_query(&self) -> String {
        let page = if self.page() > 1 {
            self.page().to_string()
        } else {
            String::new()
        };
        let sort = if self.sort() == Sort::Worst {
            ""
        } else {
            self.sort().as_str()
        };
        let parts = [
            ("ns", self.namespace()),
            ("state", self.state()),
            ("q", self.text()),
            ("sort", sort),
            ("page", &page),
        ];
        let mut text = String::new();
        for (name, value) in parts.iter().filter(|(_, value)| !value.is_empty()) {
            let _ = write!(
                text,
                "{}{name}={}",
                if text.is_empty() { "" } else { "&" },
                encode(value)
            );
        }
        text
    }
}

fn contains(id: &str, text: &str) -> bool {
    text.is_empty() || id.contains(&text.to_lowercase())
}

/// Percent-encodes everything that could mean something in an address.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
