//! Language models: their shapes, from the table or from a `config.json`, and the parameters that follow from them.
use serde::Deserialize;
use serde_json::Value;
use std::sync::OnceLock;

/// How a layer is built, as `model_type` of `config.json` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "config.json's own names")]
pub enum Family {
    DeepseekV2,
    DeepseekV3,
    Gemma,
    Gemma2,
    Gemma3Text,
    GptOss,
    Llama,
    Mistral,
    Mixtral,
    Phi3,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
}

/// A model, under the names of `config.json`, or the shorter ones of `data/models.toml`.
#[derive(Clone, Debug, Deserialize)]
pub struct Llm {
    /// Its name in the table, or the path of its `config.json`.
    #[serde(default)]
    pub name: String,
    /// Other names of it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whose `config.json` says so.
    #[serde(default)]
    pub source: String,
    /// How many parameters its makers say that it has.
    #[serde(rename = "parameters")]
    pub published: Option<u64>,
    /// How its layers are built.
    #[serde(rename = "model_type", alias = "type")]
    pub family: Family,
    /// Layers.
    #[serde(rename = "num_hidden_layers", alias = "layers")]
    pub layers: u64,
    /// Values of a token between layers.
    #[serde(rename = "hidden_size", alias = "hidden")]
    pub hidden: u64,
    /// Heads of queries.
    #[serde(rename = "num_attention_heads", alias = "heads")]
    pub heads: u64,
    /// Heads of keys and values; nothing with latent attention.
    #[serde(rename = "num_key_value_heads", alias = "kv_heads")]
    kv_heads: Option<u64>,
    head_dim: Option<u64>,
    #[serde(rename = "intermediate_size", alias = "intermediate")]
    intermediate: u64,
    #[serde(rename = "vocab_size", alias = "vocab")]
    vocab: u64,
    #[serde(rename = "tie_word_embeddings", alias = "tied")]
    tied: Option<bool>,
    attention_bias: Option<bool>,
    #[serde(rename = "num_experts", alias = "num_local_experts", alias = "n_routed_experts", alias = "experts")]
    experts: Option<u64>,
    #[serde(rename = "num_experts_per_tok", alias = "experts_per_token")]
    experts_per_token: Option<u64>,
    #[serde(rename = "moe_intermediate_size", alias = "expert_intermediate")]
    expert_intermediate: Option<u64>,
    #[serde(rename = "n_shared_experts", alias = "shared_experts")]
    shared_experts: Option<u64>,
    #[serde(rename = "shared_expert_intermediate_size", alias = "shared_intermediate")]
    shared_intermediate: Option<u64>,
    #[serde(rename = "first_k_dense_replace", alias = "dense_layers")]
    dense_layers: Option<u64>,
    q_lora_rank: Option<u64>,
    kv_lora_rank: Option<u64>,
    qk_nope_head_dim: Option<u64>,
    qk_rope_head_dim: Option<u64>,
    v_head_dim: Option<u64>,
    #[serde(default)]
    extra: u64,
    #[serde(rename = "sliding_window", alias = "window")]
    window: Option<u64>,
    #[serde(default)]
    window_layers: u64,
    /// Bits of a weight in the published checkpoint.
    #[serde(default = "sixteen")]
    pub bits: u64,
    #[serde(default)]
    wide_attention: bool,
    /// The longest context that it was made for, in tokens.
    #[serde(rename = "max_position_embeddings", alias = "context")]
    pub context: u64,
}

fn sixteen() -> u64 {
    16
}

#[derive(Deserialize)]
struct Models {
    model: Vec<Llm>,
}

/// Every model of the table.
pub fn models() -> &'static [Llm] {
    static MODELS: OnceLock<Vec<Llm>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let read: Result<Models, _> = toml::from_str(include_str!("../data/models.toml"));
        read.map(|models| models.model).unwrap_or_default()
    })
}

/// A name without its maker, and without what makers append for models of the same shape.
fn plain(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let name = name.strip_prefix("meta-").unwrap_or(&name);
    let same = ["instruct", "chat", "it", "base", "hf", "pt", "thinking"];
    name.split('-').filter(|part| !same.contains(part)).collect::<Vec<_>>().join("-")
}

/// The model of a name: `llama-3-8b`, `meta-llama/Llama-3.1-8B-Instruct`.
pub fn named(name: &str) -> Option<&'static Llm> {
    let wanted = plain(name);
    let is = |model: &&Llm| {
        [&model.name, &model.source].into_iter().chain(&model.aliases).any(|known| plain(known) == wanted)
    };
    models().iter().find(is)
}

/// The three names of the table that are most like one.
pub fn near(name: &str) -> Vec<&'static str> {
    let wanted = plain(name);
    let mut all: Vec<_> = models().iter().map(|model| (distance(&wanted, &model.name), model.name.as_str())).collect();
    all.sort_by_key(|(distance, _)| *distance);
    all.into_iter().take(3).map(|(_, name)| name).collect()
}

/// How many letters must be put in, taken out or changed to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.bytes().enumerate() {
        let mut corner = at;
        let mut left = at + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other.bytes()) {
            let best = (corner + usize::from(a != b)).min(left + 1).min(*cell + 1);
            corner = *cell;
            left = best;
            *cell = best;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

impl Llm {
    /// Reads a Hugging Face `config.json`. The error names the key that is missing or wrong.
    pub fn from_config(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let mut model: Self = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        model.published = None;
        if let Some(how) = value.get("quantization_config").filter(|how| !how.is_null()) {
            model.bits = quantized(how)?;
            // Meta's 8-bit release of the 405B names every projection that it left alone.
            let kept = how.get("modules_to_not_convert").map(Value::to_string).unwrap_or_default();
            model.wide_attention = kept.contains(".self_attn.");
        }
        model.window_layers = model.windows(&value);
        let latent = model.kv_lora_rank.is_some();
        let experts = match model.family {
            Family::DeepseekV2 | Family::DeepseekV3 => "n_routed_experts",
            Family::GptOss | Family::Mixtral => "num_local_experts",
            _ => "num_experts",
        };
        for (key, value, needed, most) in [
            ("num_hidden_layers", Some(model.layers), true, 1 << 10),
            ("hidden_size", Some(model.hidden), true, 1 << 17),
            ("num_attention_heads", Some(model.heads), true, 1 << 12),
            ("intermediate_size", Some(model.intermediate), true, 1 << 17),
            ("vocab_size", Some(model.vocab), true, 1 << 22),
            ("num_key_value_heads", model.kv_heads, !latent, model.heads),
            ("sliding_window", model.window, false, 1 << 32),
            ("head_dim", model.head_dim, false, 1 << 12),
            (experts, model.experts, model.sparse(), 1 << 12),
            ("num_experts_per_tok", model.experts_per_token, model.sparse(), 1 << 12),
            ("moe_intermediate_size", model.expert_intermediate, false, 1 << 17),
            ("n_shared_experts", model.shared_experts.filter(|shared| *shared > 0), false, 1 << 12),
            ("shared_expert_intermediate_size", model.shared_intermediate, false, 1 << 17),
            ("q_lora_rank", model.q_lora_rank, false, 1 << 17),
            ("kv_lora_rank", model.kv_lora_rank, model.of_deepseek(), 1 << 17),
            ("qk_nope_head_dim", model.qk_nope_head_dim, latent, 1 << 12),
            ("qk_rope_head_dim", model.qk_rope_head_dim, latent, 1 << 12),
            ("v_head_dim", model.v_head_dim, latent, 1 << 12),
        ] {
            match value {
                None if needed => return Err(format!("missing field `{key}`")),
                Some(value) if !(1..=most).contains(&value) => {
                    return Err(format!("`{key}` is {value}, and must be 1 to {most}"));
                }
                _ => {}
            }
        }
        Ok(model)
    }

    /// How many layers look back no further than the window, by `config.json` and its family's habit.
    fn windows(&self, config: &Value) -> u64 {
        let every = config.get("sliding_window_pattern").and_then(Value::as_u64).filter(|every| *every > 0);
        match (config.get("layer_types").and_then(Value::as_array), self.family) {
            _ if self.window.is_none() => 0,
            (Some(types), _) => types.iter().filter(|kind| kind.as_str() == Some("sliding_attention")).count() as u64,
            (None, Family::Gemma2 | Family::GptOss) => self.layers.div_ceil(2),
            (None, Family::Gemma3Text) => self.layers - self.layers / every.unwrap_or(6),
            (None, Family::Mistral | Family::Mixtral | Family::Phi3) => self.layers,
            _ => 0,
        }
        .min(self.layers)
    }

    fn of_deepseek(&self) -> bool {
        matches!(self.family, Family::DeepseekV2 | Family::DeepseekV3)
    }

    fn of_gemma(&self) -> bool {
        matches!(self.family, Family::Gemma | Family::Gemma2 | Family::Gemma3Text)
    }

    /// Whether only some of the weights work on a token.
    fn sparse(&self) -> bool {
        matches!(self.family, Family::GptOss | Family::Mixtral | Family::Qwen2Moe | Family::Qwen3Moe)
            || self.of_deepseek()
    }

    fn head_dim(&self) -> u64 {
        let usual = if self.of_gemma() { 256 } else { self.hidden / self.heads.max(1) };
        self.head_dim.unwrap_or(usual)
    }

    /// Heads of keys and values on each of `gpus` GPUs, which have at least one.
    fn kv_heads(&self, gpus: u64) -> u64 {
        self.kv_heads.unwrap_or(self.heads).div_ceil(gpus.max(1)).max(1)
    }

    /// Values of the cache of one token and layer on each of `gpus` GPUs. Heads are shared out, latents are not.
    pub(crate) fn kept(&self, gpus: u64) -> u64 {
        match self.kv_lora_rank {
            Some(rank) => rank + self.qk_rope_head_dim.unwrap_or(0),
            None => 2 * self.kv_heads(gpus) * self.head_dim(),
        }
    }

    /// Blocks of `block` tokens that each layer keeps of a request, added up over the layers.
    pub(crate) fn kept_blocks(&self, tokens: u64, block: u64) -> u64 {
        let seen = self.window.map_or(tokens, |window| tokens.min(window));
        (self.layers - self.window_layers) * tokens.div_ceil(block) + self.window_layers * seen.div_ceil(block)
    }

    /// Whether `gpus` GPUs can share each layer: heads are not cut, and those of keys and values are shared out evenly or all copied evenly.
    pub fn splits(&self, gpus: u64) -> bool {
        let kv = if self.kv_lora_rank.is_some() { self.heads } else { self.kv_heads.unwrap_or(self.heads) };
        let whole = |number: u64, parts: u64| parts > 0 && number.is_multiple_of(parts);
        whole(self.heads, gpus) && (whole(kv, gpus) || whole(gpus, kv))
    }

    /// Refuses a number of GPUs that can't share each layer. The error names the rule and the nearest that can.
    pub fn split(&self, gpus: u64) -> Result<(), String> {
        if self.splits(gpus) {
            return Ok(());
        }
        let below = (1..gpus).rev().find(|less| self.splits(*less));
        let above = (gpus + 1..=self.heads).find(|more| self.splits(*more));
        let nearest: Vec<String> = below.into_iter().chain(above).map(|gpus| gpus.to_string()).collect();
        Err(format!(
            "{gpus} GPUs can't share the {} heads of {} ({} of keys and values) evenly; the nearest that can: {}",
            self.heads,
            self.name,
            self.kv_heads(1),
            nearest.join(" or ")
        ))
    }

    /// All parameters, of every expert.
    pub fn parameters(&self) -> u64 {
        let (narrow, wide) = self.parts(1);
        narrow + wide
    }

    /// Parameters on each of `gpus` GPUs: those that a checkpoint of fewer bits narrows, and those that it leaves at 16: embeddings,
    /// the head, routers, norms, biases.
    fn parts(&self, gpus: u64) -> (u64, u64) {
        let shared = |all: u64| all.div_ceil(gpus.max(1));
        let (hidden, heads) = (self.hidden, self.heads);
        let (attention, mut small) = self.attention(gpus);
        small += if matches!(self.family, Family::Gemma2 | Family::Gemma3Text) { 4 * hidden } else { 2 * hidden };
        if self.family == Family::GptOss {
            small += heads;
        }
        let experts = self.experts.unwrap_or(0);
        let sparse_layers = if experts > 0 { self.layers.saturating_sub(self.dense_layers.unwrap_or(0)) } else { 0 };
        let width = self.expert_intermediate.unwrap_or(self.intermediate);
        let beside = self.shared_experts.unwrap_or(0) * width + self.shared_intermediate.unwrap_or(0);
        let forward = (self.layers - sparse_layers) * shared(3 * hidden * self.intermediate)
            + sparse_layers * (shared(experts * 3 * hidden * width) + shared(3 * hidden * beside));
        let router = experts * hidden
            + match self.family {
                Family::GptOss => experts * (2 * width + hidden) + experts,
                Family::DeepseekV3 => experts,
                _ if self.shared_intermediate.is_some() => hidden,
                _ => 0,
            };
        let copies = if self.tied.unwrap_or(self.of_gemma()) { 1 } else { 2 };
        let wide =
            copies * shared(self.vocab * hidden) + hidden + self.extra + self.layers * small + sparse_layers * router;
        let attention = self.layers * attention;
        if self.wide_attention || self.family == Family::GptOss {
            (forward, wide + attention)
        } else {
            (forward + attention, wide)
        }
    }

    /// A layer's projections of attention on each of `gpus` GPUs, and its norms and biases.
    fn attention(&self, gpus: u64) -> (u64, u64) {
        let shared = |all: u64| all.div_ceil(gpus.max(1));
        let (hidden, heads) = (self.hidden, self.heads);
        if let Some(rank) = self.kv_lora_rank {
            let rotary = self.qk_rope_head_dim.unwrap_or(0);
            let (nope, value) = (self.qk_nope_head_dim.unwrap_or(0), self.v_head_dim.unwrap_or(0));
            let queries = match self.q_lora_rank {
                Some(rank) => hidden * rank + shared(rank * heads * (nope + rotary)),
                None => shared(hidden * heads * (nope + rotary)),
            };
            let keys = hidden * (rank + rotary) + shared(rank * heads * (nope + value));
            return (queries + keys + shared(heads * value * hidden), rank + self.q_lora_rank.unwrap_or(0));
        }
        let head = self.head_dim();
        let small = match self.family {
            Family::Qwen2 | Family::Qwen2Moe => (heads + 2 * self.kv_heads(1)) * head,
            Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3Text => 2 * head,
            _ => 0,
        };
        let bias = if self.attention_bias == Some(true) { (heads + 2 * self.kv_heads(1)) * head + hidden } else { 0 };
        (2 * shared(hidden * heads * head) + 2 * hidden * self.kv_heads(gpus) * head, small + bias)
    }

    /// Weights on each of `gpus` GPUs, in bytes. Formats of 4 bits have a scale and a zero point for every 128 of them, MXFP4 a scale for every 32;
    /// for that vLLM's kernels want rows of 256.
    pub(crate) fn weights_bytes(&self, bits: u64, gpus: u64) -> u64 {
        let (mut narrow, wide) = self.parts(gpus);
        let scales = match (bits, self.family) {
            (4, Family::GptOss) => {
                narrow = narrow / self.hidden * self.hidden.next_multiple_of(256);
                narrow / 32
            }
            (4, _) => narrow / 128 * 20 / 8,
            _ => 0,
        };
        narrow * bits / 8 + scales + wide * 2
    }

    /// What the layer in work takes on each of `gpus` GPUs, in bytes for a token: the feed-forward part's inputs and outputs, or its experts'.
    pub(crate) fn work_bytes(&self, gpus: u64) -> u64 {
        let shared = |all: u64| all.div_ceil(gpus.max(1));
        match self.experts {
            Some(_) => {
                let width = self.expert_intermediate.unwrap_or(self.intermediate);
                2 * self.experts_per_token.unwrap_or(1) * (3 * shared(width) + self.hidden)
            }
            None => 2 * 3 * (shared(self.intermediate) + self.hidden),
        }
    }

    pub(crate) fn vocab(&self) -> u64 {
        self.vocab
    }
}

/// Bits of a weight, by `quantization_config`.
fn quantized(how: &Value) -> Result<u64, String> {
    let method = how.get("quant_method").and_then(Value::as_str).unwrap_or_default();
    let bits = match method {
        "awq" | "gptq" => how.get("bits").or(how.get("w_bit")).and_then(Value::as_u64),
        "bitsandbytes" => Some(if how.get("load_in_4bit") == Some(&Value::Bool(true)) { 4 } else { 8 }),
        "compressed-tensors" => how.pointer("/config_groups/group_0/weights/num_bits").and_then(Value::as_u64),
        "fp8" | "fbgemm_fp8" => Some(8),
        "mxfp4" => Some(4),
        _ => None,
    };
    bits.filter(|bits| [4, 8, 16].contains(bits)).ok_or_else(|| {
        format!(
            "`quantization_config` (quant_method \"{method}\") does not say that weights have 4, 8 or 16 bits as awq, bitsandbytes, \
             compressed-tensors, fbgemm_fp8, fp8, gptq and mxfp4 do"
        )
    })
}
