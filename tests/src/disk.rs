//! A disk of its own for one server: an ext4 image on a loop device, whose power can be cut and
//! which can be full, without harm to the machine's own disks.
//!
//! Needs root, loop devices and `mkfs.ext4`; where these are missing, [`Disk::new`] says so and the
//! test is skipped.

use rustix::ioctl::{Setter, ioctl, opcode};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// `EXT4_IOC_SHUTDOWN`, as `godown` of xfstests uses it.
const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
/// Without writing the journal out first: what was not synced is lost.
const NO_LOG_FLUSH: u32 = 2;

/// A mounted disk; it is unmounted and gone when this is dropped. Servers that use it go first.
#[derive(Debug)]
pub struct Disk {
    directory: TempDir,
}

impl Disk {
    /// A fresh one of this size.
    ///
    /// # Errors
    /// The reason why there can be none here.
    pub fn new(megabytes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a disk of its own needs root".into());
        }
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let disk = Self { directory };
        let made: io::Result<()> = (|| {
            File::create(disk.image())?.set_len(megabytes << 20)?;
            fs::create_dir(disk.path())?;
            run(Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0"])
                .arg(disk.image()))?;
            disk.mount()
        })();
        match made {
            Ok(()) => Ok(disk),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// The journal is written out every five minutes only, so that nothing but a sync does it
    /// during a test.
    fn mount(&self) -> io::Result<()> {
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,commit=300,noatime"])
            .arg(self.image())
            .arg(self.path()))
    }

    /// Writes everything out, as if time had passed.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn settle(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(self.path())?)?)
    }

    /// From now on nothing reaches the disk; what was not synced never will.
    ///
    /// # Errors
    /// When the file system does not know how.
    pub fn cut_power(&self) -> io::Result<()> {
        let root = File::open(self.path())?;
        // SAFETY: the request reads one u32, which is what it is given, and changes no memory.
        unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }?;
        Ok(())
    }

    /// The machine starts again: the journal is recovered. Nobody may have files open on it.
    ///
    /// # Errors
    /// When it is still in use or cannot be recovered.
    pub fn power_on(&self) -> io::Result<()> {
        unmount(&self.path(), false)?;
        self.mount()
    }

    /// Fills it up but for this many bytes.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn fill_but(&self, left: u64) -> io::Result<()> {
        let root = rustix::fs::statvfs(self.path())?;
        let free = root.f_bavail * root.f_frsize;
        let file = File::create(self.filler())?;
        let length = free.saturating_sub(left);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length)?;
        Ok(())
    }

    /// Gives back what [`Self::fill_but`] took.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn make_room(&self) -> io::Result<()> {
        fs::remove_file(self.filler())
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path(), true).ok();
    }
}

fn unmount(path: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new("umount");
    if lazily {
        command.arg("--lazy");
    }
    run(command.arg(path))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("{program}: {}", said.trim())))
}
