//! What a caller judges by itself: which answers are failures, which say nothing.

use crate::spec::{Conditions, ErrorKind};
use tiebar::state::GRPC_CODES;

/// Status codes as inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Codes(Vec<(u16, u16)>);

impl Codes {
    /// Parses `503` and `500-599`.
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        let parse = |text: &String| {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            match (low.parse::<u16>(), high.parse::<u16>()) {
                (Ok(low), Ok(high)) if (100..=599).contains(&low) && low <= high && high <= 599 => Ok((low, high)),
                _ => Err(text.clone()),
            }
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a status is among them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

/// `spec.failureConditions`, ready to be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct FailureConditions {
    failures: Codes,
    ignored: Codes,
    grpc: [bool; 17],
    kinds: Vec<ErrorKind>,
}

impl Default for FailureConditions {
    fn default() -> Self {
        Self {
            failures: Codes(vec![(500, 599)]),
            ignored: Codes::default(),
            grpc: std::array::from_fn(|code| [2, 4, 13, 14, 15].contains(&code)),
            kinds: vec![ErrorKind::Timeout, ErrorKind::ConnectionFailure, ErrorKind::Reset],
        }
    }
}

impl FailureConditions {
    /// From the resource, absent lists defaulted.
    ///
    /// # Errors
    /// The field and the text that is wrong.
    pub fn new(conditions: &Conditions) -> Result<Self, (&'static str, String)> {
        let mut result = Self::default();
        if let Some(codes) = &conditions.http_status_codes {
            result.failures = Codes::parse(codes).map_err(|text| ("httpStatusCodes", text))?;
        }
        if let Some(codes) = &conditions.ignored_http_status_codes {
            result.ignored = Codes::parse(codes).map_err(|text| ("ignoredHttpStatusCodes", text))?;
        }
        if let Some(names) = &conditions.grpc_status_codes {
            result.grpc = [false; 17];
            for name in names {
                let code = GRPC_CODES.iter().position(|known| known == name && *known != "OK");
                result.grpc[code.ok_or_else(|| ("grpcStatusCodes", name.clone()))?] = true;
            }
        }
        if let Some(kinds) = &conditions.error_kinds {
            result.kinds.clone_from(kinds);
        }
        Ok(result)
    }

    /// Whether an HTTP status is a failure.
    #[must_use]
    pub fn is_failure_status(&self, status: u16) -> bool {
        self.failures.contains(status)
    }

    /// Whether an HTTP status says nothing.
    #[must_use]
    pub fn is_ignored_status(&self, status: u16) -> bool {
        self.ignored.contains(status)
    }

    /// Whether a gRPC status is a failure.
    #[must_use]
    pub fn is_failure_grpc(&self, code: u8) -> bool {
        self.grpc.get(usize::from(code)).copied().unwrap_or(true)
    }

    /// Whether an error is a failure.
    #[must_use]
    pub fn is_failure_error(&self, kind: ErrorKind) -> bool {
        self.kinds.contains(&kind)
    }
}
