//! What the JSON API answers, field by field; the description is made from here.

use serde::Serialize;
use utoipa::ToSchema;

/// Many breakers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BreakerList {
    #[serde(flatten)]
    pub(crate) reading: Reading,
    /// Worst first, unless the query says otherwise.
    pub(crate) items: Vec<Summary>,
}

/// How fresh an answer is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reading {
    /// The store answered last time.
    pub(crate) store_up: bool,
    /// When everything was last read, by the store's clock; absent: not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) as_of: Option<String>,
    /// The store's clock.
    pub(crate) now: String,
}

/// One breaker in short.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// `NAMESPACE/NAME`, or `NAME`.
    pub(crate) id: String,
    /// `-` for an id without one.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
    /// As the resource reports it; under Observe, `Closed`.
    pub(crate) state: StateName,
    /// How it stands on the page.
    pub(crate) presented: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// The reason of the last transition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Open: when probes may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open_until: Option<String>,
    /// 0 while closed.
    pub(crate) round: u64,
    /// The window.
    pub(crate) window: WindowTotals,
    /// Admitted calls a second, of the last ten seconds.
    pub(crate) calls_per_second: f64,
    /// Rejected ones.
    pub(crate) rejected_per_second: f64,
    /// How many instances are how.
    pub(crate) instances: Instances,
    /// What is forced by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) r#override: Option<OverrideInForce>,
    /// The configuration's revision; 0: nobody programmed one.
    pub(crate) revision: u64,
    /// Observe: what its machine would say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shadow: Option<Shadow>,
}

/// A state, as in the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) enum StateName {
    /// Calls pass.
    Closed,
    /// Calls are rejected.
    Open,
    /// Probes pass.
    HalfOpen,
    /// Rejected by hand.
    ForcedOpen,
    /// Admitted by hand.
    ForcedClosed,
    /// The store does not answer.
    Unknown,
}

/// The window's totals.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WindowTotals {
    /// Outcomes.
    pub(crate) calls: u64,
    /// Failing ones.
    pub(crate) failing: u64,
    /// Slow ones.
    pub(crate) slow: u64,
    /// Enough calls for a rate to count.
    pub(crate) judged: bool,
}

/// How many instances are how.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instances {
    /// Heard of lately.
    pub(crate) live: usize,
    /// Silent without a goodbye.
    pub(crate) lost: usize,
    /// Open by own evidence.
    pub(crate) isolated: usize,
    /// With another configuration.
    pub(crate) outdated: usize,
    /// Without the store.
    pub(crate) degraded: usize,
}

/// An override.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OverrideInForce {
    /// `ForcedOpen` or `ForcedClosed`.
    pub(crate) state: StateName,
    /// Why.
    pub(crate) reason: String,
    /// When it lapses; absent: when it is cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expire_time: Option<String>,
}

/// What would have been.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shadow {
    /// The shadow machine's state.
    pub(crate) state: StateName,
    /// Its trips.
    pub(crate) trips: u64,
    /// Calls it would have rejected.
    pub(crate) would_have_rejected: u64,
}

/// One breaker in full.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BreakerDetail {
    #[serde(flatten)]
    pub(crate) reading: Reading,
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// By name.
    pub(crate) members: Vec<MemberOut>,
    /// The effective configuration.
    pub(crate) settings: Vec<SettingOut>,
    /// The configuration as written.
    pub(crate) spec: serde_json::Value,
    /// The causes of the window's failures.
    pub(crate) causes: Vec<CauseOut>,
    /// Whom to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runbook: Option<String>,
}

/// One instance.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberOut {
    /// Its name.
    pub(crate) name: String,
    /// The state it acts on.
    pub(crate) state: String,
    /// And its number.
    pub(crate) generation: u64,
    /// Silent without a goodbye.
    pub(crate) lost: bool,
    /// Without the store.
    pub(crate) degraded: bool,
    /// Open by own evidence.
    pub(crate) isolated: bool,
    /// Calls running.
    pub(crate) in_flight: u64,
    /// The revision it acts by.
    pub(crate) revision: u64,
    /// When it was last heard of.
    pub(crate) seen_at: String,
}

/// One line of the effective configuration.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettingOut {
    /// As in the resource.
    pub(crate) path: String,
    /// As a person reads it.
    pub(crate) value: String,
    /// Nobody wrote it.
    pub(crate) default: bool,
}

/// A cause of failures.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CauseOut {
    /// A status code or a kind of error.
    pub(crate) kind: String,
    /// How many.
    pub(crate) count: u64,
}

/// A breaker's transitions with all that is known about them: an incident in one document.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Incident {
    /// The breaker now.
    pub(crate) breaker: BreakerDetail,
    /// Newest first, at most 100.
    pub(crate) items: Vec<Transition>,
}

/// One transition.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transition {
    /// Its number.
    pub(crate) generation: u64,
    /// When.
    pub(crate) time: String,
    /// Absent: nothing was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<StateName>,
    /// The state that began.
    pub(crate) to: StateName,
    /// Why.
    pub(crate) reason: String,
    /// The instance whose request caused it; empty: the operator.
    pub(crate) instance: String,
    /// What it was judged by, as stored.
    pub(crate) evidence: serde_json::Value,
    /// The same in words.
    pub(crate) summary: String,
}
