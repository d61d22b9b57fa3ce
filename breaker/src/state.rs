//! The vocabulary of the machine: states, reasons, outcomes, causes.

use std::fmt;

macro_rules! coded {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant = $code,)+ }

        impl $name {
            /// Every value, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number that stands for it in the store and in replies.
            #[must_use]
            pub fn code(self) -> u64 { self as u64 }

            /// The value a number stands for.
            #[must_use]
            pub fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// Its name in keys, labels and messages.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value of a name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }
    };
}

coded! {
    /// The state in the store.
    State {
        /// Calls pass.
        Closed = 0 "closed",
        /// Calls are rejected until a deadline.
        Open = 1 "open",
        /// A bounded number of probes pass.
        HalfOpen = 2 "half_open",
        /// Rejected by hand.
        ForcedOpen = 3 "forced_open",
        /// Admitted by hand.
        ForcedClosed = 4 "forced_closed",
    }
}

impl State {
    /// The order "more open": forced open and open over half-open over closed.
    #[must_use]
    pub fn openness(self) -> u8 {
        match self {
            Self::Closed | Self::ForcedClosed => 0,
            Self::HalfOpen => 1,
            Self::Open | Self::ForcedOpen => 2,
        }
    }

    /// Set by hand.
    #[must_use]
    pub fn is_forced(self) -> bool {
        matches!(self, Self::ForcedOpen | Self::ForcedClosed)
    }
}

coded! {
    /// Why a transition happened.
    Reason {
        /// The first state of a key nobody remembers.
        Seeded = 0 "Seeded",
        /// Lost or older state, restored from an instance's memory.
        Reseeded = 1 "Reseeded",
        /// The run of failures was reached.
        ConsecutiveFailures = 2 "ConsecutiveFailures",
        /// The failure rate was reached.
        FailureRateExceeded = 3 "FailureRateExceeded",
        /// The slow call rate was reached.
        SlowCallRateExceeded = 4 "SlowCallRateExceeded",
        /// More than half of the instances opened alone.
        InstancesIsolated = 5 "InstancesIsolated",
        /// The open duration is over and someone asked.
        WaitElapsed = 6 "WaitElapsed",
        /// Enough probes passed.
        ProbesSucceeded = 7 "ProbesSucceeded",
        /// Too many probes failed.
        ProbesFailed = 8 "ProbesFailed",
        /// The round ended with too many failed among the finished.
        ProbesTimedOut = 9 "ProbesTimedOut",
        /// The round ended with no probe finished.
        ProbesLost = 10 "ProbesLost",
        /// Set by hand.
        Override = 11 "Override",
        /// The override ended or was removed.
        OverrideLapsed = 12 "OverrideLapsed",
        /// Reset by hand.
        Reset = 13 "Reset",
        /// The mode changed.
        ModeChanged = 14 "ModeChanged",
    }
}

coded! {
    /// How an admitted call ended. The codes order as failing + 2 × slow.
    Kind {
        /// In time and well.
        Success = 0 "success",
        /// In time and badly.
        Failure = 1 "failure",
        /// Well, past the slow threshold.
        SlowSuccess = 2 "slow_success",
        /// Badly, past the slow threshold.
        SlowFailure = 3 "slow_failure",
        /// Not evidence: an ignored status, a cancelled call.
        Ignored = 4 "ignored",
    }
}

impl Kind {
    /// From the two questions asked of a finished call.
    #[must_use]
    pub fn of(failing: bool, slow: bool) -> Self {
        match (failing, slow) {
            (false, false) => Self::Success,
            (true, false) => Self::Failure,
            (false, true) => Self::SlowSuccess,
            (true, true) => Self::SlowFailure,
        }
    }

    /// Counts as a failure.
    #[must_use]
    pub fn is_failing(self) -> bool {
        matches!(self, Self::Failure | Self::SlowFailure)
    }

    /// Counts as slow.
    #[must_use]
    pub fn is_slow(self) -> bool {
        matches!(self, Self::SlowSuccess | Self::SlowFailure)
    }
}

/// What made a call fail, small enough to copy on every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nothing to tell apart.
    None,
    /// An HTTP status.
    Http(u16),
    /// A gRPC status code.
    Grpc(u8),
    /// A kind of error; letters, digits and `_` only, as it becomes part of stored text.
    Error(&'static str),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("failure"),
            Self::Http(status) => write!(f, "{status}"),
            Self::Grpc(code) => match GRPC_CODES.get(usize::from(*code)) {
                Some(name) => f.write_str(name),
                None => write!(f, "grpc_{code}"),
            },
            Self::Error(kind) => f.write_str(kind),
        }
    }
}

/// The names of gRPC's status codes, by number.
pub const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
