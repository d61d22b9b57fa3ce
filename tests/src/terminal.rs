//! A program that believes a person sits in front of it.

use crate::process::command;
use crate::wait::{PATIENCE, eventually, holds};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::process::Child;

/// A program on a terminal of its own; dropping it kills it.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a program on a new terminal.
    ///
    /// # Panics
    /// When there is no terminal to be had, or the program cannot be started.
    #[must_use]
    pub fn start(program: &Path, folder: &Path, args: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal");
        let size = Winsize {
            ws_row: 40,
            ws_col: 140,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size).expect("a terminal has a size");
        let name = ptsname(&ours, Vec::new()).expect("a terminal has a name");
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("a readable name"))
            .expect("the other end");
        let copy = || theirs.try_clone().expect("another handle");
        let child = command(program, folder, args)
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .expect("it can be started");
        let keyboard = File::from(ours);
        let mut picture = keyboard.try_clone().expect("another handle");
        let screen: Arc<Mutex<String>> = Arc::default();
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut part = [0; 4_096];
            // An error is the end: the program has closed the other end.
            while let Ok(read @ 1..) = picture.read(&mut part) {
                let text = String::from_utf8_lossy(&part[..read]).into_owned();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self {
            child,
            keyboard,
            screen,
        }
    }

    /// Presses a key.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, key: &str) {
        self.keyboard.write_all(key.as_bytes()).expect("the terminal is there");
    }

    /// Waits until something has been shown.
    ///
    /// # Panics
    /// When it is not, in time.
    pub async fn shows(&self, bound: Duration, text: &str) {
        eventually(bound, &format!("the terminal shows {text:?}"), async || {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let last = screen.rsplit("\x1b[H").next().unwrap_or_default().to_owned();
            holds(screen.contains(text), last)
        })
        .await;
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.expect("it runs"), Signal::TERM).expect("it runs");
    }

    /// Waits for its end; the exit code.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> Option<i32> {
        let end = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        end.expect("it ends").expect("a child can be waited for").code()
    }
}
