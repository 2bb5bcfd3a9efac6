//! `cleave fit`: whether and how a language model fits on a GPU.
use super::Context;
use crate::FitOptions;
use crate::client::Result;
use crate::output::{self, Named, table};
use cleave_api::{ErrorBody, ErrorCode};
use cleave_inventory::Table;
use cleave_plan::fit::{Ask, BLOCK, Fit, fit, gib, models, named, offers};
use serde::Serialize;

/// What `-o json` prints.
#[derive(Serialize)]
struct Sized<'a> {
    model: &'a str,
    source: &'a str,
    gpu: &'a str,
    gpus: u64,
    context: u64,
    concurrency: u64,
    #[serde(flatten)]
    fit: &'a Fit,
    /// What comes nearest, where it doesn't fit.
    offers: &'a [String],
}

/// Sizes a model; 3 if it doesn't fit.
pub(crate) fn run(context: &Context, options: &FitOptions) -> Result<i32> {
    let model = named(&options.model).ok_or_else(|| {
        let names: Vec<&str> = models().iter().map(|model| model.name.as_str()).collect();
        let message = format!("there is no model \"{}\" in the table", options.model);
        ErrorBody::new(ErrorCode::NotFound, message, format!("there are {}", names.join(", ")))
    })?;
    let gpu = Table::get().named(&options.gpu).ok_or_else(|| {
        let message = format!("there is no GPU \"{}\" in the device table", options.gpu);
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
        weight_bits: options.dtype.bits(),
        kv_bits: options.kv_dtype.bits(),
        context: options.context,
        concurrency: options.concurrency,
        gpus: options.gpus,
        utilization: options.utilization,
        gpu_bytes,
    };
    let sized = fit(model, &ask);
    let offers = if sized.fits { Vec::new() } else { offers(model, &ask) };
    let all = Sized {
        model: &model.name,
        source: &model.source,
        gpu: &gpu.name,
        gpus: ask.gpus,
        context: ask.context,
        concurrency: ask.concurrency,
        fit: &sized,
        offers: &offers,
    };
    output::print(context.format, &Named::new("fit", &all), || {
        let rows = [
            ("weights", gib(sized.weights_bytes)),
            (
                "keys and values",
                format!("{} for {} requests of {} tokens", gib(sized.kv_bytes), ask.concurrency, ask.context),
            ),
            ("the rest", format!("{}, assumed: context, graphs, activations", gib(sized.overhead_bytes))),
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
