//! The keyboard, one key at a time.
//!
//! A thread of its own, which the end of the process does not wait for. Rejected: tokio's standard input, whose pending
//! read keeps the process alive until somebody presses Enter.

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use std::io::IsTerminal as _;
use tokio::sync::mpsc;

/// Keys pressed and not yet looked at; more are lost.
const WAITING: usize = 16;

/// The keys, while this lives; then the terminal is as it was.
pub(crate) struct Keys {
    pressed: Option<mpsc::Receiver<char>>,
}

impl Keys {
    /// Listens when a person sits in front of both ends.
    pub(crate) fn listen() -> Self {
        let person = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !person || enable_raw_mode().is_err() {
            return Self { pressed: None };
        }
        // A panic's message would be lost in the picture, and the terminal left raw.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = disable_raw_mode();
            report(panic);
        }));
        let (sender, pressed) = mpsc::channel(WAITING);
        std::thread::spawn(move || {
            while let Ok(event) = read() {
                let Event::Key(key) = event else { continue };
                let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                let pressed = match key.code {
                    _ if key.kind == KeyEventKind::Release => continue,
                    _ if interrupt => 'q',
                    KeyCode::Char(letter) => letter.to_ascii_lowercase(),
                    _ => continue,
                };
                if matches!(sender.try_send(pressed), Err(mpsc::error::TrySendError::Closed(_))) {
                    return;
                }
            }
        });
        Self { pressed: Some(pressed) }
    }

    /// Whether anybody can press one.
    pub(crate) fn there(&self) -> bool {
        self.pressed.is_some()
    }

    /// The next key; never, when nobody can press one.
    pub(crate) async fn next(&mut self) -> char {
        let next = match &mut self.pressed {
            Some(pressed) => pressed.recv().await,
            None => None,
        };
        match next {
            Some(key) => key,
            None => {
                self.pressed = None;
                std::future::pending().await
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = disable_raw_mode();
    }
}
