//! What is: `cleave ps`, `gpus`, `status`, `top`, `events`.
use super::{Context, slice};
use crate::client::{Result, segment};
use crate::output::{self, Format, Named, bar, grouped, or_dash, percent, table};
use cleave_api::{ErrorCode, Event, Gpu, List, Process, Slice, Status, format_bytes};
use serde::Serialize;
use std::time::Duration;

/// How often new events are asked for.
const FOLLOW: Duration = Duration::from_millis(500);

/// Lists the processes in slices.
pub(crate) fn ps(context: &Context, slice: Option<&str>) -> Result<i32> {
    let client = context.client()?;
    let processes = match slice {
        None => client.get("processes")?,
        Some(slice) => List::new("processes", client.get::<Slice>(&format!("slices/{}", segment(slice)))?.processes),
    };
    output::print(context.format, &processes, || match processes.items.is_empty() {
        true => "no processes in slices".into(),
        false => ps_text(&processes.items),
    })?;
    Ok(0)
}

/// How much of a GPU's memory, or of a slice's part of it, is in use; then what else there is to say, and how busy it is.
pub(super) fn memory_line(used: u64, whole: u64, more: &[String], busy_percent: Option<u32>) -> String {
    let more: String = more.iter().map(|fact| format!(", {fact}")).collect();
    let (part, busy) = (percent(used, whole), busy(busy_percent));
    format!("{} {} of {} ({part}){more}, busy {busy}", bar(used, whole, 24), format_bytes(used), format_bytes(whole))
}

/// Percent of the last second; a dash where the driver does not say.
pub(super) fn busy(percent: Option<u32>) -> String {
    or_dash(percent.map(|percent| format!("{percent}%")))
}

/// A table of processes.
pub(super) fn ps_text(processes: &[Process]) -> String {
    let rows = processes.iter().map(|process| {
        vec![
            process.pid.to_string(),
            process.slice.clone(),
            process.used_bytes.iter().map(|b| format_bytes(*b)).collect::<Vec<_>>().join(", "),
            grouped(process.launches),
            grouped(process.denied),
            or_dash(process.uid),
            process.state.clone(),
            shortened(&process.command, 60),
        ]
    });
    table(&[">PID", "SLICE", ">USED", ">LAUNCHES", ">DENIED", ">UID", "STATE", "COMMAND"], rows.collect())
}

/// One line of at most `most` characters, without anything that moves the cursor.
fn shortened(text: &str, most: usize) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    if text.chars().count() > most {
        out.pop();
        out.push('…');
    }
    out
}

/// Prints the page that Prometheus reads: for a file that its node exporter collects, where it can't ask the daemon itself.
pub(crate) fn metrics(context: &Context) -> Result<i32> {
    output::line(context.client()?.text("/metrics")?.trim_end())?;
    Ok(0)
}

/// Shows the daemon.
pub(crate) fn status(context: &Context) -> Result<i32> {
    let client = context.any_client()?;
    // Its version may be what someone wants to see, so it is shown before it is judged.
    let value: serde_json::Value = client.get("status")?;
    if let Ok(status) = serde_json::from_value::<Status>(value.clone()) {
        output::print(context.format, &Named::new("status", &status), || status_text(&status))?;
    } else {
        output::print(context.format, &Named::new("status", &value), || value.to_string())?;
    }
    client.checked_status()?;
    Ok(0)
}

fn status_text(status: &Status) -> String {
    let driver = &status.driver;
    let kind = match &driver.simulated {
        Some(spec) => format!("simulated {spec}"),
        None if driver.version.is_empty() => "none of NVIDIA's".into(),
        None => format!("driver {}", driver.version),
    };
    let cuda = match driver.cuda_version {
        0 => String::new(),
        version => format!(", CUDA {}.{}", version / 1000, version % 1000 / 10),
    };
    let private = if status.private { ", private: ends with its last slice" } else { "" };
    let lines = [
        ("daemon", format!("cleave {} (process {}{private})", status.version, status.pid)),
        ("since", status.started_at.clone()),
        ("driver", format!("{kind}{cuda}")),
        ("libraries", driver.library_dir.clone()),
        ("run dir", status.run_dir.clone()),
        ("state dir", status.state_dir.clone()),
        ("now", format!("{} GPUs, {} slices, {} processes", status.gpus, status.slices, status.processes)),
    ];
    lines.iter().map(|(key, value)| format!("{key:<10} {value}\n")).collect()
}

#[derive(Serialize)]
struct Picture {
    gpus: Vec<Gpu>,
    slices: Vec<Slice>,
}

/// Shows GPUs and slices, again and again: redrawn on a terminal, one after the other elsewhere.
pub(crate) fn top(context: &Context, interval: f64, once: bool) -> Result<i32> {
    let client = if once { context.client()? } else { context.client_or_start()? };
    let redraw = !once && context.format == Format::Table && output::redraws();
    loop {
        let picture = Picture {
            gpus: client.get::<List<Gpu>>("gpus")?.items,
            slices: client.get::<List<Slice>>("slices")?.items,
        };
        if redraw {
            output::draw("\x1b[H", &top_text(&picture));
        } else {
            match context.format {
                // One document to a line, so that a reader knows where each ends.
                Format::Json if !once => {
                    let named = Named::new("top", &picture);
                    output::line(&serde_json::to_string(&named).unwrap_or_default())?;
                }
                _ => output::print(context.format, &Named::new("top", &picture), || top_text(&picture))?,
            }
            if !once && context.format == Format::Yaml {
                output::line("---")?;
            }
        }
        if once {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs_f64(interval));
    }
}

fn top_text(picture: &Picture) -> String {
    let mut text = String::new();
    for gpu in &picture.gpus {
        let quotas = format!("quotas {}", percent(gpu.reserved_bytes, gpu.memory_bytes));
        let outside = format!("outside slices {}", format_bytes(gpu.untracked_bytes));
        let line = memory_line(gpu.used_bytes, gpu.memory_bytes, &[quotas, outside], gpu.busy_percent);
        let over = if gpu.overcommitted { ", overcommitted" } else { "" };
        text.push_str(&format!("GPU {} {}  {line}{over}\n", gpu.index, gpu.name));
    }
    text.push('\n');
    text.push_str(&slice::list_text(&picture.slices));
    let processes: Vec<Process> = picture.slices.iter().flat_map(|s| s.processes.clone()).collect();
    if !processes.is_empty() {
        text.push_str("\n\n");
        text.push_str(&ps_text(&processes));
    }
    text
}

/// Lists what happened; with `follow`, goes on.
pub(crate) fn events(context: &Context, follow: bool, mut since: u64, slice: Option<&str>) -> Result<i32> {
    let client = context.client()?;
    loop {
        let about = slice.map(|s| format!("&slice={}", segment(s))).unwrap_or_default();
        let events: List<Event> = match client.get(&format!("events?since={since}{about}")) {
            // The end of the daemon is the end of what can happen.
            Err(error) if follow && error.code == ErrorCode::Unavailable => {
                output::warning("the daemon has ended");
                return Ok(0);
            }
            other => other?,
        };
        since = events.items.iter().map(|e| e.id).max().unwrap_or(since).max(since);
        if !follow && context.format != Format::Table {
            output::print(context.format, &events, String::new)?;
            return Ok(0);
        }
        for event in &events.items {
            match context.format {
                Format::Table => output::line(&event_text(event))?,
                Format::Json => output::line(&serde_json::to_string(&Named::new("event", event)).unwrap_or_default())?,
                Format::Yaml => {
                    output::line("---")?;
                    output::print(Format::Yaml, &Named::new("event", event), String::new)?;
                }
            }
        }
        if !follow {
            return Ok(0);
        }
        std::thread::sleep(FOLLOW);
    }
}

fn event_text(event: &Event) -> String {
    format!("{}  {:<16} {:<20} {}", event.at, event.kind, event.slice.as_deref().unwrap_or("-"), event.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_not_move_the_cursor() {
        assert_eq!(shortened("a\x1b[2Jb\nc", 60), "a [2Jb c");
        assert_eq!(shortened("abcdef", 4), "abc…");
    }
}
