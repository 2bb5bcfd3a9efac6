//! Taking a GPU out of use and back: `cleave drain`, `cleave undrain`.
use super::Context;
use crate::client::{Result, segment};
use crate::output::{self, Named, or_dash, table};
use cleave_api::{Drain, format_bytes};

/// Takes a GPU out of use; with `plan` only shows who would go where.
pub(crate) fn drain(context: &Context, gpu: &str, plan: bool, force: bool) -> Result<i32> {
    let path = format!("gpus/{}/drain?dry_run={plan}&force={force}", segment(gpu));
    let drain: Drain = context.client()?.post(&path, &())?;
    print(context, &drain, plan)
}

/// Takes it back into use.
pub(crate) fn undrain(context: &Context, gpu: &str) -> Result<i32> {
    let drain: Drain = context.client()?.post(&format!("gpus/{}/undrain", segment(gpu)), &())?;
    print(context, &drain, false)
}

fn print(context: &Context, drain: &Drain, plan: bool) -> Result<i32> {
    output::print(context.format, &Named::new("drain", drain), || {
        let rows = drain.moves.iter().map(|one| {
            let when = match (one.done, plan, &one.waits_for[..]) {
                (true, ..) => "done".into(),
                (_, true, []) => "at once".into(),
                (_, _, []) => "soon".into(),
                (_, _, pids) => {
                    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
                    format!("when pid {} ends", pids.join(", "))
                }
            };
            let share = or_dash(one.compute_percent.map(|percent| format!("{percent} %")));
            vec![
                one.slice.clone(),
                one.from.to_string(),
                one.to.to_string(),
                format_bytes(one.memory_bytes),
                share,
                when,
            ]
        });
        let state = match (drain.draining, drain.empty) {
            _ if plan => "would be drained",
            (true, true) => "is drained: no slice is left on it",
            (true, false) => "is being drained: slices are left on it until their programs end",
            (false, _) => "is in use",
        };
        let state = format!("GPU {} ({}) {state}", drain.gpu, drain.name);
        match drain.moves.is_empty() {
            true => state,
            false => {
                let headers = ["SLICE", ">FROM", ">TO", ">MEMORY", ">COMPUTE", "MOVES"];
                format!("{}\n{state}", table(&headers, rows.collect()))
            }
        }
    })?;
    Ok(0)
}
