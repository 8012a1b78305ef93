//! The handle that the rest of the program holds.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backend::Backend;
use crate::backend::cpu::{self, Cpu, Precision};
use crate::backend::cuda::{self, Cuda, Room};
use crate::calibration::Calibration;
use crate::chat_template::{ChatTemplate, Message};
use crate::error::Error;
use crate::generation::Generation;
use crate::kv::{BLOCK, Blocks};
use crate::model::{Model, WeightsIn};
use crate::request::Request;
use crate::scheduler::Scheduler;
use crate::tokenizer::Tokenizer;

/// What computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ComputeOn {
    /// An NVIDIA device where there is one that the model fits, else the processor.
    Auto,
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA device.
    Cuda,
}

impl FromStr for ComputeOn {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(Error::Request {
                field: "device",
                reason: format!("`{other}`, expected `auto`, `cpu` or `cuda`"),
            }),
        }
    }
}

/// Limits of one engine. [`Options::default`] suits a small machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// What computes.
    pub compute_on: ComputeOn,
    /// Where kernels that were compiled for a device are kept; compiled at each start when absent.
    pub kernel_cache: Option<PathBuf>,
    /// Threads that compute; all available cores when absent.
    pub threads: Option<NonZeroUsize>,
    /// How the weights are kept in memory.
    pub weights_in: WeightsIn,
    /// How products are computed.
    pub precision: Precision,
    /// Positions per generation at most, below the model's own limit.
    pub max_context: Option<NonZeroUsize>,
    /// Bytes for the keys and values of all generations, prefixes kept for later ones included.
    /// Less where `max_active` of the longest generations need less; what none of it can hold
    /// shortens the context. A device gives what it has instead.
    pub kv_bytes: NonZeroUsize,
    /// Generations that are computed together at most; fewer while `kv_bytes` holds no more.
    pub max_active: NonZeroUsize,
    /// Generations that wait for a place; when as many wait, `submit` answers [`Error::Busy`].
    pub max_waiting: usize,
    /// Tokens computed in one step, for all generations together; at least `max_active`. A long
    /// prompt takes several steps, and the others get a token in each: fewer make their tokens
    /// come more evenly, more need fewer passes over the weights.
    pub step_tokens: NonZeroUsize,
    /// How long a step may take before the engine counts as [stuck](Engine::stuck); far more than
    /// `step_tokens` of a prompt take.
    pub step_limit: Duration,
    /// Tokens that a consumer may lag behind before its generation pauses.
    pub stream_capacity: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        const fn some(value: usize) -> NonZeroUsize {
            NonZeroUsize::new(value).expect("a literal above zero")
        }
        Self {
            compute_on: ComputeOn::default(),
            kernel_cache: None,
            threads: None,
            weights_in: WeightsIn::default(),
            precision: Precision::default(),
            max_context: None,
            kv_bytes: some(1 << 30),
            max_active: some(8),
            max_waiting: 64,
            step_tokens: some(1_024),
            step_limit: Duration::from_secs(60),
            stream_capacity: some(64),
        }
    }
}

/// What is known about the loaded model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelCard {
    /// `_name_or_path` of config.json, else the directory's name.
    pub id: String,
    /// As config.json names it, e.g. `Qwen3ForCausalLM`.
    pub architecture: String,
    /// Weights in all tensors, shared ones counted once.
    pub parameters: u64,
    /// Positions that a prompt and its answer may fill together.
    pub context_length: usize,
    /// Distinct token ids that the model scores.
    pub vocabulary: usize,
    /// Whether this is the small model shipped with the project (`"amaima_demo": true`), whose
    /// answers must be labelled as a demonstration.
    pub demo: bool,
    /// Milliseconds that loading took.
    pub load_ms: u64,
}

/// A loaded model and the thread that runs it. Clones share both; when the last one is dropped,
/// running generations end with [`Finish::Cancelled`](crate::Finish::Cancelled), and the drop
/// waits for the step in hand, unless that does not end.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    card: ModelCard,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    calibration: Option<Calibration>,
    scheduler: Scheduler,
    bytes_per_step: usize,
    threads: usize,
}

impl Engine {
    /// Loads a Hugging Face model directory (config.json, tokenizer.json, safetensors in one file
    /// or sharded) and starts its threads. Reads and checks every weight: call it off the runtime.
    ///
    /// # Errors
    /// Every fault of the directory, with the file, the tensor or field, and the value.
    pub fn load(dir: &Path, options: Options) -> Result<Self, Error> {
        let began = Instant::now();
        let model = Model::load_in(dir, options.weights_in)?;
        let tokenizer = Arc::new(Tokenizer::load(dir, model.config().vocab_size)?);
        let template = ChatTemplate::load(dir, &tokenizer)?;
        let calibration = Calibration::load(dir)?;
        let context = model.config().max_position_embeddings;
        let wanted = options
            .max_context
            .map_or(context, |limit| context.min(limit.get()));
        let (parameters, bytes_per_step) = (model.parameters(), model.weights().bytes_per_step());
        let config = model.config().clone();
        let backend = backend(model, wanted, &options)?;
        let context_length = wanted.min(backend.blocks() as usize * BLOCK);
        let card = ModelCard {
            id: config.id,
            architecture: config.architecture.to_string(),
            parameters,
            context_length,
            vocabulary: config.vocab_size,
            demo: config.demo,
            load_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let all_cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.map_or_else(all_cores, usize::from);
        let scheduler = Scheduler::start(backend, Arc::clone(&tokenizer), &card, &options)?;
        tracing::info!(
            model.id = card.id,
            model.architecture = card.architecture,
            model.parameters = card.parameters,
            context_length,
            load_ms = card.load_ms,
            "loaded the model",
        );
        Ok(Self {
            shared: Arc::new(Shared {
                card,
                tokenizer,
                template,
                calibration,
                scheduler,
                bytes_per_step,
                threads,
            }),
        })
    }

    /// The loaded model.
    pub fn model(&self) -> &ModelCard {
        &self.shared.card
    }

    /// What its directory says about how often answers are right.
    pub fn calibration(&self) -> Option<Calibration> {
        self.shared.calibration
    }

    /// The ids of a conversation, rendered with the model's chat template up to the place where
    /// the assistant's answer begins.
    ///
    /// Special tokens written inside a message's content are removed first, so that a user cannot
    /// speak in another role's name.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] where the template refuses the messages (e.g. roles that must
    /// alternate).
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        self.shared
            .template
            .prompt(&self.shared.tokenizer, messages)
    }

    /// The ids of a text, without any special token added at its ends; special tokens written in
    /// the text become their ids.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer has no token for a part of the text, not even an
    /// unknown one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.shared.tokenizer.encode(text)
    }

    /// The text of a sequence of ids; special tokens and ids outside the vocabulary have none,
    /// incomplete UTF-8 shows as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.shared.tokenizer.decode(ids)
    }

    /// What an id writes in the middle of a text, perhaps a part of a character; nothing for special
    /// tokens and ids outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.shared.tokenizer.bytes(id).unwrap_or_default()
    }

    /// Generations that were submitted and have not ended, and blocks of memory that none of them
    /// holds or has been promised.
    pub(crate) fn in_hand(&self) -> (usize, usize) {
        self.shared.scheduler.load()
    }

    /// Bytes of weights that every step reads, and the threads that do.
    pub(crate) fn step_cost(&self) -> (usize, usize) {
        (self.shared.bytes_per_step, self.shared.threads)
    }

    /// Queues a generation and returns its stream at once; where it has a response format, after
    /// that is compiled and the resumed ids are replayed, which takes a millisecond and may take
    /// seconds: call it off the runtime then.
    ///
    /// # Errors
    /// [`Error::Busy`] when the waiting queue is full, [`Error::Compiling`] when other formats take
    /// long to compile, [`Error::TooLong`] when prompt and new
    /// tokens exceed the context, [`Error::Request`] for a field out of its range,
    /// [`Error::Stopped`] when the engine's thread is gone, [`Error::Stuck`] when it does not come
    /// back from a step.
    pub fn submit(&self, request: Request) -> Result<Generation, Error> {
        self.shared.scheduler.submit(request)
    }

    /// Completes when a step has taken longer than [`Options::step_limit`], or when the device says
    /// that it cannot go on ([`Error::Device`]), else never. By then all generations have ended, with
    /// [`Finish::Error`](crate::Finish::Error) or, where the device has told so, with
    /// [`Finish::Cancelled`](crate::Finish::Cancelled), so that they can go on elsewhere; and no
    /// other is taken any more: only a new process can use the device again.
    pub async fn stuck(&self) -> Error {
        self.shared.scheduler.stuck().await
    }
}

/// What computes, announced in the log with the reason.
fn backend(model: Model, context: usize, options: &Options) -> Result<Box<dyn Backend>, Error> {
    let on_device = || {
        let room = Room {
            context,
            sequences: options.max_active.get(),
            step_tokens: options.step_tokens.get(),
            cache: options.kernel_cache.clone(),
        };
        Cuda::new(&model, &room)
    };
    let reason = match options.compute_on {
        ComputeOn::Cpu => "it was asked for".to_owned(),
        ComputeOn::Cuda => {
            let cuda = on_device()?;
            tracing::info!(
                device = cuda.name(),
                "computes on CUDA, as it was asked for"
            );
            return Ok(Box::new(cuda));
        }
        ComputeOn::Auto => match cuda::absence() {
            Some(reason) => reason.to_owned(),
            None => match on_device() {
                Ok(cuda) => {
                    let device = cuda.name();
                    tracing::info!(device, "computes on CUDA, since there is a device");
                    return Ok(Box::new(cuda));
                }
                Err(error) => {
                    tracing::warn!(%error, "there is a device, and it cannot be used");
                    error.to_string()
                }
            },
        },
    };
    tracing::info!(reason, "computes on the CPU");
    let blocks = kv_blocks(&model, context, options)?;
    let cpu = Cpu::new(model, options.threads, options.precision, blocks)?;
    Ok(Box::new(cpu))
}

/// Blocks for as many of the longest generations as there may be, as far as the memory goes.
fn kv_blocks(model: &Model, context: usize, options: &Options) -> Result<u32, Error> {
    let each = cpu::block_bytes(model.config());
    let held = options.kv_bytes.get() / each;
    if held == 0 {
        return Err(Error::Request {
            field: "kv_bytes",
            reason: format!(
                "{} hold no block of {BLOCK} positions, which takes {each}",
                options.kv_bytes
            ),
        });
    }
    let useful = options
        .max_active
        .get()
        .saturating_mul(Blocks::needed(context));
    Ok(u32::try_from(held.min(useful)).unwrap_or(u32::MAX))
}
