//! `cleave fit`: whether and how a language model fits on a GPU.
use super::Context;
use crate::FitOptions;
use crate::client::Result;
use crate::output::{self, Named, table};
use cleave_api::{ErrorBody, ErrorCode};
use cleave_inventory::Table;
use cleave_plan::fit::{Ask, BLOCK, Fit, Llm, fit, gib, models, named, near, offers};
use cleave_plan::logged::{ALLOWED, Logged, Of, logged};
use serde::Serialize;
use std::borrow::Cow;

/// What `-o json` prints.
#[derive(Serialize)]
struct Sized<'a> {
    model: &'a str,
    source: &'a str,
    parameters: u64,
    gpu: &'a str,
    gpus: u64,
    weight_bits: u64,
    context: u64,
    concurrency: u64,
    #[serde(flatten)]
    fit: &'a Fit,
    /// What comes nearest, where it doesn't fit.
    offers: &'a [String],
}

/// A model by its name in the table, or by its `config.json`.
fn model(name: &str) -> Result<Cow<'static, Llm>> {
    if name.ends_with(".json") {
        let text = std::fs::read_to_string(name)
            .map_err(|e| ErrorBody::new(ErrorCode::NotFound, format!("can't read {name}: {e}"), ""))?;
        let mut model = Llm::from_config(&text).map_err(|why| {
            let hint = "it must be the config.json of a language model, with the keys that Hugging Face gives it";
            ErrorBody::new(ErrorCode::Invalid, format!("{name}: {why}"), hint)
        })?;
        (model.name, model.source) = (name.to_owned(), name.to_owned());
        return Ok(Cow::Owned(model));
    }
    named(name).map(Cow::Borrowed).ok_or_else(|| {
        let message = format!("there is no model \"{name}\" in the table of {}", models().len());
        let hint = format!(
            "near it are {}; `cleave fit --models` lists all; or give the path of its config.json",
            near(name).join(", ")
        );
        ErrorBody::new(ErrorCode::NotFound, message, hint)
    })
}

/// Sizes a model; 3 if it doesn't fit.
pub(crate) fn run(context: &Context, options: &FitOptions) -> Result<i32> {
    let (Some(name), Some(gpu)) = (&options.model, &options.gpu) else {
        return if options.models { list(context) } else { check(context) };
    };
    let model = model(name)?;
    model.split(options.gpus).map_err(|why| ErrorBody::new(ErrorCode::Invalid, format!("--gpus: {why}"), ""))?;
    let gpu = Table::get().named(gpu).ok_or_else(|| {
        let message = format!("there is no GPU \"{gpu}\" in the device table");
        ErrorBody::new(ErrorCode::NotFound, message, "name one as in H100, A100-40, L40S, T4, or \"GeForce RTX 4090\"")
    })?;
    let gpu_bytes = gpu.memory_bytes().ok_or_else(|| {
        let message = format!("the memory of a {} is not known", gpu.name);
        ErrorBody::new(ErrorCode::Unavailable, message, "name another GPU")
    })?;
    if options.context > model.context {
        output::warning(&format!("{} was made for at most {} tokens", model.name, model.context));
    }
    let ask = Ask {
        weight_bits: options.dtype.map_or(model.bits, |dtype| dtype.bits()),
        kv_bits: options.kv_dtype.bits(),
        context: options.context,
        concurrency: options.concurrency,
        gpus: options.gpus,
        utilization: options.utilization,
        gpu_bytes,
    };
    let sized = fit(&model, &ask);
    let offers = if sized.fits { Vec::new() } else { offers(&model, &ask) };
    let all = Sized {
        model: &model.name,
        source: &model.source,
        parameters: model.parameters(),
        gpu: &gpu.name,
        gpus: ask.gpus,
        weight_bits: ask.weight_bits,
        context: ask.context,
        concurrency: ask.concurrency,
        fit: &sized,
        offers: &offers,
    };
    output::print(context.format, &Named::new("fit", &all), || {
        let rows = [
            (
                "weights",
                format!(
                    "{}, {:.2} billion at {} bits",
                    gib(sized.weights_bytes),
                    model.parameters() as f64 / 1e9,
                    ask.weight_bits
                ),
            ),
            (
                "keys and values",
                format!("{} for {} requests of {} tokens", gib(sized.kv_bytes), ask.concurrency, ask.context),
            ),
            ("the rest", format!("{}: activations; context and graphs, assumed", gib(sized.overhead_bytes))),
            ("in all", format!("{} of {} that may be used", gib(sized.total_bytes), gib(sized.usable_bytes))),
            (
                "the cache holds",
                format!(
                    "{} tokens, {} blocks of {BLOCK}: {} such requests",
                    sized.kv_tokens, sized.kv_blocks, sized.most_requests
                ),
            ),
        ];
        let rows = rows.into_iter().map(|(what, text)| vec![what.to_owned(), text]).collect();
        let each = if ask.gpus > 1 { format!("{} x {}, on each", ask.gpus, gpu.name) } else { gpu.name.clone() };
        let verdict = match (sized.fits, offers.is_empty()) {
            (true, _) => format!(
                "fits; `cleave slice create --memory {}MiB` is room for it",
                sized.total_bytes.div_ceil(1 << 20)
            ),
            (false, true) => {
                "does not fit, nor by any one of fewer requests, a shorter context, fewer bits or up to 16 GPUs".into()
            }
            (false, false) => format!("does not fit; what would: {}", offers.join("; or ")),
        };
        format!("{}\n{} on {each}: {verdict}", table(&["", ""], rows).trim_start(), model.name)
    })?;
    Ok(if sized.fits { 0 } else { 3 })
}

/// Lists the table.
fn list(context: &Context) -> Result<i32> {
    #[derive(Serialize)]
    struct Row<'a> {
        name: &'a str,
        parameters: u64,
        weight_bits: u64,
        context: u64,
        source: &'a str,
        aliases: &'a [String],
    }
    let row = |model: &'static Llm| Row {
        name: &model.name,
        parameters: model.parameters(),
        weight_bits: model.bits,
        context: model.context,
        source: &model.source,
        aliases: &model.aliases,
    };
    let items: Vec<_> = models().iter().map(row).collect();
    output::print(context.format, &Named::new("fit-models", &serde_json::json!({ "items": items })), || {
        let row = |row: &Row| {
            let billions = format!("{:.2}", row.parameters as f64 / 1e9);
            let (bits, context) = (row.weight_bits.to_string(), row.context.to_string());
            vec![row.name.into(), billions, bits, context, row.source.into(), row.aliases.join(", ")]
        };
        table(&["NAME", "BILLIONS", "BITS", "CONTEXT", "SOURCE", "ALSO"], items.iter().map(row).collect())
    })?;
    Ok(0)
}

/// Lists the public logs; 3 if a size is further off than it is known to be.
fn check(context: &Context) -> Result<i32> {
    #[derive(Serialize)]
    struct Row<'a> {
        #[serde(flatten)]
        logged: &'a Logged,
        found: Option<f64>,
    }
    let items: Vec<_> = logged().iter().map(|logged| Row { logged, found: logged.found() }).collect();
    output::print(context.format, &Named::new("fit-check", &serde_json::json!({ "items": items })), || {
        let row = |row: &Row| {
            let one = row.logged;
            let of = match one.of {
                Of::Weights => "weights, GiB".into(),
                Of::Cache => format!("cache for {} tokens, GiB", one.with),
                Of::Blocks => format!("blocks in {} GiB", one.with),
                Of::Tokens => format!("tokens in {} GiB", one.with),
                Of::Step => format!("step of {} tokens, GiB", one.with),
            };
            let whole = matches!(one.of, Of::Blocks | Of::Tokens);
            let number = |value: f64| if whole { format!("{value:.0}") } else { format!("{value:.3}") };
            vec![
                one.model.clone(),
                format!("{} x {}", one.gpus, one.dtype.name()),
                of,
                number(one.value),
                row.found.map(number).unwrap_or_default(),
                one.off().map(|off| format!("{:+.1} %", off * 100.0)).unwrap_or_default(),
                one.source.clone(),
                one.why.clone().unwrap_or_default(),
            ]
        };
        let header = ["MODEL", "GPUS", "OF", "LOGGED", "CLEAVE", "OFF", "SOURCE", "WHY"];
        table(&header, items.iter().map(row).collect())
    })?;
    let off: Vec<_> = logged().iter().filter(|one| !one.is_as_known()).map(|one| one.model.as_str()).collect();
    if !off.is_empty() {
        output::warning(&format!(
            "more than {:.0} % off, or not as the table says: {}",
            ALLOWED * 100.0,
            off.join(", ")
        ));
    }
    Ok(if off.is_empty() { 0 } else { 3 })
}
