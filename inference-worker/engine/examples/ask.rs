//! Asks a model directory one question and reports the speed of the answer:
//!
//! ```sh
//! cargo run --release -p engine --example ask -- inference-worker/demo/model "What is Amaima?" 256
//! ```

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use engine::{Engine, Item, Message, Options, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, question, limit] = arguments.as_slice() else {
        return Err("usage: ask DIRECTORY QUESTION TOKENS".into());
    };
    let engine = Engine::load(Path::new(directory), Options::default())?;
    eprintln!("{:?}", engine.model());
    let message = Message {
        role: "user".into(),
        content: question.clone(),
    };
    let prompt = engine.chat_prompt(&[message])?;
    let submitted = Instant::now();
    let mut generation = engine.submit(Request::new(prompt, limit.parse()?))?;
    let mut first = None;
    while let Some(item) = generation.blocking_next() {
        match item {
            Item::Token { text, .. } => {
                first.get_or_insert_with(Instant::now);
                print!("{text}");
                std::io::stdout().flush()?;
            }
            Item::End {
                finish,
                text,
                usage,
                compute,
            } => {
                println!("{text}");
                let decode = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
                let rate = usage.completion_tokens.saturating_sub(1) as f64 / decode;
                let wait = first.map(|first| first - submitted);
                eprintln!("{finish:?} {usage:?} compute {compute:?} first token {wait:?}");
                eprintln!("{rate:.0} tokens/s after the first");
            }
        }
    }
    Ok(())
}
