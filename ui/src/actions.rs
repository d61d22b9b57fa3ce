//! What a person may do to a breaker: the four verbs, what each does to traffic, and who carries it out.
//!
//! The dashboard never writes the store. It asks the one who owns the configuration: in file mode the operator, on
//! Kubernetes the API server.

use crate::auth::Person;
use crate::detail::Detail;
use crate::operator::Operator;
use crate::view::Kind;
use crate::words;
use tiebar::id::ServiceId;

/// The longest reason, as in the resource; characters.
pub(crate) const MAX_REASON: usize = 256;
/// The longest override by hand, milliseconds: thirty days.
const MAX_EXPIRY_MS: u64 = 30 * 86_400_000;

/// How long an override lasts, as offered.
pub(crate) const EXPIRIES: [(&str, &str); 6] = [
    ("5m", "5 minutes"),
    ("15m", "15 minutes"),
    ("1h", "1 hour"),
    ("4h", "4 hours"),
    ("24h", "24 hours"),
    ("never", "until it is cleared"),
];

/// Chosen until somebody chooses otherwise: what is forced must not be forgotten.
pub(crate) const USUAL_EXPIRY: &str = "1h";

/// One action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    ForceOpen,
    ForceClosed,
    Clear,
    Reset,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::ForceOpen, Self::ForceClosed, Self::Clear, Self::Reset];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ForceOpen => "force_open",
            Self::ForceClosed => "force_closed",
            Self::Clear => "clear",
            Self::Reset => "reset",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ForceOpen => "Force open",
            Self::ForceClosed => "Force closed",
            Self::Clear => "Clear the override of",
            Self::Reset => "Reset",
        }
    }

    /// On a button, where the service is not named.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Clear => "Clear override",
            other => other.label(),
        }
    }

    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::ForceOpen => "danger",
            Self::ForceClosed => "warning",
            Self::Clear | Self::Reset => "plain-strong",
        }
    }

    /// It has an end.
    pub(crate) fn expires(self) -> bool {
        matches!(self, Self::ForceOpen | Self::ForceClosed)
    }

    /// The verbs that make sense now.
    pub(crate) fn offered(detail: &Detail) -> Vec<Self> {
        let forced = detail.row.forced.as_ref().map(|forced| forced.open);
        let mut verbs = Vec::new();
        if forced != Some(true) {
            verbs.push(Self::ForceOpen);
        }
        if forced != Some(false) {
            verbs.push(Self::ForceClosed);
        }
        if forced.is_some() {
            verbs.push(Self::Clear);
        } else if !matches!(
            detail.row.kind,
            Kind::Closed | Kind::Idle | Kind::Disabled | Kind::Shadow
        ) {
            verbs.push(Self::Reset);
        }
        verbs
    }

    /// What it will do to traffic, in a sentence that names the service.
    pub(crate) fn effect(self, detail: &Detail) -> String {
        let row = &detail.row;
        let by = match row.counts.live {
            0 => "every instance".to_owned(),
            live => format!("all {}", words::count(live as u64, "instance")),
        };
        let (calls, rejected) = (words::rate(row.calls_rate), words::rate(row.rejected_rate));
        let id = &row.id;
        match self {
            Self::ForceOpen => format!(
                "reject every call to {id}, by {by}, whatever the service answers. About {calls} calls a second that pass now will be rejected."
            ),
            Self::ForceClosed => format!(
                "let every call to {id} through, by {by}, whatever fails. About {rejected} calls a second that are rejected now will reach the service, and nothing will protect it or its callers."
            ),
            Self::Clear => match row.forced.as_ref().map(|forced| forced.open) {
                Some(true) => {
                    format!("end the override of {id}: the next calls become probes, and it closes if they pass.")
                }
                Some(false) => {
                    format!("end the override of {id}: it is closed with an empty window, and may trip again.")
                }
                None => format!("change nothing: {id} has no override."),
            },
            Self::Reset => format!(
                "close {id} at once and forget its window, without a probe. About {rejected} calls a second that are rejected now will reach the service; if it still fails, the breaker trips again."
            ),
        }
    }
}

/// A checked wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) id: ServiceId,
    pub(crate) verb: Verb,
    pub(crate) reason: String,
    /// Unix milliseconds by the store's clock; none: until cleared, or without an end.
    pub(crate) until: Option<u64>,
    pub(crate) by: Option<String>,
}

impl Order {
    /// Checks what a form said.
    pub(crate) fn new(
        id: ServiceId,
        verb: Verb,
        reason: &str,
        expires: &str,
        by: Option<String>,
        now: u64,
    ) -> Result<Self, String> {
        let reason = reason.trim();
        if reason.is_empty() {
            return Err("A reason is required: who reads this at night wants to know why.".to_owned());
        }
        if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(format!("The reason is one line of at most {MAX_REASON} characters."));
        }
        let until = match (verb.expires(), expires) {
            (false, _) | (true, "never") => None,
            (true, text) => match tiebar::duration::parse(text) {
                Ok(ms) if (1_000..=MAX_EXPIRY_MS).contains(&ms) => Some(now + ms),
                _ => return Err("An override lasts between 1s and 720h, or “never” ends.".to_owned()),
            },
        };
        Ok(Self {
            id,
            verb,
            reason: reason.to_owned(),
            until,
            by,
        })
    }

    /// The reason with the person's name, as it is kept with the configuration.
    pub(crate) fn signed_reason(&self) -> String {
        match &self.by {
            Some(by) => {
                let signed = format!("{} ({by})", self.reason);
                if signed.chars().count() <= MAX_REASON {
                    signed
                } else {
                    self.reason.clone()
                }
            }
            None => self.reason.clone(),
        }
    }
}

/// Who carries actions out.
#[derive(Debug, Clone)]
pub enum Actions {
    /// Nobody: the dashboard only reads.
    Off,
    /// The operator in file mode.
    Operator {
        /// Its port.
        operator: Operator,
        /// Who may act; empty: everybody who is signed in.
        people: Vec<String>,
        /// Nobody needs to sign in: the dashboard serves this machine alone.
        local: bool,
    },
    /// The API server, by the rights the person has there.
    #[cfg(feature = "kubernetes")]
    Kubernetes(crate::kubernetes::Kubernetes),
}

impl Actions {
    /// Whether a person may act on a breaker; asked before drawing a button, and again before acting.
    #[cfg_attr(
        not(feature = "kubernetes"),
        allow(unused_variables, reason = "only a cluster asks about one breaker")
    )]
    pub(crate) async fn permits(&self, person: &Person, id: &ServiceId) -> bool {
        match self {
            // In file mode a right is for all breakers.
            Self::Off => false,
            Self::Operator { people, local, .. } => match &person.name {
                Some(name) => people.is_empty() || people.contains(name),
                None => *local,
            },
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(cluster) => cluster.permits(person, id).await,
        }
    }

    /// Why there are no buttons.
    pub(crate) fn why_not(&self) -> &'static str {
        match self {
            Self::Off => "This dashboard only reads (--actions).",
            _ => "You may look, not act.",
        }
    }

    /// Where an action is written, for the confirmation.
    pub(crate) fn destination(&self) -> String {
        match self {
            Self::Off => "nowhere".to_owned(),
            Self::Operator { operator, .. } => format!("the operator at {}", operator.address()),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => "the CircuitBreaker resource".to_owned(),
        }
    }

    /// Carries an order out.
    ///
    /// # Errors
    /// What the other side said.
    pub(crate) async fn carry_out(&self, order: &Order) -> Result<(), String> {
        match self {
            Self::Off => Err("actions are off".to_owned()),
            Self::Operator { operator, .. } => operator.carry_out(order).await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(cluster) => cluster.carry_out(order).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(verb: Verb, reason: &str, expires: &str) -> Result<Order, String> {
        Order::new(ServiceId::parse("a").unwrap(), verb, reason, expires, None, 1_000)
    }

    #[test]
    fn an_order_needs_a_reason_and_an_override_an_end() {
        assert_eq!(order(Verb::ForceOpen, " CHG-1 ", "5m").unwrap().until, Some(301_000));
        assert_eq!(order(Verb::ForceClosed, "x", "never").unwrap().until, None);
        assert_eq!(order(Verb::Reset, "x", "").unwrap().until, None);
        let long = "x".repeat(257);
        for (reason, expires) in [
            (" ", "5m"),
            ("a\nb", "5m"),
            (&long, "5m"),
            ("x", ""),
            ("x", "999h"),
            ("x", "1ms"),
        ] {
            assert!(
                order(Verb::ForceOpen, reason, expires).is_err(),
                "{reason:?} {expires:?}"
            );
        }
    }
}
