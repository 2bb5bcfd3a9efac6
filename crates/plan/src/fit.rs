//! How much memory a language model takes on a GPU: weights, keys and values of what it has read, and the rest.
pub use crate::llm::{Family, Llm, models, named, near};
use serde::Serialize;

pub(crate) const GIB: f64 = (1u64 << 30) as f64;
/// What a CUDA context takes on an H100, as `docs/design/memory.md` has it measured, in bytes.
const CONTEXT: u64 = 543_162_368;
/// What an inference server keeps for its CUDA graphs, in bytes: assumed, its logs have 0.1 to 0.6 GiB.
const GRAPHS: u64 = 512 << 20;
/// Tokens that are read at a time, and requests whose next token is chosen at a time, as vLLM has them if nobody says otherwise.
const BATCH: u64 = 8192;
pub(crate) const REQUESTS: u64 = 256;
/// What choosing a token takes for each word of the vocabulary, in bytes: vLLM's logs have 38 to 41.
const WORD: u64 = 40;
/// Tokens of a request, and requests at a time, where nobody says otherwise.
pub const DEFAULT_CONTEXT: u64 = 8192;
/// See [`DEFAULT_CONTEXT`].
pub const DEFAULT_CONCURRENCY: u64 = 8;
/// Tokens of a block of the cache.
pub const BLOCK: u64 = 16;

/// How it is to be served.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Bits of a weight, and of a value of the cache.
    pub weight_bits: u64,
    /// See `weight_bits`.
    pub kv_bits: u64,
    /// Tokens of a request, what was read and written.
    pub context: u64,
    /// Requests at a time.
    pub concurrency: u64,
    /// GPUs that share each layer; see [`Llm::split`].
    pub gpus: u64,
    /// The part of a GPU's memory that may be used.
    pub utilization: f64,
    /// Memory of a GPU, in bytes.
    pub gpu_bytes: u64,
}

/// What comes of it, on each GPU, in bytes.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Fit {
    /// Weights.
    pub weights_bytes: u64,
    /// Keys and values of one token, in layers without a window and with one.
    pub kv_bytes_per_token: u64,
    /// Those of all requests at their full length.
    pub kv_bytes: u64,
    /// The context, graphs and activations.
    pub overhead_bytes: u64,
    /// All of that.
    pub total_bytes: u64,
    /// What may be used of the GPU.
    pub usable_bytes: u64,
    /// Whether it fits.
    pub fits: bool,
    /// Tokens that the cache holds beside weights and overhead, in requests of that length.
    pub kv_tokens: u64,
    /// The same in blocks of 16.
    pub kv_blocks: u64,
    /// Requests of that length at a time.
    pub most_requests: u64,
}

/// Keys and values of one token in all layers on each of `gpus` GPUs, in bytes. Heads are shared out, latents are not.
pub fn kv_bytes_per_token(model: &Llm, kv_bits: u64, gpus: u64) -> u64 {
    model.layers * model.kept(gpus) * kv_bits / 8
}

/// Keys and values of one request of so many tokens on each of `gpus` GPUs, in bytes: whole blocks, and of layers with a window no more than that.
pub fn request_bytes(model: &Llm, kv_bits: u64, gpus: u64, tokens: u64) -> u64 {
    model.kept_blocks(tokens.max(1), BLOCK) * BLOCK * model.kept(gpus) * kv_bits / 8
}

/// Weights on each of `gpus` GPUs, in bytes.
pub fn weights_bytes(model: &Llm, weight_bits: u64, gpus: u64) -> u64 {
    model.weights_bytes(weight_bits, gpus)
}

/// The most that a step takes beside weights and cache on each of `gpus` GPUs, in bytes: a layer at work on `tokens` that are read, or the choice
/// of the next token of `requests`.
pub fn activations_bytes(model: &Llm, tokens: u64, requests: u64, gpus: u64) -> u64 {
    (tokens * model.work_bytes(gpus)).max(requests * model.vocab() * WORD)
}

/// Blocks of the cache that so many bytes hold.
pub fn blocks(model: &Llm, kv_bits: u64, gpus: u64, bytes: u64) -> u64 {
    bytes / (kv_bytes_per_token(model, kv_bits, gpus) * BLOCK).max(1)
}

/// Sizes a model.
pub fn fit(model: &Llm, ask: &Ask) -> Fit {
    let weights_bytes = weights_bytes(model, ask.weight_bits, ask.gpus);
    let kv_bytes_per_token = kv_bytes_per_token(model, ask.kv_bits, ask.gpus);
    let each = request_bytes(model, ask.kv_bits, ask.gpus, ask.context).max(1);
    let kv_bytes = each.saturating_mul(ask.concurrency);
    let overhead_bytes = CONTEXT + GRAPHS + activations_bytes(model, BATCH, REQUESTS, ask.gpus);
    let total_bytes = weights_bytes.saturating_add(kv_bytes).saturating_add(overhead_bytes);
    let usable_bytes = (ask.gpu_bytes as f64 * ask.utilization) as u64;
    let left = usable_bytes.saturating_sub(weights_bytes).saturating_sub(overhead_bytes);
    let most_requests = left / each;
    let kv_blocks = (u128::from(left) * u128::from(ask.context.div_ceil(BLOCK).max(1)) / u128::from(each)) as u64;
    Fit {
        weights_bytes,
        kv_bytes_per_token,
        kv_bytes,
        overhead_bytes,
        total_bytes,
        usable_bytes,
        fits: total_bytes <= usable_bytes,
        kv_tokens: kv_blocks * BLOCK,
        kv_blocks,
        most_requests,
    }
}

/// What comes nearest where it doesn't fit, in words: what is changed, the smallest change of each kind that suffices.
pub fn offers(model: &Llm, ask: &Ask) -> Vec<String> {
    let fits = |ask: &Ask| fit(model, ask).fits;
    let mut all = Vec::new();
    let now = fit(model, ask);
    if now.most_requests >= 1 {
        all.push(format!("{} requests at a time", now.most_requests));
    }
    let shorter =
        std::iter::successors(Some(ask.context / 2), |context| Some(context / 2)).take_while(|context| *context >= 512);
    if let Some(context) = { shorter }.find(|context| fits(&Ask { context: *context, ..*ask })) {
        all.push(format!("a context of {context} tokens"));
    }
    for (bits, name) in [(8, "fp8"), (4, "int4")] {
        if bits < ask.weight_bits && fits(&Ask { weight_bits: bits, ..*ask }) {
            all.push(format!("weights in {name}"));
            break;
        }
    }
    let more = |gpus: &u64| *gpus > ask.gpus && model.splits(*gpus) && fits(&Ask { gpus: *gpus, ..*ask });
    if let Some(gpus) = [2, 4, 8, 16].into_iter().find(more) {
        all.push(format!("{gpus} such GPUs"));
    }
    all
}

/// Bytes as GiB, for people.
pub fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / GIB)
}
