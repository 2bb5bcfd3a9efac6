//! `cleave demo`: the main job, shown and judged. Three tenants have 25, 35 and 40 % of a card. One grows until the
//! driver refuses it memory, and goes on; the others notice nothing. Each runs by the ordinary `cleave run`.
use crate::client::{Client, Result};
use crate::commands::Context;
use crate::output::{self, BAD, Format, GOOD, bar, grouped, percent, table};
use crate::tenant::Report;
use cleave_api::{ErrorBody, ErrorCode, Gpu, List, Slice, format_bytes};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is simulated where there is no GPU.
const STAND_IN: &str = "1xH100";
/// How often the slices are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often a line is printed where the table can't be redrawn.
const SAY: Duration = Duration::from_secs(1);
/// A tenant that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(60);
const TENANTS: [Role; 3] = [
    Role { name: "grower", percent: 25, grows: true, iterations: 12, pause_ms: 180 },
    Role { name: "trainer", percent: 35, grows: false, iterations: 40, pause_ms: 150 },
    Role { name: "server", percent: 40, grows: false, iterations: 60, pause_ms: 100 },
];

struct Role {
    name: &'static str,
    percent: u32,
    grows: bool,
    iterations: u32,
    pause_ms: u64,
}

/// A tenant while it runs.
struct Tenant {
    role: &'static Role,
    slice: String,
    child: Child,
    report: Arc<Mutex<Report>>,
    said: Arc<Mutex<String>>,
    seen: Seen,
    exit: Option<i32>,
}

/// What the daemon said of a tenant's slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Seen {
    limit_bytes: u64,
    used_bytes: u64,
    peak_bytes: u64,
    launches: u64,
    denied: u64,
    looks: u64,
    over_limit: bool,
}

/// How a tenant fared.
#[derive(Serialize)]
struct Verdict {
    tenant: &'static str,
    slice: String,
    passed: bool,
    /// What was expected and did not happen.
    faults: Vec<String>,
    limit_bytes: u64,
    peak_bytes: u64,
    denied: u64,
    launches: u64,
    out_of_memory_errors: u32,
    iterations: u32,
}

#[derive(Serialize)]
struct Outcome {
    gpu: String,
    simulated: bool,
    passed: bool,
    seconds: f64,
    tenants: Vec<Verdict>,
}

/// Runs the demo; the exit code is 0 if everything went as it should.
pub(crate) fn run(mut context: Context) -> Result<i32> {
    if context.sim.is_none() && !context.daemon_runs() && !has_gpu() {
        context.simulate(STAND_IN);
    }
    let client = context.client_or_start()?;
    let gpu = pick(client.get::<List<Gpu>>("gpus")?.items)?;
    let kind = if gpu.simulated { "simulated GPU" } else { "GPU" };
    if context.format == Format::Table {
        output::line(&format!("{kind} {}: {}, {}", gpu.index, gpu.name, format_bytes(gpu.memory_bytes)))?;
        output::line(
            "three tenants, 25, 35 and 40 % of it; `grower` takes more than it may, the others must not notice",
        )?;
    }
    let started = Instant::now();
    let mut tenants = TENANTS.iter().map(|role| Tenant::start(&context, &gpu, role)).collect::<Result<Vec<_>>>()?;
    let watched = watch(&context, &client, &mut tenants, started);
    for tenant in &mut tenants {
        // Without effect on those that have ended.
        let _ = tenant.child.kill();
        let _ = tenant.child.wait();
    }
    watched?;
    let verdicts: Vec<Verdict> = tenants.iter().map(Tenant::judge).collect();
    let outcome = Outcome {
        gpu: gpu.name,
        simulated: gpu.simulated,
        passed: verdicts.iter().all(|v| v.passed),
        seconds: (started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        tenants: verdicts,
    };
    output::print(context.format, &output::Named::new("demo", &outcome), || outcome.text())?;
    Ok(i32::from(!outcome.passed))
}

/// Whether a driver for a GPU is on this machine.
pub(crate) fn has_gpu() -> bool {
    ["/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"].iter().any(|path| std::path::Path::new(path).exists())
}

/// The GPU with the least reserved and used: the demo wants all of it.
fn pick(gpus: Vec<Gpu>) -> Result<Gpu> {
    let best = gpus.into_iter().min_by_key(|gpu| (gpu.reserved_bytes, gpu.used_bytes, gpu.index));
    let gpu = best.ok_or_else(|| {
        ErrorBody::new(ErrorCode::Unavailable, "the driver shows no GPU", "`cleave --sim 1xH100 demo` simulates one")
    })?;
    if gpu.reserved_bytes > 0 {
        return Err(ErrorBody::new(
            ErrorCode::Conflict,
            format!(
                "GPU {}: slices have {} of it, and the demo needs a whole card",
                gpu.index,
                format_bytes(gpu.reserved_bytes)
            ),
            "`cleave --sim 1xH100 demo` shows it on a simulated card",
        ));
    }
    Ok(gpu)
}

impl Tenant {
    fn start(context: &Context, gpu: &Gpu, role: &'static Role) -> Result<Self> {
        let slice = format!("demo-{}-{}", role.name, std::process::id());
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cleave").arg("--run-dir").arg(&context.run_dir);
        if let Some(sim) = &context.sim {
            command.args(["--sim", sim]);
        }
        command
            .args(["run", "--gpu", &gpu.index.to_string(), "--name", &slice])
            .args(["--memory", &format!("{}%", role.percent), "--"])
            .arg(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()))
            .args(["internal-tenant", "--mode", if role.grows { "grow" } else { "steady" }])
            .args(["--iterations", &role.iterations.to_string(), "--pause-ms", &role.pause_ms.to_string()]);
        if !gpu.simulated {
            command.arg("--computes");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| ErrorBody::new(ErrorCode::Unavailable, format!("can't start a tenant: {e}"), ""))?;
        let report =
            Arc::new(Mutex::new(Report { state: "starting".into(), of: role.iterations, ..Report::default() }));
        let said = Arc::new(Mutex::new(String::new()));
        if let Some(stdout) = child.stdout.take() {
            let report = Arc::clone(&report);
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                    if let (Ok(new), Ok(mut report)) = (serde_json::from_str(&line), report.lock()) {
                        *report = new;
                    }
                }
            });
        }
        if let Some(mut stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                    if let Ok(mut said) = said.lock() {
                        said.push_str(&String::from_utf8_lossy(&buffer[..n]));
                    }
                }
            });
        }
        Ok(Self { role, slice, child, report, said, seen: Seen::default(), exit: None })
    }

    fn report(&self) -> Report {
        self.report.lock().map(|report| report.clone()).unwrap_or_default()
    }

    fn state(&self) -> String {
        let report = self.report();
        match (report.iterations, self.exit) {
            (_, Some(code)) if code != 0 => format!("exit code {code}"),
            (0, _) => report.state,
            (n, _) => format!("{} {n}/{}", report.state, report.of),
        }
    }

    fn judge(&self) -> Verdict {
        let (report, seen) = (self.report(), &self.seen);
        let mut faults = Vec::new();
        let mut expect = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        expect(
            seen.looks > 0 && !seen.over_limit && seen.peak_bytes <= seen.limit_bytes,
            match seen.looks {
                0 => "its slice was never seen".into(),
                _ => format!("its limit did not hold: {} of {} bytes", seen.peak_bytes, seen.limit_bytes),
            },
        );
        expect(
            report.card_bytes <= seen.limit_bytes,
            format!("it sees a card of {} bytes, more than its quota of {}", report.card_bytes, seen.limit_bytes),
        );
        if self.role.grows {
            expect(report.out_of_memory > 0, "it never got CUDA_ERROR_OUT_OF_MEMORY".into());
            expect(seen.denied > 0, "the daemon counted no refusal".into());
        } else {
            expect(
                report.out_of_memory == 0,
                format!("it got CUDA_ERROR_OUT_OF_MEMORY {} times", report.out_of_memory),
            );
            expect(seen.denied == 0, format!("the daemon counted {} refusals", seen.denied));
        }
        let why = report.error.clone().unwrap_or_else(|| {
            let said = self.said.lock().map(|said| said.trim().replace('\n', "; ")).unwrap_or_default();
            if said.is_empty() { "it ended without a word".into() } else { said }
        });
        expect(
            report.finished && report.iterations == report.of && self.exit == Some(0),
            format!("it did {} of {} iterations: {why}", report.iterations, report.of),
        );
        Verdict {
            tenant: self.role.name,
            slice: self.slice.clone(),
            passed: faults.is_empty(),
            faults,
            limit_bytes: seen.limit_bytes,
            peak_bytes: seen.peak_bytes,
            denied: seen.denied,
            launches: seen.launches,
            out_of_memory_errors: report.out_of_memory,
            iterations: report.iterations,
        }
    }
}

/// Looks at the slices, and shows them, until all tenants have ended.
fn watch(context: &Context, client: &Client, tenants: &mut [Tenant], started: Instant) -> Result<()> {
    let redraw = context.format == Format::Table && output::redraws();
    let mut drawn = 0;
    let mut said = started;
    loop {
        // A slice is gone once its tenant has ended: what was seen last of it stays.
        let slices: List<Slice> = client.get("slices")?;
        let by_name: BTreeMap<&str, &Slice> = slices.items.iter().map(|s| (s.name.as_str(), s)).collect();
        for tenant in tenants.iter_mut() {
            if let Some(slice) = by_name.get(tenant.slice.as_str()) {
                tenant.seen.look(slice);
            }
            if tenant.exit.is_none()
                && let Ok(Some(status)) = tenant.child.try_wait()
            {
                tenant.exit = Some(status.code().unwrap_or(1));
                tenant.seen.used_bytes = 0;
            }
        }
        let over = tenants.iter().all(|t| t.exit.is_some()) || started.elapsed() > PATIENCE;
        if redraw {
            let text = show(tenants);
            let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
            drawn = text.lines().count();
            output::draw(&up, &text);
        } else if context.format == Format::Table && (over || said.elapsed() >= SAY) {
            said = Instant::now();
            for tenant in tenants.iter() {
                let seen = &tenant.seen;
                output::line(&format!(
                    "{:>5.1}s  {:<8} quota {:>10}  used {:>10} {} {:>4}  launches {:>6}  denied {:>2}  {}",
                    started.elapsed().as_secs_f64(),
                    tenant.role.name,
                    format_bytes(seen.limit_bytes),
                    format_bytes(seen.used_bytes),
                    bar(seen.used_bytes, seen.limit_bytes, 20),
                    percent(seen.used_bytes, seen.limit_bytes),
                    grouped(seen.launches),
                    seen.denied,
                    tenant.state()
                ))?;
            }
        }
        if over {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

fn show(tenants: &[Tenant]) -> String {
    let width = output::columns().saturating_sub(76).clamp(4, 24);
    let rows = tenants.iter().map(|tenant| {
        let seen = &tenant.seen;
        vec![
            tenant.role.name.into(),
            format_bytes(seen.limit_bytes),
            format_bytes(seen.used_bytes),
            bar(seen.used_bytes, seen.limit_bytes, width),
            percent(seen.used_bytes, seen.limit_bytes),
            grouped(seen.launches),
            seen.denied.to_string(),
            tenant.state(),
        ]
    });
    table(&["SLICE", ">QUOTA", ">USED", "", ">%", ">LAUNCHES", ">DENIED", "STATE"], rows.collect())
}

impl Seen {
    fn look(&mut self, slice: &Slice) {
        self.looks += 1;
        self.launches = self.launches.max(slice.launches_total);
        self.denied = self.denied.max(slice.denied_total);
        for device in &slice.devices {
            self.limit_bytes = device.limit_bytes;
            self.used_bytes = device.used_bytes.unwrap_or(0);
            self.peak_bytes = self.peak_bytes.max(device.peak_bytes.unwrap_or(0)).max(self.used_bytes);
            self.over_limit |= self.used_bytes > device.limit_bytes;
        }
    }
}

impl Outcome {
    fn text(&self) -> String {
        let mut text = String::new();
        for verdict in &self.tenants {
            let mark = if verdict.passed { format!("{GOOD}pass{GOOD:#}") } else { format!("{BAD}FAIL{BAD:#}") };
            let refused = match (verdict.out_of_memory_errors, verdict.iterations) {
                (0, n) => format!("nothing refused, did {n} iterations without an error"),
                (times, n) => format!("got CUDA_ERROR_OUT_OF_MEMORY {times} times, then did {n} more iterations"),
            };
            text.push_str(&format!(
                "{mark}  {:<8} peak {} of {} ({}), {refused}\n",
                verdict.tenant,
                format_bytes(verdict.peak_bytes),
                format_bytes(verdict.limit_bytes),
                percent(verdict.peak_bytes, verdict.limit_bytes),
            ));
            for fault in &verdict.faults {
                text.push_str(&format!("      {fault}\n"));
            }
        }
        text.push_str(&match self.passed {
            true => format!(
                "{GOOD}every limit held{GOOD:#}, and only the tenant that asked for too much was refused ({} s)",
                self.seconds
            ),
            false => format!("{BAD}not as it should be{BAD:#}: see above ({} s)", self.seconds),
        });
        text
    }
}
