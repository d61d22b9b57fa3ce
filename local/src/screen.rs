//! What a person sees: a picture that is drawn again on a terminal, plain lines otherwise.

use super::fleet::Picture;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

/// Lines of the timeline kept for a terminal.
const TIMELINE: usize = 100;
/// Pause between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(2);
/// What the keys do.
const KEYS: &str = "h heal · b break · k kill a prober · s cut or restore the store · a script · q quit";

pub(crate) struct Screen {
    terminal: bool,
    /// Whether keys are listened to; then a line must end with a carriage return, too.
    keys: bool,
    welcome: String,
    timeline: VecDeque<String>,
    told: usize,
    last_plain: Option<Duration>,
}

impl Screen {
    pub(crate) fn new(welcome: String, keys: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            // A picture of its own; what was on the terminal comes back at the end.
            print("\x1b[?1049h\x1b[?25l");
        } else {
            print(&welcome);
        }
        Self {
            terminal,
            keys,
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
            self.draw(picture);
        } else if self.last_plain.is_none_or(|last| picture.at - last >= PLAIN_EVERY) {
            self.last_plain = Some(picture.at);
            let instances: Vec<String> = picture
                .instances
                .iter()
                .map(|i| format!("{} {} {}+{}", i.name, i.state, i.calls, i.blocked))
                .collect();
            print(&format!(
                "{:>5.1}s service {} | {}\n",
                picture.at.as_secs_f64(),
                picture.health,
                instances.join(" | ")
            ));
        }
    }

    /// Draws over the picture before, line by line, so that nothing flickers.
    fn draw(&self, picture: &Picture) {
        // Without a size it is the smallest that is usual.
        let (width, height) = crossterm::terminal::size().unwrap_or((80, 24));
        let (width, height) = (usize::from(width), usize::from(height));
        let mut text = self.welcome.clone();
        let _ = writeln!(text, "{:.0} s. {}\nTimeline", picture.at.as_secs_f64(), table(picture));
        let mut lines: Vec<&str> = text.lines().collect();
        let room = height.saturating_sub(lines.len() + 3).max(1);
        let skipped = self.timeline.len().saturating_sub(room);
        lines.extend(self.timeline.iter().skip(skipped).map(String::as_str));
        if self.keys {
            lines.extend(["", KEYS]);
        }
        let mut drawn = String::from("\x1b[H");
        for (at, line) in lines.iter().take(height).enumerate() {
            let end = if at == 0 { "" } else { "\r\n" };
            drawn.push_str(end);
            drawn.extend(line.chars().take(width));
            drawn.push_str("\x1b[K");
        }
        drawn.push_str("\x1b[J");
        print(&drawn);
    }

    /// The last words, below what was on the terminal before.
    pub(crate) fn summary(&mut self, picture: &Picture) {
        self.leave();
        let mut text = format!("After {:.0} s:\n{}", picture.at.as_secs_f64(), table(picture));
        let _ = writeln!(text, "\n{} transitions:", picture.timeline.len());
        for line in &picture.timeline {
            let _ = writeln!(text, "  {line}");
        }
        print(&text);
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.terminal) {
            print("\x1b[?25h\x1b[?1049l");
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn table(picture: &Picture) -> String {
    let mut text = format!(
        "The service is {}; the store says {}.\n\n",
        picture.health, picture.stored
    );
    let _ = writeln!(
        text,
        "{:<12} {:<20} {:>8} {:>8} {:>8}",
        "instance", "state", "calls", "failed", "blocked"
    );
    for i in &picture.instances {
        let _ = writeln!(
            text,
            "{:<12} {:<20} {:>8} {:>8} {:>8}",
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
