//! Runs a kernel on the CPU: the same sources, compiled by the system's C++ compiler behind a small
//! imitation of CUDA, with address and undefined-behaviour sanitizers. A process for each launch, so
//! that what goes wrong there is a message here.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use tempfile::TempDir;

use super::super::kernels::{Shape, Source};
use super::super::machine::{float, int};
use super::{Argument, Launch};

/// A kernel that is begun with these arguments.
pub(super) struct Call {
    pub(super) kernel: String,
    pub(super) grid: [usize; 3],
    pub(super) threads: u32,
    pub(super) arguments: Vec<u64>,
}

/// Memory at an address of the machine that is emulated.
pub(super) type Memories = [(u64, Vec<u8>)];

/// Addresses of memories are so far apart.
pub(super) const APART: u64 = 1 << 32;

/// The buffers after the launch; none where there is no compiler. `seed` draws the order of the
/// threads, 0 is the order of their numbers.
pub(super) fn run(launch: &Launch<'_>, seed: u32) -> Option<Vec<Vec<u8>>> {
    let mut memories = Vec::new();
    let arguments = launch.arguments.iter().map(|argument| match argument {
        Argument::Int(number) => int(*number as usize),
        Argument::Float(number) => float(*number),
        Argument::Null => 0,
        Argument::Buffer(bytes) => {
            let address = APART * (memories.len() as u64 + 1);
            memories.push((address, bytes.clone()));
            address
        }
    });
    let call = Call {
        kernel: launch.kernel.into(),
        grid: launch.grid,
        threads: launch.threads,
        arguments: arguments.collect(),
    };
    execute(&[launch.source], launch.shape, seed, &mut memories, &[call])?;
    Some(memories.into_iter().map(|(_, bytes)| bytes).collect())
}

/// Runs the kernels one after another; none where there is no compiler.
pub(super) fn execute(
    sources: &[Source],
    shape: Shape,
    seed: u32,
    memories: &mut Memories,
    calls: &[Call],
) -> Option<()> {
    let program = program(sources, shape)?;
    let mut input = Vec::new();
    let number = |input: &mut Vec<u8>, number: usize| input.extend((number as u32).to_le_bytes());
    number(&mut input, seed as usize);
    number(&mut input, memories.len());
    for (address, bytes) in memories.iter() {
        input.extend(address.to_le_bytes());
        number(&mut input, bytes.len());
        input.extend(bytes);
    }
    number(&mut input, calls.len());
    for call in calls {
        number(&mut input, call.kernel.len());
        input.extend(call.kernel.bytes());
        for size in call.grid {
            number(&mut input, size);
        }
        number(&mut input, call.threads as usize);
        number(&mut input, call.arguments.len());
        for argument in &call.arguments {
            input.extend(argument.to_le_bytes());
        }
    }
    let output = answer(&program, &input);
    let mut rest = &output[..];
    for (_, bytes) in memories.iter_mut() {
        let (own, others) = rest.split_at(bytes.len());
        bytes.copy_from_slice(own);
        rest = others;
    }
    Some(())
}

/// What the program writes.
fn answer(program: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        // Fibers do not lie where the sanitizer expects stacks, and buffers live until the end.
        .env(
            "ASAN_OPTIONS",
            "detect_stack_use_after_return=0:detect_leaks=0",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("the emulation does not start: {error}"));
    let mut stdin = child.stdin.take().unwrap_or_else(|| unreachable!("piped"));
    // It reads all before it writes.
    let written = stdin.write_all(input);
    drop(stdin);
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("the emulation is lost: {error}"));
    assert!(
        output.status.success() && written.is_ok(),
        "{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Compiled once for each source and shape.
fn program(sources: &[Source], shape: Shape) -> Option<PathBuf> {
    type Programs = HashMap<String, Arc<OnceLock<PathBuf>>>;
    static COMPILER: OnceLock<Option<&str>> = OnceLock::new();
    static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);
    let compiler = (*COMPILER.get_or_init(compiler))?;
    let names: Vec<&str> = sources.iter().map(|source| source.name).collect();
    let key = format!("{}{}", names.join("-"), shape.defines().concat()).replace("-D", "_");
    let program = {
        let mut programs = PROGRAMS
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(programs.entry(key.clone()).or_default())
    };
    let path = program.get_or_init(|| compile(compiler, sources, shape, &key));
    Some(path.clone())
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests must know")]
fn compiler() -> Option<&'static str> {
    let works = |compiler: &&str| {
        let mut version = Command::new(compiler);
        version.arg("--version");
        version.output().is_ok_and(|output| output.status.success())
    };
    let found = ["g++", "c++"].into_iter().find(works);
    if found.is_none() {
        eprintln!("skipped: kernels are not run by emulation, since there is no g++ here");
    }
    found
}

fn compile(compiler: &str, sources: &[Source], shape: Shape, name: &str) -> PathBuf {
    static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| {
        tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"))
    });
    let imitation = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/cuda/tests");
    let program = DIRECTORY.path().join(name);
    let kernels = program.with_extension("inc");
    let whole: Vec<String> = sources.iter().map(Source::alone).collect();
    let written = std::fs::write(
        &kernels,
        super::super::kernels::DEVICE.to_owned() + &whole.concat(),
    );
    written.unwrap_or_else(|error| panic!("{}: {error}", kernels.display()));
    let names = sources.iter().flat_map(|source| source.kernels);
    let list = names.map(|name| format!("KERNEL({name})"));
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-g", "-w"])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
        .args(shape.defines())
        .arg(format!("-DKERNELS={}", list.collect::<Vec<_>>().join(" ")))
        .arg("-include")
        .arg(imitation.join("emulation.h"))
        .arg("-include")
        .arg(&kernels)
        .arg(imitation.join("emulation.cpp"))
        .arg("-o")
        .arg(&program)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    program
}
