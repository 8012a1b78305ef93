use infra::telemetry;
use serde::Serialize;
use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

/// How it is with the system, for monitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// All is well.
    Well = 0,
    /// Degraded, or something was found that somebody should look at.
    Degraded = 1,
    /// Ill, unreachable or unknown.
    Ill = 2,
}

impl Exit {
    /// [`Exit::Well`] or [`Exit::Degraded`].
    pub const fn well_if(well: bool) -> Self {
        if well { Self::Well } else { Self::Degraded }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Where reports go, and in which form.
pub struct Output<'a> {
    out: &'a mut (dyn Write + Send),
    json: bool,
}

impl<'a> Output<'a> {
    /// JSON documents or text.
    pub fn new(out: &'a mut (dyn Write + Send), json: bool) -> Self {
        Self { out, json }
    }

    /// Writes a report. Whoever was reading may be gone: that is no failure of ours.
    pub fn report<R: Serialize + Display>(&mut self, report: &R) {
        if self.json {
            serde_json::to_writer_pretty(&mut *self.out, report).ok();
            writeln!(self.out).ok();
        } else {
            writeln!(self.out, "{}", report.to_string().trim_end()).ok();
        }
        self.out.flush().ok();
    }

    /// Writes one of many findings, on a line of its own in either form.
    pub fn line<R: Serialize + Display>(&mut self, finding: &R) {
        if self.json {
            serde_json::to_writer(&mut *self.out, finding).ok();
            writeln!(self.out).ok();
        } else {
            writeln!(self.out, "{finding}").ok();
        }
    }

    /// Writes a report that stands alone, or behind the lines of its findings.
    pub fn summary<R: Serialize + Display>(&mut self, report: &R, after_lines: bool) {
        if after_lines && self.json {
            self.line(report);
        } else {
            self.report(report);
        }
    }

    /// Writes why there is no report.
    pub(crate) fn failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        let reason = telemetry::chain(error);
        if self.json {
            let document = serde_json::json!({ "error": reason });
            writeln!(self.out, "{document:#}").ok();
        } else {
            writeln!(io::stderr(), "error: {reason}").ok();
        }
    }
}
