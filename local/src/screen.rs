//! What a person sees: a picture that is drawn again on a terminal, plain lines otherwise.

use crate::fleet::Picture;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

/// Lines of the timeline on a terminal.
const TIMELINE: usize = 12;
/// Pause between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

pub(crate) struct Screen {
    terminal: bool,
    welcome: String,
    timeline: VecDeque<String>,
    told: usize,
    last_plain: Option<Duration>,
}

impl Screen {
    pub(crate) fn new(welcome: String) -> Self {
        let terminal = std::io::stdout().is_terminal();
        if !terminal {
            print(&welcome);
        }
        Self {
            terminal,
            welcome,
            timeline: VecDeque::new(),
            told: 0,
            last_plain: None,
        }
    }

    /// Adds a line to the timeline.
    pub(crate) fn say(&mut self, line: &str) {
        if self.terminal {
            self.timeline.push_back(line.to_owned());
            while self.timeline.len() > TIMELINE {
                self.timeline.pop_front();
            }
        } else {
            print(&format!("{line}\n"));
        }
    }

    pub(crate) fn show(&mut self, picture: &Picture) {
        for line in picture.timeline.iter().skip(self.told) {
            self.say(line);
        }
        self.told = picture.timeline.len();
        if self.terminal {
            let mut text = String::from("\x1b[H\x1b[J");
            text.push_str(&self.welcome);
            text.push_str(&table(picture));
            text.push_str("\nTimeline\n");
            for line in &self.timeline {
                let _ = writeln!(text, "  {line}");
            }
            text.push_str(
                "\nType a letter and Enter: h heal, b break, a script again, k kill an instance, s store, q quit\n",
            );
            print(&text);
        } else if self.last_plain.is_none_or(|last| picture.at - last >= PLAIN_EVERY) {
            self.last_plain = Some(picture.at);
            let instances: Vec<String> = picture
                .instances
                .iter()
                .map(|i| format!("{} {} {}+{}", i.name, i.state, i.calls, i.blocked))
                .collect();
            let health = if picture.sick { "sick" } else { "well" };
            print(&format!(
                "{:>5.1}s service {health} | {}\n",
                picture.at.as_secs_f64(),
                instances.join(" | ")
            ));
        }
    }

    pub(crate) fn summary(&mut self, picture: &Picture) {
        let mut text = format!("\nAfter {:.0} s:\n{}", picture.at.as_secs_f64(), table(picture));
        let _ = writeln!(text, "{} transitions:", picture.timeline.len());
        for line in &picture.timeline {
            let _ = writeln!(text, "  {line}");
        }
        print(&text);
    }
}

fn table(picture: &Picture) -> String {
    let health = if picture.sick { "sick" } else { "well" };
    let mut text = format!("The service is {health}; the store says {}.\n\n", picture.stored);
    let _ = writeln!(
        text,
        "{:<12} {:<14} {:>8} {:>8} {:>8}",
        "instance", "state", "calls", "failed", "blocked"
    );
    for i in &picture.instances {
        let _ = writeln!(
            text,
            "{:<12} {:<14} {:>8} {:>8} {:>8}",
            i.name, i.state, i.calls, i.failed, i.blocked
        );
    }
    text
}

/// Prints, whatever becomes of the reader: `| head` is no reason to panic.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
