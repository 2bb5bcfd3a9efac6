//! `cleave capacity`: how many slices GPUs give each tier.
use super::Context;
use crate::client::Result;
use crate::output::{self, or_dash, table};
use cleave_api::{ErrorBody, ErrorCode, List, Vendor, format_bytes};
use cleave_inventory::Table;
use cleave_plan::capacity::{Cut, Kind, Slots, slots};
use serde::Serialize;

/// A tier, and what it would have of all the GPUs.
#[derive(Serialize)]
struct Tier {
    tier: String,
    slots: u32,
    gpus: Vec<Slots>,
}

/// Counts the slots of each of `tiers`, such as `dev=temporal:4`, on GPUs such as `8xH100`.
pub(crate) fn run(context: &Context, gpus: &str, tiers: &[String]) -> Result<i32> {
    let kinds = gpus.split('+').map(kind).collect::<Result<Vec<Kind>>>()?;
    let mut all = Vec::new();
    for text in tiers {
        let bad = |why: String| {
            ErrorBody::new(
                ErrorCode::Invalid,
                format!("tier \"{text}\": {why}"),
                "write NAME=ENGINE:HOW, such as dev=temporal:4",
            )
        };
        let (name, cut) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| bad("a name and = are missing".into()))?;
        let cut: Cut = cut.parse().map_err(bad)?;
        let gpus: Vec<Slots> = kinds.iter().map(|kind| slots(kind, &cut)).collect();
        all.push(Tier { tier: name.into(), slots: gpus.iter().map(|gpu| gpu.slots).sum(), gpus });
    }
    let all = List::new("tiers", all);
    output::print(context.format, &all, || {
        let rows = all.items.iter().flat_map(|tier| {
            tier.gpus.iter().map(|gpu| {
                vec![
                    tier.tier.clone(),
                    format!("{} x {}", gpu.gpus, gpu.gpu),
                    gpu.each.to_string(),
                    gpu.slots.to_string(),
                    or_dash(gpu.memory_bytes.map(format_bytes)),
                    gpu.why_not.clone().unwrap_or_default(),
                ]
            })
        });
        let rows = rows.collect();
        format!(
            "{}\neach tier as if all of the GPUs were its",
            table(&["TIER", "GPUS", ">EACH", ">SLOTS", ">MEMORY", "WHY NONE"], rows)
        )
    })?;
    Ok(0)
}

/// `8xH100`, or one.
fn kind(text: &str) -> Result<Kind> {
    let text = text.trim();
    let (count, model) = match text.split_once('x') {
        Some((count, model)) if count.bytes().all(|byte| byte.is_ascii_digit()) && !count.is_empty() => (count, model),
        _ => ("1", text),
    };
    let hint = "write MODEL or COUNTxMODEL, joined by +, such as 8xH100 or 4xH100+8xT4";
    let bad = |message: String| ErrorBody::new(ErrorCode::Invalid, message, hint);
    let count = count.parse().ok().filter(|count| (1..=1_000_000).contains(count));
    let count: u32 = count.ok_or_else(|| bad(format!("{text}: there must be 1 to 1000000")))?;
    let table = Table::get();
    let found = table.named(model).ok_or_else(|| bad(format!("there is no GPU \"{model}\" in the device table")))?;
    let major = found.cc.as_deref().and_then(|cc| cc.split('.').next()?.parse::<u32>().ok());
    Ok(Kind {
        name: found.name.clone(),
        count,
        memory_bytes: found.memory_bytes(),
        mig: found.mig.as_deref().and_then(|name| table.geometry(name)).map(|geometry| geometry.known_shape().0),
        spatial: found.vendor == Vendor::Nvidia && major.is_some_and(|major| major >= 7),
    })
}
