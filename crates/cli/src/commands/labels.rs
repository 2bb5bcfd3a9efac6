//! `cleave labels`: what a node's labels say of its GPUs, as a file for Node Feature Discovery.
use super::{Context, capacity, inventory};
use crate::LabelOptions;
use crate::client::Result;
use crate::output::{self, Named};
use cleave_api::{ErrorBody, ErrorCode, GpuModes, List};
use cleave_inventory::modes::modes;
use cleave_plan::label::labels;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// First line of a file that is ours to change.
const OURS: &str = "# written by `cleave labels`, which writes it anew";

/// What is printed.
#[derive(Serialize)]
struct Labels {
    labels: BTreeMap<String, String>,
    /// What was done to the file, if one was named: `written`, `unchanged`, `removed` or `absent`.
    file: Option<&'static str>,
}

/// Prints the labels, writes them to a file, or removes that.
pub(crate) fn run(context: &Context, options: &LabelOptions) -> Result<i32> {
    let mut told = Labels { labels: BTreeMap::new(), file: None };
    if !options.remove {
        let tiers = capacity::policy(options.tiers.as_deref())?;
        let (found, gpus) = inventory::find(context, &options.of)?;
        // A daemon knows besides whether there is MPS.
        let modes = match gpus.is_none() {
            true => modes(&found),
            false => context.client()?.get::<List<GpuModes>>("modes")?.items,
        };
        told.labels = labels(&found, &modes, &tiers);
    }
    let lines: Vec<String> = told.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if let Some(file) = &options.feature_file {
        let there = ours(file)?;
        told.file = Some(match (options.remove, there) {
            (true, None) => "absent",
            (true, Some(_)) => {
                std::fs::remove_file(file).map_err(|e| unavailable(file, &format!("it can't be removed: {e}")))?;
                "removed"
            }
            (false, there) => {
                let text = format!("{OURS}\n{}", lines.join("\n"));
                if there.is_some_and(|there| there.trim_end() == text) {
                    "unchanged"
                } else {
                    inventory::write_whole(file, Ok(text))?;
                    "written"
                }
            }
        });
    }
    output::print(context.format, &Named::new("labels", &told), || match (told.file, &options.feature_file) {
        (Some(done), Some(file)) => format!("{}: {done}", file.display()),
        _ => lines.join("\n"),
    })?;
    Ok(0)
}

fn unavailable(file: &Path, why: &str) -> ErrorBody {
    let message = format!("{}: {why}", file.display());
    ErrorBody::new(ErrorCode::Unavailable, message, "name a file that is yours, or one that is not there yet")
}

/// What a file of ours has; `None` if it is not there. Somebody else's is left alone.
fn ours(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unavailable(file, &error.to_string())),
        Ok(text) if text.starts_with(OURS) => Ok(Some(text)),
        Ok(_) => Err(ErrorBody::new(
            ErrorCode::Conflict,
            format!("{}: `cleave labels` did not write this file, and leaves it alone", file.display()),
            "name another file, or remove this one yourself",
        )),
    }
}
