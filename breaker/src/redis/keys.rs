//! The names of keys and channels. One place, so that the ACL and the documents can be checked against it.

use crate::id::ServiceId;

/// How keys are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyStyle {
    /// `cb:<id>:state`.
    #[default]
    Plain,
    /// `cb:{<id>}:state`: all keys of a breaker in one slot of a Redis Cluster.
    HashTag,
}

/// Names under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
    style: KeyStyle,
}

/// The keys of one breaker in the order in which the script takes them.
pub const SUFFIXES: [&str; 7] = [
    "state",
    "failures",
    "last_failure",
    "config",
    "data",
    "events",
    "instances",
];

impl Keys {
    /// Names under `prefix`, default `cb:`.
    #[must_use]
    pub fn new(prefix: &str, style: KeyStyle) -> Self {
        Self {
            prefix: prefix.to_owned(),
            style,
        }
    }

    /// What stands before every key.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// One key of a breaker, by its suffix.
    #[must_use]
    pub fn of(&self, id: &ServiceId, suffix: &str) -> String {
        match self.style {
            KeyStyle::Plain => format!("{}{id}:{suffix}", self.prefix),
            KeyStyle::HashTag => format!("{}{{{id}}}:{suffix}", self.prefix),
        }
    }

    /// The set of ids in use.
    #[must_use]
    pub fn index(&self) -> String {
        format!("{}index", self.prefix)
    }

    /// The channel that announces transitions and revisions.
    #[must_use]
    pub fn channel(&self) -> String {
        format!("{}announce", self.prefix)
    }
}
