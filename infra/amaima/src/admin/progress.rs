use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// How often a bar moves, and how often a line comes where there is no terminal.
const BAR: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(2);
/// Cells of the bar.
const CELLS: u64 = 24;

/// How far long work is, on standard error: a bar on a terminal, else a line now and then.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: Option<u64>,
    done: u64,
    terminal: bool,
    begun: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// Work that begins now and has `total` steps.
    pub fn new(what: impl Into<String>, total: u64) -> Self {
        Self::begun(what.into(), Some(total))
    }

    /// Work that begins now and has as many steps as there will be.
    pub fn open_ended(what: impl Into<String>) -> Self {
        Self::begun(what.into(), None)
    }

    fn begun(what: String, total: Option<u64>) -> Self {
        Self {
            what,
            total,
            done: 0,
            terminal: io::stderr().is_terminal(),
            begun: Instant::now(),
            told: None,
        }
    }

    /// So many steps are done.
    pub fn at(&mut self, done: u64) {
        self.done = done;
        let pause = if self.terminal { BAR } else { LINE };
        if self.told.unwrap_or(self.begun).elapsed() >= pause {
            self.tell();
        }
    }

    /// The work is done; a line stays if one was shown.
    pub fn end(mut self) {
        if self.told.is_some() {
            self.tell();
            if self.terminal {
                writeln!(io::stderr()).ok();
            }
        }
    }

    fn tell(&mut self) {
        self.told = Some(Instant::now());
        let line = line(&self.what, self.done, self.total, self.begun.elapsed());
        let mut err = io::stderr();
        if self.terminal {
            let bar = self.total.map(|total| bar(self.done, total));
            write!(err, "\r\x1b[K{}{line}", bar.unwrap_or_default()).ok();
            err.flush().ok();
        } else {
            writeln!(err, "{line}").ok();
        }
    }
}

fn bar(done: u64, total: u64) -> String {
    let full = done.min(total) * CELLS / total.max(1);
    let (full, empty) = (full as usize, (CELLS - full) as usize);
    format!("[{}{}] ", "#".repeat(full), "-".repeat(empty))
}

fn line(what: &str, done: u64, total: Option<u64>, took: Duration) -> String {
    let rate = done as f64 / took.as_secs_f64().max(0.001);
    let Some(total) = total else {
        return format!("{what}: {done}, {rate:.0}/s");
    };
    let percent = done.min(total) * 100 / total.max(1);
    let left = total.saturating_sub(done) as f64 / rate.max(0.001);
    format!("{what}: {done} of {total} ({percent} %), {rate:.0}/s, about {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_share_rate_and_rest() {
        assert_eq!(
            line("replay", 250, Some(1_000), Duration::from_secs(5)),
            "replay: 250 of 1000 (25 %), 50/s, about 15 s left"
        );
        assert_eq!(
            line("export", 250, None, Duration::from_secs(5)),
            "export: 250, 50/s"
        );
        assert_eq!(
            bar(250, 1_000),
            format!("[{}{}] ", "#".repeat(6), "-".repeat(18))
        );
        assert_eq!(bar(0, 0), format!("[{}] ", "-".repeat(24)));
    }
}
