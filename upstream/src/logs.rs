//! Structured logs on standard error.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

/// The log flags, the same in every Tiebar binary.
#[derive(Debug, Args)]
pub(crate) struct LogFlags {
    /// How log lines look: `text` for people, `json` for machines
    #[arg(
        long,
        env = "TIEBAR_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Logs"
    )]
    log_format: LogFormat,
    /// The least severe level that is logged: off, error, warn, info, debug or trace
    #[arg(
        long,
        env = "TIEBAR_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Logs"
    )]
    log_level: LevelFilter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogFlags {
    /// Starts logging, for the rest of the process.
    pub(crate) fn start(&self) {
        let logs = tracing_subscriber::fmt()
            .with_max_level(self.log_level)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        match self.log_format {
            LogFormat::Text => logs.init(),
            LogFormat::Json => logs.json().flatten_event(true).init(),
        }
    }
}
