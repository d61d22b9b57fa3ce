//! A live table on a terminal, one line a second elsewhere; both on standard error, which leaves standard output to the
//! report.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use loadgen::{CircuitState, Counts, Latency, Plan, Snapshot, TargetSnapshot};

/// Shows snapshots.
pub(crate) enum Progress {
    Table(Table),
    Lines { before: Vec<Counts> },
}

/// A bar for the plan's time and a line per target.
pub(crate) struct Table {
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    phases: usize,
    /// When each phase begins, in time since the plan's start; without the ends nobody knows.
    begins: Vec<Duration>,
    // Dropping it would stop the drawing.
    _screen: MultiProgress,
}

impl Progress {
    pub(crate) fn new(plan: &Plan) -> Self {
        if std::io::stderr().is_terminal() {
            Self::Table(Table::new(plan))
        } else {
            Self::Lines {
                before: vec![Counts::default(); plan.targets.len()],
            }
        }
    }

    pub(crate) fn show(&mut self, now: &Snapshot) {
        match self {
            Self::Table(table) => table.show(now),
            Self::Lines { before } => {
                // A log line, so that it is JSON where the logs are.
                tracing::info!("{}", line(now, before));
                *before = now.targets.iter().map(|target| target.counts).collect();
            }
        }
    }

    /// Clears the table: the report says it all.
    pub(crate) fn finish(&self) {
        if let Self::Table(table) = self {
            table
                .lines
                .iter()
                .chain([&table.bar])
                .for_each(ProgressBar::finish_and_clear);
        }
    }
}

impl Table {
    fn new(plan: &Plan) -> Self {
        let screen = MultiProgress::new();
        let total: Option<Duration> = plan.phases.iter().map(|phase| phase.duration).sum();
        let begins = plan.phases.iter().scan(Duration::ZERO, |elapsed, phase| {
            let begins = *elapsed;
            *elapsed += phase.duration.unwrap_or_default();
            Some(begins)
        });
        let template = if total.is_some() {
            "[{bar:30}] {wide_msg}"
        } else {
            "{spinner} {wide_msg}"
        };
        let length = total.map(|total| u64::try_from(total.as_millis()).unwrap_or(u64::MAX));
        let bar = screen.add(ProgressBar::new(length.unwrap_or_default()).with_style(style(template)));
        let lines = (0..=plan.targets.len()).map(|_| screen.add(ProgressBar::new(0).with_style(style("{wide_msg}"))));
        let lines: Vec<ProgressBar> = lines.collect();
        lines[0].set_message(format!(
            "{:13} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  target",
            "state", "ok", "failed", "blocked", "no reply", "p50 ms", "p95 ms", "p99 ms", "max ms"
        ));
        Self {
            bar,
            lines,
            phases: plan.phases.len(),
            begins: begins.collect(),
            _screen: screen,
        }
    }

    fn show(&self, now: &Snapshot) {
        let phase = &now.phase;
        let elapsed = self.begins[phase.index] + phase.elapsed.min(phase.duration.unwrap_or(Duration::MAX));
        self.bar
            .set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message(format!(
            "{:.0} s  {} ({}/{})  {} in flight, {} waiting, {} overdue",
            now.elapsed.as_secs_f64(),
            phase.name,
            phase.index + 1,
            self.phases,
            now.in_flight,
            now.waiting,
            now.total.overdue
        ));
        for (line, target) in self.lines.iter().skip(1).zip(&now.targets) {
            let TargetSnapshot {
                target,
                counts,
                state,
                latency: Latency { p50, p95, p99, max },
            } = target;
            line.set_message(format!(
                "{:13} {:>8} {:>8} {:>8} {:>8} {:>8.1} {:>8.1} {:>8.1} {:>8.1}  {target}",
                name(*state),
                counts.ok,
                counts.failed,
                counts.blocked,
                counts.unanswered,
                ms(*p50),
                ms(*p95),
                ms(*p99),
                ms(*max)
            ));
        }
    }
}

fn name(state: Option<CircuitState>) -> &'static str {
    state.map_or("-", CircuitState::name)
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours; were one wrong, a plain bar is still progress.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What happened since the line before, by target, and how long it took.
fn line(now: &Snapshot, before: &[Counts]) -> String {
    let Latency { p50, p95, p99, max } = now.latency;
    let mut text = format!(
        "{:.0}s {}: p50 {:.1} p95 {:.1} p99 {:.1} max {:.1} ms, {} in flight, {} overdue",
        now.elapsed.as_secs_f64(),
        now.phase.name,
        ms(p50),
        ms(p95),
        ms(p99),
        ms(max),
        now.in_flight,
        now.total.overdue
    );
    for (target, before) in now.targets.iter().zip(before) {
        let counts = target.counts;
        text.push_str(&format!(
            " | {} {}: ok {} failed {} blocked {} unanswered {}",
            target.target,
            name(target.state),
            counts.ok - before.ok,
            counts.failed - before.failed,
            counts.blocked - before.blocked,
            counts.unanswered - before.unanswered
        ));
    }
    text
}

fn ms(latency: Duration) -> f64 {
    latency.as_secs_f64() * 1_000.0
}
