//! Scenario files.
//!
//! Ranges are checked while reading wherever one value is at fault, because only then does the error name path and line;
//! [`Plan::check`] sees to what concerns several.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use http::Uri;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use upstream::FaultProfile;

use crate::duration;
use crate::plan::{Expectations, HTTP_URL, InvalidPlan, Phase, Plan, RATE_MAX, parse_target};

/// The longest phase name, in characters: it has a column of its own.
const NAME_CHARS_MAX: usize = 40;

/// A scenario as written; [`Scenario::into_plan`] adds what it leaves open.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Where calls go; absent: wherever the caller says.
    #[serde(default)]
    targets: Option<Vec<Url>>,
    /// The upstream whose faults are set.
    #[serde(default)]
    upstream: Option<Url>,
    phases: Vec<WrittenPhase>,
    #[serde(default)]
    expect: Expectations,
}

#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPhase {
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(deserialize_with = "duration")]
    duration: Duration,
    #[serde(default, deserialize_with = "rate")]
    rate: Option<f64>,
    #[serde(default)]
    faults: Option<FaultProfile>,
    #[serde(default)]
    expect: Expectations,
}

/// Why a scenario cannot be used; names the file and, where there is one, the field.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{file}: {error}")]
    Unreadable {
        /// The path as given.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is no YAML, has an unknown or missing field, or a value out of range.
    #[error("{file}: {error}")]
    Malformed {
        /// The path as given.
        file: String,
        /// What was wrong where, and what would be right.
        error: serde_yaml::Error,
    },
    /// Its values do not fit together.
    #[error("{file}: {error}")]
    Senseless {
        /// The path as given.
        file: String,
        /// What was wrong where, and what would be right.
        error: InvalidPlan,
    },
}

impl Scenario {
    /// Reads and checks a scenario file; `upstream` stands in for the one it names, or does not.
    ///
    /// # Errors
    /// When it cannot be read, or something in it is wrong.
    pub fn read(path: &Path, upstream: Option<Uri>) -> Result<Self, ScenarioError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ScenarioError::Unreadable {
            file: file.clone(),
            error,
        })?;
        let mut scenario = Self::written(&file, &text)?;
        scenario.upstream = upstream.map(Url).or(scenario.upstream);
        scenario.checked(&file)
    }

    /// Reads a scenario from `text`; `file` is what errors call it.
    ///
    /// # Errors
    /// When something in it is wrong.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        Self::written(file, text)?.checked(file)
    }

    fn written(file: &str, text: &str) -> Result<Self, ScenarioError> {
        serde_yaml::from_str(text).map_err(|error| ScenarioError::Malformed {
            file: file.to_owned(),
            error,
        })
    }

    fn checked(self, file: &str) -> Result<Self, ScenarioError> {
        // With any valid target and rate, what is wrong now is wrong in the file.
        let anywhere = vec![Uri::from_static("http://localhost")];
        match self.clone().into_plan(anywhere, 1.0).check() {
            Ok(()) => Ok(self),
            Err(error) => Err(ScenarioError::Senseless {
                file: file.to_owned(),
                error,
            }),
        }
    }

    /// The plan; `targets` and `rate` (calls per second over all targets) stand in where the scenario has none.
    #[must_use]
    pub fn into_plan(self, targets: Vec<Uri>, rate: f64) -> Plan {
        let phases = self.phases.into_iter().map(|written| Phase {
            name: written.name,
            duration: Some(written.duration),
            rate: written.rate.unwrap_or(rate),
            faults: written.faults,
            expect: written.expect,
        });
        let own_targets = self.targets.map(|urls| urls.into_iter().map(|url| url.0).collect());
        Plan {
            upstream: self.upstream.map(|url| url.0),
            expect: self.expect,
            ..Plan::phased(own_targets.unwrap_or(targets), phases.collect())
        }
    }
}

/// A URL as [`parse_target`] takes it.
#[derive(Debug, Clone, PartialEq)]
struct Url(Uri);

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = format!("a {HTTP_URL}");
        text(deserializer, &expected, |text| parse_target(text).ok()).map(Self)
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let expected = format!("a name of 1 to {NAME_CHARS_MAX} characters");
    text(deserializer, &expected, |text| {
        (1..=NAME_CHARS_MAX)
            .contains(&text.chars().count())
            .then(|| text.to_owned())
    })
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let expected = format!("{} of more than 0s", duration::FORM);
    text(deserializer, &expected, |text| {
        duration::parse(text).filter(|duration| !duration.is_zero())
    })
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let expected = format!("calls per second, a number from 0 to {RATE_MAX}");
    number(deserializer, &expected, 0.0..=RATE_MAX).map(Some)
}

/// Reads a number from 0 to 1.
pub(crate) fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    number(deserializer, "a share of all calls, a number from 0 to 1", 0.0..=1.0)
}

fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Text {
        expected,
        parse,
        result: PhantomData,
    })
}

fn number<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<f64, D::Error> {
    deserializer.deserialize_any(Number { expected, range })
}

/// Takes a string that `parse` accepts.
struct Text<'a, F, T> {
    expected: &'a str,
    parse: F,
    result: PhantomData<T>,
}

impl<F: FnOnce(&str) -> Option<T>, T> Visitor<'_> for Text<'_, F, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        (self.parse)(value).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self.expected))
    }
}

/// Takes a number in `range`, whether or not it is written with a point.
struct Number<'a> {
    expected: &'a str,
    range: std::ops::RangeInclusive<f64>,
}

impl Visitor<'_> for Number<'_> {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
        if self.range.contains(&value) {
            Ok(value)
        } else {
            Err(E::invalid_value(Unexpected::Float(value), &self))
        }
    }

    // Exact in every range used here; what is larger is refused either way.
    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
        if self.range.contains(&(value as f64)) {
            Ok(value as f64)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(value), &self))
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::CircuitState;
    use crate::plan::ShareRange;

    const GOOD: &str = "
upstream: http://127.0.0.1:9000
phases:
  - {name: well, duration: 10s, faults: {}}
  - name: ill
    duration: 1m30s
    rate: 12.5
    faults: {errorPercent: 100, latencyMs: 20}
    expect: {failedShare: {max: 0.5}, maxProbesPerRound: 5}
expect:
  blockedShare: {min: 0.1, max: 1}
  statesSeen: [closed, half_open]
";

    #[test]
    fn a_scenario_becomes_a_plan() {
        let default_target = Uri::from_static("http://127.0.0.1:8001");
        let plan = Scenario::parse("s.yaml", GOOD)
            .expect("a good one")
            .into_plan(vec![default_target.clone()], 50.0);
        assert_eq!(plan.targets, [default_target]);
        assert_eq!((plan.phases[0].rate, plan.phases[1].rate), (50.0, 12.5));
        assert_eq!(
            plan.phases[0].faults,
            Some(FaultProfile::HEALTHY),
            "{{}} is healthy, not unchanged"
        );
        assert_eq!(plan.phases[1].duration, Some(Duration::from_secs(90)));
        assert_eq!(
            plan.phases[1].expect.failed_share,
            Some(ShareRange { min: 0.0, max: 0.5 })
        );
        assert_eq!(plan.phases[1].expect.max_probes_per_round, Some(5));
        assert_eq!(plan.expect.states_seen, [CircuitState::Closed, CircuitState::HalfOpen]);
        assert!(plan.expects());
    }

    #[test]
    fn the_example_is_a_good_scenario() {
        let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/scenario.yaml"));
        Scenario::read(example, None).expect("what we ship works");
    }

    #[test]
    fn an_error_names_file_field_value_and_what_would_be_right() {
        for (wrong, instead_of, named) in [
            (
                "duration: 90",
                "duration: 1m30s",
                ["phases[1].duration", "`90`", "such as 500ms"],
            ),
            (
                "duration: 1.5m",
                "duration: 1m30s",
                ["phases[1].duration", "\"1.5m\"", "such as 500ms"],
            ),
            (
                "duration: 0s",
                "duration: 1m30s",
                ["phases[1].duration", "\"0s\"", "more than 0s"],
            ),
            ("rate: -1", "rate: 12.5", ["phases[1].rate", "`-1`", "from 0 to 100000"]),
            (
                "rate: fast",
                "rate: 12.5",
                ["phases[1].rate", "\"fast\"", "calls per second"],
            ),
            (
                "errorPercent: 101",
                "errorPercent: 100",
                ["phases[1].faults", "`101`", "from 0 to 100"],
            ),
            (
                "errorsPercent: 1",
                "errorPercent: 100",
                ["phases[1].faults", "`errorsPercent`", "`errorPercent`"],
            ),
            (
                "hangPercent: 9, errorPercent: 92",
                "errorPercent: 100",
                ["phases[1]", "101", "at most 100"],
            ),
            (
                "min: 1.1",
                "min: 0.1",
                ["expect.blockedShare.min", "`1.1`", "from 0 to 1"],
            ),
            (
                "min: 0.9, max: 0.1",
                "min: 0.1, max: 1",
                ["expect.blockedShare", "0.9", "min ≤ max"],
            ),
            (
                "[ajar]",
                "[closed, half_open]",
                ["expect.statesSeen[0]", "`ajar`", "`half_open`"],
            ),
            ("[open", "[closed, half_open]", ["line", "", "expected"]),
            (
                "name: well\n",
                "name: ill\n",
                ["phases[1].name", "\"well\"", "a name of its own"],
            ),
            (
                "ftp://x",
                "http://127.0.0.1:9000",
                ["upstream", "\"ftp://x\"", "http://127.0.0.1:8001"],
            ),
            (
                "targets: []\n",
                "upstream: http://127.0.0.1:9000\n",
                ["targets", "0 of them", "1 to 100"],
            ),
            (
                "\n",
                "upstream: http://127.0.0.1:9000\n",
                ["upstream", "missing", "URL of the upstream"],
            ),
            (
                "upstreams: 1\n",
                "upstream: http://127.0.0.1:9000\n",
                ["upstreams", "unknown field", "`upstream`"],
            ),
        ] {
            assert!(GOOD.contains(instead_of), "{instead_of}");
            let error = Scenario::parse("s.yaml", &GOOD.replacen(instead_of, wrong, 1))
                .expect_err(wrong)
                .to_string();
            assert!(error.starts_with("s.yaml: "), "{error}");
            assert!(named.iter().all(|part| error.contains(part)), "{wrong:?}: {error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Scenario::read(Path::new("/nowhere/s.yaml"), None)
            .expect_err("it is not there")
            .to_string();
        assert!(error.starts_with("/nowhere/s.yaml: "), "{error}");
    }
}
