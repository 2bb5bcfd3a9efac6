//! `cleave capacity`: how many slices GPUs give each tier.
use super::{Context, inventory};
use crate::CapacityOptions;
use crate::client::Result;
use crate::output::{self, or_dash, table};
use cleave_api::{ErrorBody, ErrorCode, List, format_bytes};
use cleave_plan::capacity::{Cut, Slots, cut};
use cleave_plan::fleet::{Fleet, Kind, groups};
use cleave_plan::spec::NodeSpec;
use cleave_plan::tier::Tiers;
use serde::Serialize;
use std::path::Path;

/// Most GPUs of a kind.
const MOST: u32 = 1_000_000;

/// A tier, and what it would have of all the GPUs.
#[derive(Serialize)]
struct Tier {
    tier: String,
    slots: u32,
    gpus: Vec<Slots>,
}

impl Tier {
    fn new(name: &str, gpus: Vec<Slots>) -> Self {
        Self { tier: name.into(), slots: gpus.iter().map(|gpu| gpu.slots).sum(), gpus }
    }
}

/// The tier policy of a file, or the default.
pub(super) fn policy(file: Option<&Path>) -> Result<Tiers> {
    let Some(file) = file else { return Ok(Tiers::default()) };
    let hint = "a tier policy is `tiers:` and, under each name, `engines:`, as in prod: { engines: [mig] }";
    Tiers::read(&inventory::text_of(file)?).map_err(|why| inventory::invalid(file, &why, hint))
}

/// Counts the slots of each tier.
pub(crate) fn run(context: &Context, options: &CapacityOptions) -> Result<i32> {
    let kinds = kinds(context, options)?;
    let each = |slots: &dyn Fn(u32, &Kind) -> Slots| kinds.iter().map(|(count, kind)| slots(*count, kind)).collect();
    let mut all = Vec::new();
    for text in &options.tier {
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
        all.push(Tier::new(name, each(&|count, kind| Slots::of(count, kind, &cut))));
    }
    if options.tier.is_empty() {
        for (name, tier) in &policy(options.tiers.as_deref())?.tiers {
            let slots = |count, kind: &Kind| match cut(kind, tier, options.parts) {
                Ok(cut) => Slots::of(count, kind, &cut),
                Err(why) => Slots::none(count, kind, why),
            };
            all.push(Tier::new(name, each(&slots)));
        }
    }
    let all = List::new("tiers", all);
    output::print(context.format, &all, || {
        let rows = all.items.iter().flat_map(|tier| {
            tier.gpus.iter().map(|gpu| {
                vec![
                    tier.tier.clone(),
                    format!("{} x {}", gpu.gpus, gpu.gpu),
                    or_dash(gpu.cut.clone()),
                    gpu.each.to_string(),
                    gpu.slots.to_string(),
                    or_dash(gpu.memory_bytes.map(format_bytes)),
                    gpu.why_not.clone().unwrap_or_default(),
                ]
            })
        });
        let rows = rows.collect();
        let sums: Vec<String> = all.items.iter().map(|tier| format!("{} {}", tier.tier, tier.slots)).collect();
        format!(
            "{}\nslots of each tier, as if all of the GPUs were its: {}",
            table(&["TIER", "GPUS", "CUT", ">EACH", ">SLOTS", ">MEMORY", "WHY NONE"], rows),
            sums.join(", ")
        )
    })?;
    Ok(0)
}

/// The GPUs that are written down, those of an inventory, or this machine's.
fn kinds(context: &Context, options: &CapacityOptions) -> Result<Vec<(u32, Kind)>> {
    if let Some(gpus) = &options.gpus {
        let hint = "write MODEL or COUNTxMODEL, joined by +, such as 8xH100 or 4xH100+8xT4";
        return groups(gpus, MOST).map_err(|why| ErrorBody::new(ErrorCode::Invalid, why, hint));
    }
    let mut fleet = Fleet::default();
    let left_out = fleet.add_inventory(&NodeSpec::plain("machine"), &inventory::find(context, &options.of)?.0);
    let left_out = left_out.map_err(|why| ErrorBody::new(ErrorCode::Invalid, why, ""))?;
    left_out.iter().for_each(|one| output::warning(one));
    match fleet.count() {
        0 => Err(ErrorBody::new(
            ErrorCode::Unavailable,
            "there is no GPU whose memory is known",
            "write down which are meant, as --gpus 8xH100, or name an inventory",
        )),
        _ => Ok(fleet.counts().into_iter().map(|(count, kind)| (count, kind.clone())).collect()),
    }
}
