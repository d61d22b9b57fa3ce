//! Numbers and instants as people read them.

use tiebar::policy::{Policy, Window};
use tiebar::state::{Reason, State};

/// A duration in two units: `42 s`, `3 m 12 s`, `2 h 05 m`, `3 d 4 h`. The page's script writes the same.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} m {:02} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {:02} m", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// A time to wait, rounded up, so that it never says 0 too early.
pub(crate) fn wait(ms: u64) -> String {
    span(ms.div_ceil(1_000) * 1_000)
}

/// RFC 3339 with milliseconds; empty for 0.
pub(crate) fn instant(ms: u64) -> String {
    let stamp = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp
        .filter(|_| ms > 0)
        .map_or_else(String::new, |stamp| format!("{stamp:.3}"))
}

/// `12:03:22 UTC`, with the day when it is not today's.
pub(crate) fn clock(ms: u64, now: u64) -> String {
    let text = instant(ms);
    let (Some((day, time)), today) = (text.split_once('T'), instant(now)) else {
        return String::new();
    };
    let time = &time[..8.min(time.len())];
    if today.starts_with(day) {
        format!("{time} UTC")
    } else {
        format!("{day} {time} UTC")
    }
}

/// Basis points as percent: `62 %`, `0.4 %`.
pub(crate) fn percent(bp: u64) -> String {
    if bp < 1_000 && bp % 100 != 0 {
        format!("{}.{} %", bp / 100, bp % 100 / 10)
    } else {
        format!("{} %", bp / 100)
    }
}

/// Thousandths per second: `0`, `0.4`, `12`, `1.2 k`.
pub(crate) fn rate(milli: u64) -> String {
    match milli {
        0 => "0".to_owned(),
        1..100 => "< 0.1".to_owned(),
        100..10_000 => format!("{}.{}", milli / 1_000, milli % 1_000 / 100),
        10_000..1_000_000 => (milli / 1_000).to_string(),
        1_000_000..1_000_000_000 => format!("{}.{} k", milli / 1_000_000, milli % 1_000_000 / 100_000),
        _ => format!("{} M", milli / 1_000_000_000),
    }
}

/// `1 call`, `2 calls`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Closed => "Closed",
        State::Open => "Open",
        State::HalfOpen => "Half-open",
        State::ForcedOpen => "Forced open",
        State::ForcedClosed => "Forced closed",
    }
}

/// A reason as a sentence without its end.
pub(crate) fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Seeded => "first call seen",
        Reason::Reseeded => "restored from an instance's memory after the store lost it",
        Reason::ConsecutiveFailures => "too many failures in a row",
        Reason::FailureRateExceeded => "failure rate at its threshold",
        Reason::SlowCallRateExceeded => "share of slow calls at its threshold",
        Reason::InstancesIsolated => "more than half of the instances had opened alone",
        Reason::WaitElapsed => "wait over, probing",
        Reason::ProbesSucceeded => "probes passed",
        Reason::ProbesFailed => "probes failed",
        Reason::ProbesTimedOut => "probes failed or hung to the round's end",
        Reason::ProbesLost => "no probe came back, a fresh round began",
        Reason::Override => "forced by hand",
        Reason::OverrideLapsed => "override ended",
        Reason::Reset => "reset by hand",
        Reason::ModeChanged => "mode changed",
    }
}

/// What a window is taken over.
pub(crate) fn window(policy: &Policy) -> String {
    match policy.window {
        Window::Time(ms) => format!("the last {}", tiebar::duration::format(ms)),
        Window::Count(size) => format!("the last {size} calls"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_and_waits_round_up() {
        for (ms, text) in [
            (0, "0 s"),
            (59_999, "59 s"),
            (192_000, "3 m 12 s"),
            (7_500_000, "2 h 05 m"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(wait(1), "1 s");
        assert_eq!(wait(0), "0 s");
    }

    #[test]
    fn rates_and_shares_keep_two_figures() {
        assert_eq!(
            [0, 40, 400, 12_345, 1_234_567].map(rate),
            ["0", "< 0.1", "0.4", "12", "1.2 k"]
        );
        assert_eq!(
            [0, 40, 990, 5_000, 6_250].map(percent),
            ["0 %", "0.4 %", "9.9 %", "50 %", "62 %"]
        );
    }

    #[test]
    fn an_instant_of_another_day_says_so() {
        let noon = 1_764_072_000_000;
        assert_eq!(instant(noon), "2025-11-25T12:00:00.000Z");
        assert_eq!(clock(noon, noon + 1), "12:00:00 UTC");
        assert_eq!(clock(noon, noon + 86_400_000), "2025-11-25 12:00:00 UTC");
    }
}
