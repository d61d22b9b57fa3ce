//! What goes wrong, and for which request.
//!
//! A request's fate is a hash of the profile's seed and the request's number since the profile was set: the same seed
//! gives the same sequence, whatever runs at the same time, with no lock around a generator. Rejected: the `rand` crate,
//! whose streams may change between versions, and a generator in the connection, which would make fates depend on how
//! clients spread their requests.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, Unexpected, Visitor};

/// The longest `latencyMs` and `jitterMs`: one hour.
pub const LATENCY_MS_MAX: u32 = 3_600_000;

/// Which share of requests goes wrong, and how. The three percentages are shares of all requests, so together they are
/// at most 100.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default = "FaultProfile::healthy")]
pub struct FaultProfile {
    /// Requests answered with `error_status`, in %: 0–100, default 60.
    #[serde(deserialize_with = "error_percent")]
    pub error_percent: u8,
    /// The status of those answers: 400–599, default 500.
    #[serde(deserialize_with = "error_status")]
    pub error_status: u16,
    /// How long every answer (and reset) takes at least, in ms: 0–3,600,000, default 0.
    #[serde(deserialize_with = "latency_ms")]
    pub latency_ms: u32,
    /// The most that is added to `latency_ms`, uniformly drawn per request, in ms: 0–3,600,000, default 0.
    #[serde(deserialize_with = "jitter_ms")]
    pub jitter_ms: u32,
    /// Requests that never get an answer, in %: 0–100, default 0.
    #[serde(deserialize_with = "hang_percent")]
    pub hang_percent: u8,
    /// Requests whose TCP connection is reset instead of an answer, in %: 0–100, default 0. Over HTTP/2 that takes the
    /// connection's other requests along, as a crashing process would.
    #[serde(deserialize_with = "reset_percent")]
    pub reset_percent: u8,
    /// Chooses which requests go wrong; any number, default 0.
    pub seed: u64,
}

/// A profile whose fields are out of range, alone or together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidProfile(String);

/// What becomes of one request, after its delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Succeed,
    Fail,
    Hang,
    Reset,
}

/// A field's name in JSON, and its bounds.
#[derive(Clone, Copy)]
struct Limits {
    name: &'static str,
    min: u32,
    max: u32,
    unit: &'static str,
}

const ERROR_PERCENT: Limits = Limits::percent("errorPercent");
const ERROR_STATUS: Limits = Limits {
    name: "errorStatus",
    min: 400,
    max: 599,
    unit: " (an HTTP status)",
};
const LATENCY_MS: Limits = Limits {
    name: "latencyMs",
    min: 0,
    max: LATENCY_MS_MAX,
    unit: " (ms)",
};
const JITTER_MS: Limits = Limits {
    name: "jitterMs",
    min: 0,
    max: LATENCY_MS_MAX,
    unit: " (ms)",
};
const HANG_PERCENT: Limits = Limits::percent("hangPercent");
const RESET_PERCENT: Limits = Limits::percent("resetPercent");

// === impl FaultProfile ===

impl Default for FaultProfile {
    /// The profile a fresh upstream has: 60 % of requests fail with 500.
    fn default() -> Self {
        Self {
            error_percent: 60,
            ..Self::HEALTHY
        }
    }
}

impl FaultProfile {
    /// Nothing goes wrong; what absent fields mean in `PUT /_faults` and in scenarios.
    pub const HEALTHY: Self = Self {
        error_percent: 0,
        error_status: 500,
        latency_ms: 0,
        jitter_ms: 0,
        hang_percent: 0,
        reset_percent: 0,
        seed: 0,
    };

    // serde wants a function.
    fn healthy() -> Self {
        Self::HEALTHY
    }

    /// Checks every range, which deserializing does too, and that the percentages fit together, which it cannot.
    ///
    /// # Errors
    /// Names the field, its value and what would be right.
    pub fn validate(&self) -> Result<(), InvalidProfile> {
        for (limits, value) in [
            (ERROR_PERCENT, u32::from(self.error_percent)),
            (ERROR_STATUS, u32::from(self.error_status)),
            (LATENCY_MS, self.latency_ms),
            (JITTER_MS, self.jitter_ms),
            (HANG_PERCENT, u32::from(self.hang_percent)),
            (RESET_PERCENT, u32::from(self.reset_percent)),
        ] {
            if !limits.contains(u64::from(value)) {
                return Err(InvalidProfile(format!("invalid value {value}, expected {limits}")));
            }
        }
        let Self {
            error_percent,
            hang_percent,
            reset_percent,
            ..
        } = *self;
        let together = u32::from(error_percent) + u32::from(hang_percent) + u32::from(reset_percent);
        if together > 100 {
            return Err(InvalidProfile(format!(
                "errorPercent {error_percent} + hangPercent {hang_percent} + resetPercent {reset_percent} is \
                 {together}; they are shares of all requests, so together at most 100"
            )));
        }
        Ok(())
    }

    /// The fate of the `number`th request under this profile, and how long it waits for it.
    pub(crate) fn fate(&self, number: u64) -> (Fate, Duration) {
        let roll = self.draw(number, 0) % 100;
        let reset = u64::from(self.reset_percent);
        let hang = reset + u64::from(self.hang_percent);
        let fail = hang + u64::from(self.error_percent);
        let fate = match roll {
            _ if roll < reset => Fate::Reset,
            _ if roll < hang => Fate::Hang,
            _ if roll < fail => Fate::Fail,
            _ => Fate::Succeed,
        };
        let jitter = self.draw(number, 1) % (u64::from(self.jitter_ms) + 1);
        (fate, Duration::from_millis(u64::from(self.latency_ms) + jitter))
    }

    /// SplitMix64 at position `2 × number + lane` of the seed's stream.
    fn draw(&self, number: u64, lane: u64) -> u64 {
        let position = number.wrapping_mul(2).wrapping_add(lane).wrapping_add(1);
        // The seed is mixed first, so that neighbouring seeds are not neighbouring positions of one stream.
        mix(mix(self.seed).wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

// === impl Limits ===

impl Limits {
    const fn percent(name: &'static str) -> Self {
        Self {
            name,
            min: 0,
            max: 100,
            unit: " (%)",
        }
    }

    fn contains(self, value: u64) -> bool {
        (u64::from(self.min)..=u64::from(self.max)).contains(&value)
    }

    fn read<'de, D: Deserializer<'de>, T: TryFrom<u64>>(self, deserializer: D) -> Result<T, D::Error> {
        let value = deserializer.deserialize_any(self)?;
        // Out of reach: each field's type holds its maximum.
        T::try_from(value).map_err(|_| D::Error::invalid_value(Unexpected::Unsigned(value), &self))
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} to be a whole number from {} to {}{}",
            self.name, self.min, self.max, self.unit
        )
    }
}

impl Visitor<'_> for Limits {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<u64, E> {
        if self.contains(value) {
            Ok(value)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(value), &self))
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
        }
    }
}

macro_rules! readers {
    ($($name:ident: $type:ty = $limits:expr;)*) => {
        $(fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
            $limits.read(deserializer)
        })*
    };
}

readers! {
    error_percent: u8 = ERROR_PERCENT;
    error_status: u16 = ERROR_STATUS;
    latency_ms: u32 = LATENCY_MS;
    jitter_ms: u32 = JITTER_MS;
    hang_percent: u8 = HANG_PERCENT;
    reset_percent: u8 = RESET_PERCENT;
}

/// Reads a whole profile (`PUT`): absent fields are 0, `errorStatus` 500.
pub(crate) fn replaced(body: &[u8]) -> Result<FaultProfile, InvalidProfile> {
    patched(&FaultProfile::HEALTHY, body)
}

/// Reads the fields to change (`PATCH`), keeping the others.
pub(crate) fn patched(current: &FaultProfile, body: &[u8]) -> Result<FaultProfile, InvalidProfile> {
    // By way of a map, because a struct may also be read from an array, which would be a guess here.
    let read = serde_json::from_slice::<serde_json::Map<_, _>>(body).and_then(|changes| {
        let mut merged = serde_json::to_value(current)?;
        if let Some(fields) = merged.as_object_mut() {
            fields.extend(changes);
        }
        FaultProfile::deserialize(merged)
    });
    let profile = read.map_err(|error| InvalidProfile(error.to_string()))?;
    profile.validate()?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(profile: &FaultProfile, count: u64) -> Vec<(Fate, Duration)> {
        (0..count).map(|number| profile.fate(number)).collect()
    }

    #[test]
    fn a_seed_fixes_every_fate_and_another_seed_changes_them() {
        let profile = FaultProfile {
            jitter_ms: 50,
            reset_percent: 5,
            hang_percent: 5,
            ..FaultProfile::default()
        };
        assert_eq!(
            fates(&profile, 500),
            fates(&profile.clone(), 500),
            "same seed, same fates"
        );
        let other = FaultProfile {
            seed: 1,
            ..profile.clone()
        };
        assert_ne!(fates(&profile, 500), fates(&other, 500), "another seed, other fates");
    }

    #[test]
    fn the_sequence_of_a_seed_never_changes_between_releases() {
        let profile = FaultProfile {
            seed: 42,
            ..FaultProfile::default()
        };
        let failing: Vec<u64> = (0..20).filter(|number| profile.fate(*number).0 == Fate::Fail).collect();
        let pinned = [1, 2, 5, 7, 9, 10, 11, 13, 14, 15, 16, 18, 19];
        assert_eq!(failing, pinned, "scenarios in other people's repositories rely on it");
    }

    #[test]
    fn shares_are_what_the_profile_says() {
        let profile = FaultProfile {
            error_percent: 60,
            hang_percent: 10,
            reset_percent: 5,
            ..FaultProfile::HEALTHY
        };
        let fates = fates(&profile, 100_000);
        for (fate, percent) in [
            (Fate::Succeed, 25),
            (Fate::Fail, 60),
            (Fate::Hang, 10),
            (Fate::Reset, 5),
        ] {
            let share = fates.iter().filter(|(seen, _)| *seen == fate).count() / 100;
            assert!(
                share.abs_diff(percent * 10) <= 5,
                "{fate:?}: {share} ‰, wanted {percent} %"
            );
        }
    }

    #[test]
    fn all_or_none_fail_at_100_and_0_percent() {
        let all = FaultProfile {
            error_percent: 100,
            ..FaultProfile::HEALTHY
        };
        assert!(fates(&all, 10_000).iter().all(|(fate, _)| *fate == Fate::Fail));
        assert!(
            fates(&FaultProfile::HEALTHY, 10_000)
                .iter()
                .all(|(fate, _)| *fate == Fate::Succeed)
        );
    }

    #[test]
    fn delays_span_latency_to_latency_plus_jitter() {
        let profile = FaultProfile {
            latency_ms: 100,
            jitter_ms: 20,
            ..FaultProfile::HEALTHY
        };
        let delays: Vec<u128> = fates(&profile, 2_000)
            .iter()
            .map(|(_, delay)| delay.as_millis())
            .collect();
        assert_eq!(delays.iter().min(), Some(&100));
        assert_eq!(delays.iter().max(), Some(&120));
    }

    #[test]
    fn put_fills_in_zeros_and_patch_keeps_the_rest() {
        assert_eq!(replaced(b"{}"), Ok(FaultProfile::HEALTHY));
        let slow = FaultProfile {
            latency_ms: 7,
            ..FaultProfile::HEALTHY
        };
        assert_eq!(replaced(br#"{"latencyMs":7}"#), Ok(slow));
        let patched = patched(&FaultProfile::default(), br#"{"latencyMs":7}"#);
        assert_eq!(
            patched,
            Ok(FaultProfile {
                latency_ms: 7,
                ..FaultProfile::default()
            })
        );
    }

    #[test]
    fn a_refusal_says_what_was_wrong_and_what_would_be_right() {
        for (body, wrong, right) in [
            (
                r#"{"errorPercent":101}"#,
                "101",
                "errorPercent to be a whole number from 0 to 100 (%)",
            ),
            (
                r#"{"errorPercent":-1}"#,
                "-1",
                "errorPercent to be a whole number from 0 to 100 (%)",
            ),
            (
                r#"{"errorPercent":"60"}"#,
                "\"60\"",
                "errorPercent to be a whole number",
            ),
            (
                r#"{"latencyMs":1.5}"#,
                "1.5",
                "latencyMs to be a whole number from 0 to 3600000 (ms)",
            ),
            (
                r#"{"errorStatus":200}"#,
                "200",
                "errorStatus to be a whole number from 400 to 599",
            ),
            (r#"{"errorRate":60}"#, "errorRate", "`errorPercent`"),
            (
                r#"{"errorPercent":60,"hangPercent":41}"#,
                "is 101",
                "together at most 100",
            ),
            ("", "EOF", ""),
            ("[60]", "sequence", "a map"),
        ] {
            for refusal in [
                replaced(body.as_bytes()),
                patched(&FaultProfile::HEALTHY, body.as_bytes()),
            ] {
                let refusal = refusal.expect_err(body).to_string();
                assert!(refusal.contains(wrong) && refusal.contains(right), "{body}: {refusal}");
            }
        }
    }
}
