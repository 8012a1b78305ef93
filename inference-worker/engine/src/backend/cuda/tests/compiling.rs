//! Every kernel is compiled for devices, which takes none. NVRTC is the machine's own, or a pinned
//! wheel of PyPI whose SHA-256 is checked.

use std::env::{self, consts::ARCH};
use std::path::{Path, PathBuf};
use std::process::Command;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::super::compiler::compile;
use super::super::kernels::{SOURCES, Shape};
use super::rotate::SHAPES;
use super::*;

const VERSION: &str = "13.0.88";
/// Architecture, platform, SHA-256 of the wheel.
const WHEELS: [[&str; 3]; 2] = [
    [
        "x86_64",
        "manylinux2014_x86_64",
        "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    ],
    [
        "aarch64",
        "manylinux2014_aarch64",
        "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
    ],
];
/// The compiler looks for the first in no place of its own, so it is loaded before.
const LIBRARIES: [&str; 2] = ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"];

#[test]
#[expect(
    clippy::print_stdout,
    reason = "what the compiler made of the kernels is worth seeing"
)]
fn every_kernel_is_compiled_for_devices() {
    if !have_compiler() {
        return;
    }
    for arch in ["sm_80", "sm_90a"] {
        for source in SOURCES {
            // Files without heads are the same for each shape.
            let specialised = source.whole().contains("HEAD_DIM");
            let shapes = if specialised { &SHAPES[..] } else { &[SHAPE] };
            for shape in shapes {
                check(source, *shape, arch);
            }
        }
    }

    fn check(source: Source, shape: Shape, arch: &str) {
        let compiled = compile(source, shape, arch).unwrap_or_else(|error| panic!("{error}"));
        assert!(compiled.cubin.starts_with(b"\x7fELF"), "{}", source.name);
        println!("{} {arch} {shape:?}\n{}", source.name, compiled.log);
        let log = compiled.log;
        for kernel in source.kernels {
            let entry = format!("Compiling entry function '{kernel}'");
            assert!(log.contains(&entry), "{} lacks {kernel}", source.name);
        }
        let spills = log.lines().filter(|line| line.contains("bytes spill"));
        for line in spills {
            let none = line.contains(" 0 bytes spill stores, 0 bytes spill loads");
            assert!(none, "{} {arch}: {line}", source.name);
        }
    }
}

#[test]
fn what_the_compiler_refuses_is_told_with_its_source() {
    if !have_compiler() {
        return;
    }
    // Neither fragments nor places fit such heads.
    let wrong = Shape {
        head_dim: 0,
        ..SHAPE
    };
    let refused = compile(super::super::kernels::ATTENTION, wrong, "sm_80");
    let Err(Error::Device(reason)) = refused else {
        panic!("expected a refusal, got {refused:?}");
    };
    // The place is that in the file, whatever stands in front of it.
    assert!(reason.contains("\nattention.cu("), "{reason}");
}

/// NVRTC is loaded, where this machine can have it.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must know")]
fn have_compiler() -> bool {
    static COMPILER: OnceLock<bool> = OnceLock::new();
    *COMPILER.get_or_init(|| {
        // SAFETY: only looks for the library.
        if unsafe { cudarc::nvrtc::sys::is_culib_present() } {
            return true;
        }
        let wheel = WHEELS.into_iter().find(|[arch, ..]| *arch == ARCH);
        let Some([_, platform, sha256]) = wheel.filter(|_| cfg!(target_os = "linux")) else {
            eprintln!("skipped: kernels are not compiled, there is no NVRTC for {ARCH} here");
            return false;
        };
        let directory = installed(platform, sha256);
        for library in LIBRARIES {
            let path = directory.join(library);
            // SAFETY: the vendor's library, whose hash was checked. Its name is found by whoever
            // asks for it from now on.
            let loaded = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
            let loaded = loaded.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            std::mem::forget(loaded);
        }
        true
    })
}

/// Where the wheel's libraries lie; downloaded once.
fn installed(platform: &str, sha256: &str) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let cache = cache.unwrap_or_else(env::temp_dir).join("amaima");
    let target = cache.join(format!("nvrtc-{VERSION}"));
    let libraries = target.join("nvidia/cu13/lib");
    if libraries.join(LIBRARIES[1]).exists() {
        return libraries;
    }
    let fail = |doing: &str, reason: &dyn std::fmt::Display| -> ! { panic!("{doing}: {reason}") };
    let made = std::fs::create_dir_all(&cache);
    made.unwrap_or_else(|error| fail("making the cache", &error));
    let work = tempfile::tempdir_in(&cache);
    let work = work.unwrap_or_else(|error| fail("making a directory", &error));
    let requirements = work.path().join("requirements.txt");
    let line = format!("nvidia-cuda-nvrtc=={VERSION} --hash=sha256:{sha256}\n");
    let written = std::fs::write(&requirements, line);
    written.unwrap_or_else(|error| fail("writing the requirements", &error));
    let unpacked = work.path().join("unpacked");
    python(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--no-deps", "--require-hashes", "--only-binary=:all:"])
            .args(["--platform", platform, "--target"])
            .arg(&unpacked)
            .arg("--requirement")
            .arg(&requirements),
    );
    // Another process may have been faster.
    if std::fs::rename(&unpacked, &target).is_err() && !target.exists() {
        fail("keeping NVRTC", &target.display());
    }
    libraries
}

fn python(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {reason}");
}
