//! `cleave run`, `exec` and `env`: programs in slices.
use super::Context;
use crate::client::{Client, Result, segment};
use crate::launch::{self, Ended, Pids, Prints};
use crate::output::{self, Named, grouped, percent};
use crate::{ProgramOptions, RunOptions};
use cleave_api::{ErrorBody, ErrorCode, LaunchPlan, Slice, SliceSpec, format_bytes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Instant;

/// Times that a private daemon is started anew if it ends just as it is asked for a slice.
const ATTEMPTS: usize = 3;

/// Runs a program in a slice of its own.
pub(crate) fn run(context: &Context, spec: SliceSpec, options: &RunOptions) -> Result<i32> {
    let status = in_own_slice(context, &spec, |client, slice| start(context, client, &slice.id, options, Pids::Own))?;
    launch::end_as(status)
}

/// Does something with a slice that is made for it, and goes with it.
pub(super) fn in_own_slice<T>(
    context: &Context,
    spec: &SliceSpec,
    what: impl FnOnce(&Client, &Slice) -> Result<T>,
) -> Result<T> {
    let (client, slice): (Client, Slice) = create(context, "slices", spec)?;
    if slice.overcommitted {
        output::warning(&format!(
            "the quotas on GPU {} sum up to more than it has: a program can run out of memory below its quota",
            gpus_of(&slice)
        ));
    }
    let done = what(&client, &slice);
    // It may be gone by itself already, or the daemon may be: that must not change how the program ended.
    if let Err(error) = client.delete(&format!("slices/{}?force=true", segment(&slice.id)))
        && error.code != ErrorCode::NotFound
        && done.is_ok()
    {
        output::warning(&format!("slice {} was not deleted: {}", slice.name, error.message));
    }
    done
}

/// Runs a program in a slice that exists.
pub(crate) fn exec(context: &Context, slice: &str, options: &RunOptions) -> Result<i32> {
    let client = context.client()?;
    // Programs of one slice may find each other by their ids.
    let status = start(context, &client, slice, options, Pids::Host)?;
    launch::end_as(status)
}

/// Asks a daemon, which may have to be started, to create what `path` and `spec` say.
pub(super) fn create<T: DeserializeOwned>(context: &Context, path: &str, spec: &SliceSpec) -> Result<(Client, T)> {
    let mut attempt = 1;
    loop {
        let client = context.client_or_start()?;
        match client.post(path, spec) {
            Ok(made) => return Ok((client, made)),
            Err(error) if error.code == ErrorCode::Unavailable && attempt < ATTEMPTS && !context.daemon_runs() => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Runs a program in a slice, and waits for its end.
pub(super) fn enter(
    context: &Context,
    client: &Client,
    slice: &str,
    entry: &ProgramOptions,
    pids: Pids,
    prints: Prints,
) -> Result<Ended> {
    let plan: LaunchPlan = client.post(&format!("slices/{}/launch", segment(slice)), &serde_json::json!({}))?;
    if context.verbose > 0 {
        anstream::eprintln!("debug: slice {} ({})", plan.name, plan.id);
    }
    launch::run(plan, entry.hold, entry.pids.unwrap_or(pids), prints, context.verbose > 0, &entry.program)
}

fn start(
    context: &Context,
    client: &Client,
    slice: &str,
    options: &RunOptions,
    pids: Pids,
) -> Result<std::process::ExitStatus> {
    let started = Instant::now();
    let ended = enter(context, client, slice, &options.entry, pids, Prints::Out)?;
    if options.summary || (std::io::stderr().is_terminal() && !options.no_summary) {
        match client.get::<Slice>(&format!("slices/{}", segment(slice))) {
            Ok(slice) => anstream::eprintln!("{}", summary(&slice, started.elapsed().as_secs_f64())),
            Err(error) => output::warning(&format!("no summary: {}", error.message)),
        }
    }
    Ok(ended.status)
}

/// What a program used, in a paragraph.
fn summary(slice: &Slice, seconds: f64) -> String {
    let mut memory = Vec::new();
    for device in &slice.devices {
        let (gpu, limit) = (device.gpu, format_bytes(device.limit_bytes));
        memory.push(match device.peak_bytes {
            Some(peak) => {
                format!("peak {} of {limit} ({}) on GPU {gpu}", format_bytes(peak), percent(peak, device.limit_bytes))
            }
            None => format!("all {limit} of GPU {gpu}"),
        });
    }
    let denied = match slice.denied_total {
        0 => "no allocation refused".into(),
        1 => "1 allocation refused".into(),
        n => format!("{} allocations refused", grouped(n)),
    };
    format!(
        "cleave: slice {}: {}, {}; {denied}; {} launches",
        slice.name,
        duration(seconds),
        memory.join(", "),
        grouped(slice.launches_total)
    )
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

pub(super) fn gpus_of(slice: &Slice) -> String {
    slice.devices.iter().map(|d| d.gpu.to_string()).collect::<Vec<_>>().join(",")
}

#[derive(Serialize)]
struct Environment {
    slice: String,
    variables: BTreeMap<String, String>,
}

/// Prints what to set by hand.
pub(crate) fn env(context: &Context, slice: &str) -> Result<i32> {
    let client = context.client()?;
    let plan: LaunchPlan = client.post(&format!("slices/{}/launch", segment(slice)), &serde_json::json!({}))?;
    let mut variables = BTreeMap::new();
    for (key, value) in launch::environment(&plan, |key| std::env::var_os(key)) {
        let value = value.into_string().map_err(|value| {
            ErrorBody::new(
                ErrorCode::Invalid,
                format!("{key} is not UTF-8: {}", value.to_string_lossy()),
                "set it to something that is, or unset it",
            )
        })?;
        variables.insert(key, value);
    }
    let environment = Environment { slice: plan.name, variables };
    output::print(context.format, &Named::new("environment", &environment), || {
        environment.variables.iter().map(|(key, value)| format!("export {key}={}\n", quoted(value))).collect()
    })?;
    Ok(0)
}

/// As a shell reads it.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-:,=@%+".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_the_shell() {
        assert_eq!(quoted("/lib/a.so:/b"), "/lib/a.so:/b");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }

    #[test]
    fn durations_are_for_people() {
        assert_eq!(duration(0.25), "0.2 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(7380.0), "2 h 3 min");
    }
}
