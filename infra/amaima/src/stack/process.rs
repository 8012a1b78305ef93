//! Processes that die with this one.
//!
//! On Linux the kernel sends a child its death signal when the *thread* that forked it ends, so
//! all children are forked by one thread that lives as long as the process. Each child leads a
//! process group of its own: a Ctrl-C in the terminal reaches this process alone, which then stops
//! its children in order; and when this process dies while a child is frozen by `SIGSTOP`, the
//! kernel thaws the orphaned group, so that the death signal is acted upon.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use super::wait::{TimedOut, wait_for};

/// A child process that ends when this process ends, in whatever way, and when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    id: u32,
    ending: Signal,
}

impl Process {
    /// Starts a child that is killed when this process ends.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub fn spawn(command: Command) -> io::Result<Self> {
        Self::spawn_ending_with(command, Signal::KILL)
    }

    /// Starts a child that is sent this signal when this process ends, or when this is dropped.
    pub(super) fn spawn_ending_with(mut command: Command, ending: Signal) -> io::Result<Self> {
        command.process_group(0);
        #[cfg(target_os = "linux")]
        end_with_parent(&mut command, ending);
        let (reply, child) = channel();
        forker()
            .send((command, reply))
            .map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
        // Forking takes a few milliseconds, so a caller on a runtime's thread may wait for it.
        let child = child.recv().map_err(io::Error::other)??;
        Ok(Self {
            id: child.id(),
            child: Mutex::new(child),
            ending,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Kills it (`SIGKILL`) and returns when it is gone.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(&self) -> io::Result<ExitStatus> {
        let mut child = self.child();
        child.kill()?;
        child.wait()
    }

    /// Asks it to end (`SIGTERM`).
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Freezes it (`SIGSTOP`).
    ///
    /// # Errors
    /// When it has ended already.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Thaws it (`SIGCONT`).
    ///
    /// # Errors
    /// When it has ended already.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus, TimedOut> {
        wait_for("the end of a process", deadline, || async {
            self.exited()
                .ok_or_else(|| format!("process {} is running", self.id))
        })
        .await
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let mut child = self.child();
        // Only a child that has not been waited for keeps its id to itself.
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it ended with {status}")));
        }
        kill_process(Pid::from_child(&child), signal)?;
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.signal(self.ending).is_ok() && self.resume().is_ok() {
            self.child().wait().ok();
        }
    }
}

/// Arranges that the kernel sends the child `signal` when this process ends.
#[cfg(target_os = "linux")]
fn end_with_parent(command: &mut Command, signal: Signal) {
    use rustix::process::{getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec and makes two system calls, without
    // allocating or locking. It runs after the change of user, which would reset the death signal.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(signal))?;
            // The parent may have died before the signal was set; then nobody would send it.
            if getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// The thread that forks every child.
fn forker() -> &'static Sender<Order> {
    static FORKER: OnceLock<Sender<Order>> = OnceLock::new();
    FORKER.get_or_init(|| {
        let (orders, queue) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                reply.send(command.spawn()).ok();
            }
        });
        orders
    })
}
