//! Drawings as inline SVG: geometry in attributes, looks by class, nothing that a strict content policy forbids.

use crate::series::{SLOT_MS, SLOTS, SPARK_SLOTS, Series, Slot};
use crate::view::Kind;
use crate::words;
use std::fmt::Write as _;
use tiebar::policy::{Mode, Policy};
use tiebar::state::State;

/// The shape of a state: read without colour. Round lets calls through, the octagon stops them, the half disc lets a few
/// through; a square inside is somebody's hand; dashes only watch.
pub(crate) fn shape(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><path class="fill" d="M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z"/><path class="knock" d="M4 7h8v2H4z"/></svg>"#
        }
        Kind::HalfOpen => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle class="line" cx="8" cy="8" r="6.2"/><path class="fill" d="M8 1.8a6.2 6.2 0 0 0 0 12.4z"/></svg>"#
        }
        Kind::ForcedOpen => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><path class="fill" d="M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z"/><path class="knock" d="M5.2 5.2h5.6v5.6H5.2z"/></svg>"#
        }
        Kind::ForcedClosed => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle class="line" cx="8" cy="8" r="6.2"/><path class="fill" d="M5.4 5.4h5.2v5.2H5.4z"/></svg>"#
        }
        Kind::Unknown => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><path class="line" d="M5.3 5.6c0-3.7 5.6-3.5 5.6-.2 0 2.1-2.8 2.2-2.8 4.6"/><circle class="fill" cx="8.1" cy="13.2" r="1.2"/></svg>"#
        }
        Kind::ShadowOpen => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><path class="line dash" d="M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z"/><path class="fill" d="M4.5 7h7v2h-7z"/></svg>"#
        }
        Kind::Ramping => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle class="line" cx="8" cy="8" r="6.2"/><path class="line" d="M4.6 10.4 8 6.2l3.4 4.2"/></svg>"#
        }
        Kind::Closed => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle class="line" cx="8" cy="8" r="6.2"/></svg>"#
        }
        Kind::Shadow => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle class="line dash" cx="8" cy="8" r="6.2"/></svg>"#
        }
        Kind::Disabled => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle class="line dash" cx="8" cy="8" r="6.2"/><path class="line" d="M3.8 12.2l8.4-8.4"/></svg>"#
        }
        Kind::Idle => {
            r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle class="line" cx="8" cy="8" r="2.4"/></svg>"#
        }
    }
}

/// A bar from 0 to 100 % with the threshold's mark.
pub(crate) fn meter(bp: u64, threshold_bp: Option<u64>, class: &str) -> String {
    const WIDTH: u64 = 60;
    let at = |bp: u64| bp.min(10_000) * WIDTH / 10_000;
    let over = threshold_bp.is_some_and(|threshold| bp >= threshold);
    let over = if over { " over" } else { "" };
    let mark = threshold_bp.map_or_else(String::new, |threshold| {
        let x = at(threshold).min(WIDTH - 1);
        format!(r#"<path class="mark" d="M{x}.5 0v7"/>"#)
    });
    format!(
        r#"<svg class="meter {class}{over}" viewBox="0 0 60 7" aria-hidden="true"><path class="track" d="M0 2h60v3H0z"/><path class="value" d="M0 2h{}v3H0z"/>{mark}</svg>"#,
        at(bp)
    )
}

/// Probes of a round: bad, good, out.
pub(crate) fn probes(back: u64, bad: u64, of: u64) -> String {
    const SHOWN: u64 = 10;
    let shown = of.min(SHOWN);
    let scaled = |number: u64| number * shown / of.max(1);
    let mut svg = String::from(r#"<svg class="meter probes" viewBox="0 0 60 7" aria-hidden="true">"#);
    for index in 0..shown {
        let class = if index < scaled(bad) {
            "bad"
        } else if index < scaled(back) {
            "good"
        } else {
            "out"
        };
        let _ = write!(
            svg,
            r#"<circle class="{class}" cx="{}" cy="3.5" r="2.2"/>"#,
            3 + index * 6
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Steps over `width` from the right, one of `step` for each value, scaled to `height`.
fn steps(values: &[u64], most: u64, step: u64, width: u64, height: u64) -> String {
    let left = width - values.len() as u64 * step;
    let mut path = format!("M{left} {height}");
    for value in values {
        // Something, however little, is not nothing.
        let tall = (value * height)
            .checked_div(most)
            .unwrap_or(0)
            .max(u64::from(*value > 0));
        let _ = write!(path, "V{}h{step}", height - tall);
    }
    let _ = write!(path, "V{height}z");
    path
}

/// Two minutes of calls, with the rejected ones on top.
pub(crate) fn sparkline(drawn: &[(u64, u64)], calls_rate: u64, rejected_rate: u64) -> String {
    const HEIGHT: u64 = 20;
    const WIDTH: u64 = 2 * SPARK_SLOTS as u64;
    let all: Vec<u64> = drawn.iter().map(|(calls, rejected)| calls + rejected).collect();
    let calls: Vec<u64> = drawn.iter().map(|(calls, _)| *calls).collect();
    let most = all.iter().copied().max().unwrap_or(0);
    let label = format!(
        "Two minutes: now {} calls and {} rejections a second, at most {} together",
        words::rate(calls_rate),
        words::rate(rejected_rate),
        words::rate(most * 1_000 / SLOT_MS)
    );
    if most == 0 {
        return format!(
            r#"<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Two minutes without a call"><path class="base" d="M0 {HEIGHT}.5h{WIDTH}"/></svg>"#
        );
    }
    format!(
        r#"<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}"><path class="rejected" d="{}"/><path class="calls" d="{}"/></svg>"#,
        steps(&all, most, 2, WIDTH, HEIGHT),
        steps(&calls, most, 2, WIDTH, HEIGHT),
    )
}

const CHART_WIDTH: u64 = 750;
const STEP: u64 = CHART_WIDTH / SLOTS as u64;
const RATE_HEIGHT: u64 = 150;
const CALLS_HEIGHT: u64 = 56;
const AXIS_WIDTH: u64 = 44;
const NOTES_WIDTH: u64 = 70;
/// Above and below a plot, for half of a letter.
const MARGIN: u64 = 8;

/// Bands of the states that were not closed, or would not have been.
fn bands(slots: &[&Slot], observed: bool, height: u64) -> String {
    let left = CHART_WIDTH - slots.len() as u64 * STEP;
    let class = |state: Option<State>| match state {
        Some(State::Open | State::HalfOpen) if observed => Some("shadow"),
        Some(State::Open | State::ForcedOpen) => Some("open"),
        Some(State::HalfOpen) => Some("half-open"),
        _ => None,
    };
    let mut svg = String::new();
    let mut at = 0;
    for run in slots.chunk_by(|a, b| class(a.state) == class(b.state)) {
        if let Some(class) = class(run[0].state) {
            let (x, width) = (left + at * STEP, run.len() as u64 * STEP);
            let _ = write!(
                svg,
                r#"<path class="band {class}" d="M{x} 0h{width}v{height}h-{width}z"/>"#
            );
        }
        at += run.len() as u64;
    }
    svg
}

/// The window's rate at each slot as a line; broken where there was no window.
fn line(slots: &[&Slot], bad: fn(&Slot) -> u64, minimum: u64, class: &str) -> String {
    let left = CHART_WIDTH - slots.len() as u64 * STEP;
    let (mut judged, mut unjudged) = (String::new(), String::new());
    let mut last: Option<bool> = None;
    for (index, slot) in slots.iter().enumerate() {
        let Some(bp) = (bad(slot) * 10_000).checked_div(slot.window_calls) else {
            last = None;
            continue;
        };
        let counts = slot.window_calls >= minimum;
        let (x, y) = (
            left + index as u64 * STEP + STEP / 2,
            RATE_HEIGHT - bp.min(10_000) * RATE_HEIGHT / 10_000,
        );
        let path = if counts { &mut judged } else { &mut unjudged };
        let command = if last == Some(counts) { 'L' } else { 'M' };
        let _ = write!(path, "{command}{x} {y}");
        if command == 'M' {
            path.push_str("h.1");
        }
        last = Some(counts);
    }
    format!(r#"<path class="line {class} unjudged" d="{unjudged}"/><path class="line {class}" d="{judged}"/>"#)
        .replace(r#" d="""#, r#" d="M0 0""#)
}

/// Axis, plot and notes side by side: the plot alone stretches, so that letters stay letters on a phone.
fn chart(height: u64, caption: &str, axis: &str, plot: &str, notes: &str) -> String {
    let tall = height + 2 * MARGIN;
    format!(
        r#"<div class="chart"><svg class="axis" width="{AXIS_WIDTH}" height="{tall}" viewBox="0 -{MARGIN} {AXIS_WIDTH} {tall}" aria-hidden="true">{axis}</svg><svg class="plot" height="{tall}" viewBox="0 -{MARGIN} {CHART_WIDTH} {tall}" preserveAspectRatio="none" role="img" aria-labelledby="{caption}">{plot}</svg><svg class="notes" width="{NOTES_WIDTH}" height="{tall}" viewBox="0 -{MARGIN} {NOTES_WIDTH} {tall}" aria-hidden="true">{notes}</svg></div>"#
    )
}

/// A figure beside the plot.
fn mark(y: u64, text: &str) -> String {
    format!(r#"<text x="{}" y="{}">{text}</text>"#, AXIS_WIDTH - 6, y + 4)
}

/// Five minutes of rates against their thresholds.
pub(crate) fn rates(series: &Series, policy: &Policy) -> String {
    let slots: Vec<&Slot> = series.last(SLOTS).collect();
    let (mut axis, mut plot, mut notes) = (
        String::new(),
        bands(&slots, policy.mode == Mode::Observe, RATE_HEIGHT),
        String::new(),
    );
    for (percent, y) in [(100, 0), (50, RATE_HEIGHT / 2), (0, RATE_HEIGHT)] {
        axis.push_str(&mark(y, &format!("{percent} %")));
        let _ = write!(plot, r#"<path class="grid" d="M0 {y}.5h{CHART_WIDTH}"/>"#);
    }
    let marks = [
        (policy.failure_rate_bp, "failing", "trips"),
        (policy.slow_rate_bp, "slow", "trips, slow"),
    ];
    for (bp, class, label) in marks {
        if bp > 0 {
            let y = RATE_HEIGHT - bp * RATE_HEIGHT / 10_000;
            let _ = write!(plot, r#"<path class="threshold {class}" d="M0 {y}.5h{CHART_WIDTH}"/>"#);
            let _ = write!(notes, r#"<text class="{class}" x="6" y="{}">{label}</text>"#, y + 4);
        }
    }
    let minimum = policy.minimum_calls;
    plot.push_str(&line(&slots, |slot| slot.window_failing, minimum, "failing"));
    if policy.slow_rate_bp > 0 {
        plot.push_str(&line(&slots, |slot| slot.window_slow, minimum, "slow"));
    }
    chart(RATE_HEIGHT, "rates-caption", &axis, &plot, &notes)
}

/// Five minutes of calls and rejections a second.
pub(crate) fn traffic(series: &Series) -> String {
    let slots: Vec<&Slot> = series.last(SLOTS).collect();
    let all: Vec<u64> = slots.iter().map(|slot| slot.calls + slot.rejected).collect();
    let calls: Vec<u64> = slots.iter().map(|slot| slot.calls).collect();
    let failed: Vec<u64> = slots.iter().map(|slot| slot.failed).collect();
    let most = all.iter().copied().max().unwrap_or(0);
    let axis = mark(0, &words::rate(most * 1_000 / SLOT_MS)) + &mark(CALLS_HEIGHT, "0");
    let mut plot = format!(r#"<path class="grid" d="M0 0.5h{CHART_WIDTH}M0 {CALLS_HEIGHT}.5h{CHART_WIDTH}"/>"#);
    if most > 0 {
        for (class, values) in [("rejected", &all), ("calls", &calls), ("failed", &failed)] {
            let path = steps(values, most, STEP, CHART_WIDTH, CALLS_HEIGHT);
            let _ = write!(plot, r#"<path class="{class}" d="{path}"/>"#);
        }
    }
    for minute in 0..5 {
        let _ = write!(plot, r#"<path class="grid" d="M{}.5 {CALLS_HEIGHT}v4"/>"#, minute * 150);
    }
    let mut html = chart(CALLS_HEIGHT, "traffic-caption", &axis, &plot, "");
    html.push_str(r#"<div class="ticks" aria-hidden="true">"#);
    for minutes in (1..=5).rev() {
        let _ = write!(html, "<span>−{minutes} min</span>");
    }
    html.push_str("<span>now</span></div>");
    html
}

/// One breaker's part in an incident: pieces of (start, end, class) in thousandths of its length.
pub(crate) fn lane(pieces: &[(u64, u64, &str)]) -> String {
    let mut svg = String::from(
        r#"<svg class="lane" viewBox="0 0 1000 14" preserveAspectRatio="none" aria-hidden="true"><path class="base" d="M0 7h1000"/>"#,
    );
    for (start, end, class) in pieces {
        let width = end.saturating_sub(*start).max(4);
        let x = (*start).min(1_000 - width.min(1_000));
        let (y, height) = if class.ends_with("half-open") { (4, 6) } else { (1, 12) };
        let _ = write!(
            svg,
            r#"<path class="{class}" d="M{x} {y}h{width}v{height}h-{width}z"/>"#
        );
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_stay_inside_and_hold_no_inline_style() {
        let mut series = Series::default();
        for second in 0..900_u64 {
            let slot = series.at(second * 1_000);
            slot.calls = second * 999;
            slot.window_calls = second % 40;
            slot.window_failing = second % 20;
            slot.state = Some(State::ALL[(second / 100 % 3) as usize]);
        }
        let policy = Policy {
            slow_rate_bp: 8_000,
            ..Policy::default()
        };
        let drawn: Vec<_> = series.drawn().collect();
        let drawings = [
            sparkline(&drawn, 1, 2),
            sparkline(&[], 0, 0),
            meter(20_000, Some(10_000), "judged"),
            probes(3, 1, 5),
            lane(&[(0, 0, "open"), (990, 1_200, "half-open")]),
        ];
        for svg in &drawings {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"), "{svg}");
        }
        for svg in drawings.iter().chain(&[rates(&series, &policy), traffic(&series)]) {
            assert!(
                !svg.contains("style") && !svg.contains("M-") && !svg.contains("d=\"\""),
                "{svg}"
            );
        }
    }
}
