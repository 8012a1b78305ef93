//! What a GPU makes of the engine: first whether it computes what the CPU computes, then how fast.
//! `gpu-check` builds and runs it; by itself:
//!
//! ```sh
//! cargo run --release -p engine --example gpu -- [1b] [4b] [8b]
//! ```
//!
//! Models have random weights and are made on the spot. One table comes last. The exit status is 1
//! where a check failed, 2 where there is no device.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

mod checks;
mod models;
mod timing;

use std::error::Error;
use std::process::ExitCode;

use engine::backend::cuda;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if let Some(reason) = cuda::absence() {
        println!("no GPU: {reason}. Nothing was checked, nothing was measured.");
        return Ok(ExitCode::from(2));
    }
    let names: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let checked = checks::all()?;
    let mut table = Vec::new();
    for shape in models::LARGE.iter().filter(|shape| wanted(shape.name)) {
        table.extend(timing::of(shape)?);
    }
    println!("\n{}", timing::HEAD);
    for row in table {
        println!("{row}");
    }
    println!("{}", timing::PUBLISHED);
    println!(
        "checks: {}",
        if checked {
            "all passed"
        } else {
            "FAILED, see above"
        }
    );
    Ok(ExitCode::from(u8::from(!checked)))
}
