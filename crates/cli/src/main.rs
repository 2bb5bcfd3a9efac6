//! `cleave`: runs unmodified GPU programs in slices of a card with hard memory quotas.
mod client;
mod commands;
mod demo;
mod launch;
mod output;
mod tenant;
mod yaml;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use cleave_api::{
    Engine, Factor, Fraction, MemoryAmount, Mode, OnBypass, OnMissing, Percent, Placement, Priority, SliceSpec,
    SuspendAfter, Watchdog,
};
use cleave_ledger::KernelClass;
use cleave_plan::fit::{DEFAULT_CONCURRENCY, DEFAULT_CONTEXT};
use cleave_plan::spec::Dtype;
use commands::Context;
use launch::{Hold, Pids};
use output::{Color, Format};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Run unmodified GPU programs in slices of a card with hard memory quotas.
#[derive(Parser)]
#[command(
    name = "cleave",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 error, 2 wrong usage or failed check, 3 refused by a rule, 4 not found, 5 conflict.\n\
                  `cleave run`, `exec` and `profile` end as their program ends."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Use simulated GPUs, such as 1xH100, 8xH100 or 1xT4; a daemon for them is started if none runs
    #[arg(
        long,
        global = true,
        value_name = "SPEC",
        env = "CLEAVE_SIM",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    sim: Option<String>,
    /// Where the daemon's sockets are
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CLEAVE_RUN_DIR",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    run_dir: Option<PathBuf>,
    /// How to print data
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Global options")]
    output: Format,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Global options")]
    color: Color,
    /// Say more on stderr; twice: still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program in a slice of its own, which goes away with it
    Run(Run),
    /// Run a program in a slice that exists
    Exec(Exec),
    /// Run a program and measure what it needs of a GPU, as a workload for the planner
    Profile(ProfileOptions),
    /// Create, list, show, resize and delete slices
    #[command(subcommand)]
    Slice(SliceCommand),
    /// Make the slices what a file says: create, change, and with --prune delete
    Apply {
        /// YAML: `slices:` and a list of specs, as `cleave slice export` prints it; - for stdin
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Delete the slices that the file doesn't name
        #[arg(long)]
        prune: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop a slice's programs at their next kernel
    Pause {
        /// Its name or id
        slice: String,
    },
    /// Let the programs of a paused slice go on
    Resume {
        /// Its name or id
        slice: String,
    },
    /// Free the GPU memory of a slice's programs, which wait until it is woken or they want the GPU again
    Suspend {
        /// Its name or id
        slice: String,
    },
    /// Bring the memory of a suspended slice back
    Wake {
        /// Its name or id
        slice: String,
    },
    /// List the processes in slices
    Ps {
        /// Those of this slice only
        slice: Option<String>,
    },
    /// List the GPUs and other accelerators, whoever made them; needs no daemon
    Gpus {
        #[command(flatten)]
        of: Where,
        /// Also write all that was found to a file: JSON where it is named .json, else YAML
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
    },
    /// Show how GPUs and RDMA devices are linked, as `nvidia-smi topo -m` does; needs no daemon
    Topo(Topo),
    /// Divide GPUs by MIG: list, plan, apply and check layouts
    #[command(subcommand)]
    Mig(commands::mig::MigCommand),
    /// List the engines that each GPU can run, why not the others, and what can be moved
    Modes(Where),
    /// Print what a node's labels say of its GPUs and tiers, or write it for Node Feature Discovery; needs no daemon
    Labels(LabelOptions),
    /// Count the slices that GPUs give each tier; needs no daemon
    Capacity(CapacityOptions),
    /// Say whether and how a language model fits on a GPU; needs no daemon
    Fit(FitOptions),
    /// Say where workloads go and why, what would happen if, and do it; describes fleets too, and needs no daemon for those
    Plan(PlanOptions),
    /// Take a GPU out of use: its slices go to others at once, or when their programs end
    Drain {
        /// Its index or UUID
        gpu: String,
        /// Only show which slices would go where
        #[arg(long)]
        plan: bool,
        /// End the programs that would keep slices there
        #[arg(long, conflicts_with = "plan")]
        force: bool,
    },
    /// Take a drained GPU back into use: its slices come back
    Undrain {
        /// Its index or UUID
        gpu: String,
    },
    /// Show the daemon and its driver
    Status,
    /// Show the slices, again and again
    Top {
        /// Seconds between two looks
        #[arg(short = 'n', long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: f64,
        /// Look once and end
        #[arg(long)]
        once: bool,
    },
    /// Print what GPUs and slices do as Prometheus reads it; the daemon answers the same at /metrics
    Metrics,
    /// List what happened
    Events {
        /// Go on as things happen
        #[arg(short, long)]
        follow: bool,
        /// Only what came after the event of this number
        #[arg(long, value_name = "ID", default_value_t = 0)]
        since: u64,
        /// Only what is about this slice
        #[arg(long)]
        slice: Option<String>,
    },
    /// Print what to set by hand to put programs of this shell into a slice: eval "$(cleave env SLICE)"
    Env {
        /// Its name or id
        slice: String,
    },
    /// Print or write CDI specs, for `--device cleave.dev/slice=NAME` of docker, podman and containerd
    Cdi(Cdi),
    /// Show three tenants on one card: one hits its quota, the others do not notice
    Demo,
    /// Check what cleave needs on this machine, and list the files that it writes
    Doctor,
    /// Run the daemon in the foreground
    Daemon(Daemon),
    /// End the daemon; programs in slices go on under the limits that they have
    Shutdown,
    /// Print the daemon's OpenAPI document
    Openapi,
    /// List the libraries that are built in, and their licences
    Licenses {
        /// As a CycloneDX software bill of materials
        #[arg(long)]
        sbom: bool,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    Man {
        /// Where to
        dir: PathBuf,
    },
    #[command(hide = true)]
    InternalEnter {
        #[arg(long)]
        probe: bool,
        entry: String,
        #[arg(last = true)]
        program: Vec<OsString>,
    },
    #[command(hide = true)]
    InternalFirst,
    #[command(hide = true)]
    InternalTenant {
        #[arg(long)]
        mode: tenant::Mode,
        #[arg(long)]
        iterations: u32,
        #[arg(long)]
        pause_ms: u64,
        #[arg(long)]
        computes: bool,
    },
    #[command(hide = true)]
    InternalCheckpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    #[command(hide = true)]
    InternalProbeContext {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Whose inventory: this machine's, if nothing is said.
#[derive(Args)]
struct Where {
    /// That of a file, which `cleave gpus --save` wrote; - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "import")]
    inventory: Option<PathBuf>,
    /// What `nvidia-smi topo -m` or `lstopo --of xml` wrote; - for stdin
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
}

#[derive(Args)]
struct PlanOptions {
    /// The workloads, and the fleet if it is not this machine: YAML; - for stdin
    #[arg(required_unless_present = "profile")]
    file: Option<PathBuf>,
    #[command(flatten)]
    of: Where,
    /// List every candidate of each workload with its score, and what rules the others out
    #[arg(long)]
    explain: bool,
    /// What if there were so many more replicas of a workload
    #[arg(long, value_name = "NAME=COUNT")]
    add: Vec<String>,
    /// What if a node or one of its GPUs were gone
    #[arg(long, value_name = "NODE[/GPU]")]
    lose: Vec<String>,
    /// What if something of a workload were different
    #[arg(long, value_name = "NAME:KEY=VALUE")]
    change: Vec<String>,
    /// What if the site had so many watts
    #[arg(long)]
    watts: Option<f64>,
    /// Make the slices that the plan has on this machine
    #[arg(long)]
    apply: bool,
    /// With --apply: which node of the fleet this machine is
    #[arg(long, value_name = "NAME", requires = "apply")]
    node: Option<String>,
    /// Instead of a file: how many instances of this MIG profile there can be on --gpus
    #[arg(long, value_name = "PROFILE", requires = "gpus", conflicts_with_all = ["file", "apply"])]
    profile: Option<String>,
    /// The GPUs for --profile: 8xH100
    #[arg(long, value_name = "GPUS", requires = "profile")]
    gpus: Option<String>,
}

#[derive(Args)]
struct LabelOptions {
    #[command(flatten)]
    of: Where,
    /// A file with the engines of each tier; without it prod has mig, staging mig or spatial, dev temporal
    #[arg(long, value_name = "FILE")]
    tiers: Option<PathBuf>,
    /// Write them to this file, whole and only if something is different: /etc/kubernetes/node-feature-discovery/features.d/cleave
    #[arg(long, value_name = "PATH")]
    feature_file: Option<PathBuf>,
    /// Remove that file
    #[arg(long, requires = "feature_file")]
    remove: bool,
}

#[derive(Args)]
struct CapacityOptions {
    #[command(flatten)]
    of: Where,
    /// GPUs that need not be here, instead of this machine's: 8xH100, or 4xH100+8xT4
    #[arg(long, value_name = "GPUS", conflicts_with_all = ["inventory", "import"])]
    gpus: Option<String>,
    /// What slots are counted by
    #[arg(long = "by", value_name = "WHAT", value_parser = ["tier"], default_value = "tier")]
    _by: String,
    /// A tier and how its GPUs are cut, once for each: prod=mig:3g.40gb, staging=spatial:25%, dev=temporal:4
    #[arg(long, value_name = "NAME=ENGINE:HOW")]
    tier: Vec<String>,
    /// Instead, a file with the engines of each tier; without it prod has mig, staging mig or spatial, dev temporal
    #[arg(long, value_name = "FILE", conflicts_with = "tier")]
    tiers: Option<PathBuf>,
    /// With --tiers or without --tier: into how many parts a GPU is cut
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100), conflicts_with = "tier")]
    parts: u32,
}

#[derive(Args)]
struct Topo {
    #[command(flatten)]
    of: Where,
    /// Draw the NUMA nodes with what is on each
    #[arg(long, conflicts_with = "best")]
    numa: bool,
    /// List the groups of so many GPUs, the best linked first, and the processors near each
    #[arg(long, value_name = "COUNT")]
    best: Option<usize>,
}

#[derive(Args)]
struct FitOptions {
    /// Its name (llama-3-8b, Qwen/Qwen3-32B), or the path of its config.json
    #[arg(required_unless_present_any = ["check", "models"])]
    model: Option<String>,
    /// The GPU's model: H100, A100-40
    #[arg(long, value_name = "MODEL", required_unless_present_any = ["check", "models"])]
    gpu: Option<String>,
    /// List what vLLM printed about models' memory in public logs, and what cleave says, instead
    #[arg(long, conflicts_with_all = ["model", "gpu"])]
    check: bool,
    /// List the models of the table instead
    #[arg(long, conflicts_with_all = ["model", "gpu", "check"])]
    models: bool,
    /// GPUs that share each layer (tensor parallel)
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    gpus: u64,
    /// Tokens of a request, read and written
    #[arg(long, value_name = "TOKENS", default_value_t = DEFAULT_CONTEXT, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    context: u64,
    /// Requests at a time
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_CONCURRENCY, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    concurrency: u64,
    /// How weights are kept; as the model is published if not given, which is bf16 for most
    #[arg(long, value_parser = dtypes(), value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// How keys and values are kept
    #[arg(long, value_parser = dtypes(), value_name = "TYPE", default_value = Dtype::Bf16.name())]
    kv_dtype: Dtype,
    /// Part of the GPU's memory that may be used
    #[arg(long, value_name = "PART", default_value = "0.9", value_parser = part)]
    utilization: f64,
}

/// A number format, by its name.
fn dtypes() -> impl TypedValueParser<Value = Dtype> {
    let named = |name: String| Dtype::ALL.into_iter().find(|one| one.name() == name).unwrap_or_default();
    PossibleValuesParser::new(Dtype::ALL.map(Dtype::name)).map(named)
}

fn part(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number"))?;
    if part > 0.0 && part <= 1.0 { Ok(part) } else { Err(format!("{text} is not above 0 and at most 1")) }
}

/// What a slice shall be.
#[derive(Args, Clone, Debug)]
struct SliceOptions {
    /// The GPU: `any`, or an index or UUID, or several with commas
    #[arg(long, value_name = "GPU", default_value = "any")]
    gpu: String,
    /// Memory quota on each GPU: 10GiB, 512MiB, 25%; what is left of it if not given
    #[arg(long, short, value_name = "AMOUNT")]
    memory: Option<MemoryAmount>,
    /// Share of each GPU's time: 30%; if not given, an equal part of what others leave
    #[arg(long, value_name = "PERCENT")]
    compute: Option<Percent>,
    /// How far that is enforced: none, balanced (what is idle is lent), strict (never more), adaptive (back sooner)
    #[arg(long, value_name = "MODE", default_value_t)]
    mode: Mode,
    /// Who goes first: production, staging, experiment, or a number from 7 to 0
    #[arg(long, value_name = "CLASS", default_value_t)]
    priority: Priority,
    /// Device time in ms that may be used at once after it was left unused, for mode strict
    #[arg(long, value_name = "MS")]
    burst: Option<u64>,
    /// What is done about work that does not end, when it is so long over its expected time: warn, lower (the slice gives way to all others), pause, kill (the process); as in warn:2s,lower:5s,pause:10s,kill:30s
    #[arg(long, value_name = "STEPS", default_value_t)]
    watchdog: Watchdog,
    /// Suspend it when it was idle for so long, sooner if another slice needs the room: 30s, 5m; its programs wake it
    #[arg(long, value_name = "TIME", default_value_t)]
    suspend_after: SuspendAfter,
    /// How its GPU is divided: temporal (in turns), spatial (at once, by MPS, within its trust domain), or auto
    #[arg(long, value_name = "ENGINE", default_value_t)]
    engine: Engine,
    /// Whom it trusts: slices of one user that name the same domain may share an MPS server, and end with its faults
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Memory and compute in one: 1/8, 1/4, 1/2
    #[arg(long, value_name = "PART", conflicts_with_all = ["memory", "compute"])]
    fraction: Option<Fraction>,
    /// Most host memory that may be pinned
    #[arg(long, value_name = "AMOUNT")]
    host_memory: Option<MemoryAmount>,
    /// Its name; chosen if not given
    #[arg(long)]
    name: Option<String>,
    /// Allow quotas that sum up to so many times what the card has: 1.5; the daemon's factor if not given
    #[arg(long, value_name = "FACTOR")]
    oversubscribe: Option<Factor>,
    /// What CUDA calls do while the daemon can't be reached: refuse, or allow without a limit
    #[arg(long, value_name = "WHAT", default_value = "refuse", value_parser = on_missing)]
    on_missing: OnMissing,
    /// What happens to programs that use a GPU past the quota, with a driver library of their own: warn, or kill
    #[arg(long, value_name = "WHAT", default_value = "warn", value_parser = on_bypass)]
    on_bypass: OnBypass,
}

impl SliceOptions {
    fn spec(self, ephemeral: bool, owner: Option<String>) -> SliceSpec {
        SliceSpec {
            name: self.name,
            gpu: self.gpu,
            memory: self.memory,
            compute: self.compute,
            mode: self.mode,
            priority: self.priority,
            burst_ms: self.burst,
            watchdog: self.watchdog,
            suspend_after: self.suspend_after,
            engine: self.engine,
            trust_domain: self.trust_domain,
            fraction: self.fraction,
            host_memory: self.host_memory,
            oversubscribe: self.oversubscribe,
            on_missing: self.on_missing,
            on_bypass: self.on_bypass,
            ephemeral,
            owner,
        }
    }
}

/// A program, and how it is put into its slice.
#[derive(Args)]
struct ProgramOptions {
    /// How the stand-in takes the driver's place: by mounts (needs root; reaches absolute paths and `env -i` too), or by environment variables
    #[arg(long, value_enum, default_value_t)]
    hold: Hold,
    /// Which processes the program sees: its own, which end with it (needs root), or the host's; own by default in a slice of its own, host in one that exists
    #[arg(long, value_enum)]
    pids: Option<Pids>,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// How a program is run.
#[derive(Args)]
struct RunOptions {
    #[command(flatten)]
    entry: ProgramOptions,
    /// Sum up what it used when it has ended, even if stderr is no terminal
    #[arg(long, overrides_with = "no_summary")]
    summary: bool,
    /// Don't sum up
    #[arg(long)]
    no_summary: bool,
}

#[derive(Args)]
#[command(after_help = "Example: cleave run --memory 10GiB -- python train.py")]
struct Run {
    #[command(flatten)]
    slice: SliceOptions,
    /// Run in this slice, which exists, rather than in a new one
    #[arg(
        long = "slice",
        value_name = "SLICE",
        conflicts_with_all = ["gpu", "memory", "compute", "mode", "priority", "burst", "watchdog", "suspend_after", "engine", "trust_domain", "fraction", "host_memory", "name", "oversubscribe", "on_missing", "on_bypass"]
    )]
    existing: Option<String>,
    #[command(flatten)]
    run: RunOptions,
}

/// How a program is measured.
#[derive(Args)]
#[command(after_help = "Example: cleave profile --save train.yaml -- python train.py\n\n\
                        Memory is read every so often: a peak that is shorter than that may be missed, which the margin is for.\n\
                        Interrupt a program that does not end by itself: what it used until then is printed.")]
struct ProfileOptions {
    /// The GPU: `any`, or an index or UUID, or several with commas
    #[arg(long, value_name = "GPU", default_value = "any")]
    gpu: String,
    /// Memory that it may have on each GPU; all that is left of it if not given
    #[arg(long, short, value_name = "AMOUNT")]
    memory: Option<MemoryAmount>,
    /// How its GPU is divided meanwhile: temporal, spatial, mig or auto
    #[arg(long, value_name = "ENGINE", default_value_t)]
    engine: Engine,
    /// The workload's name; the program's file name if not given
    #[arg(long, value_parser = commands::profile::name)]
    name: Option<String>,
    /// Percent of memory to ask for above the peak
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    margin: u64,
    /// Time between two readings, 10ms to 1s
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = every)]
    every: Duration,
    /// Write the workload to a file, JSON where it is named .json, else YAML; without it the workload goes to stdout, and what the program prints to stderr
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    entry: ProgramOptions,
}

#[derive(Args)]
struct Exec {
    /// Its name or id
    slice: String,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Subcommand)]
enum SliceCommand {
    /// Create a slice, or many alike
    Create {
        /// Its name, instead of --name
        #[arg(conflicts_with = "name", value_name = "NAME")]
        named: Option<String>,
        /// So many alike on the same GPU, named NAME-0 and so on: all of them or none; without --memory each has an equal part
        #[arg(long, value_name = "N")]
        count: Option<u32>,
        #[command(flatten)]
        slice: SliceOptions,
        /// Whose it is: a user's name or number; the caller's if not given, and only root may give it away
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        /// Only say what would be
        #[arg(long)]
        dry_run: bool,
        /// With --dry-run: of the GPUs of this file, which `cleave gpus --save` wrote, the best engine that their hardware has; - for stdin
        #[arg(long, value_name = "FILE", requires = "dry_run", conflicts_with = "count")]
        inventory: Option<PathBuf>,
    },
    /// List the slices
    #[command(visible_alias = "ls")]
    List,
    /// Show one slice
    Show {
        /// Its name or id
        slice: String,
        /// Why it runs as it does: its share, its neighbours, what holds it back
        #[arg(long)]
        explain: bool,
    },
    /// Change quotas, share, mode and priority while programs run
    Resize {
        /// Its name or id
        slice: String,
        #[command(flatten)]
        change: ChangeOptions,
    },
    /// Create a slice like another one, beside it on the same GPUs: for a canary or a shadow
    Clone {
        /// The name or id of the one to take after
        slice: String,
        /// The new one's name
        #[arg(long = "as", value_name = "NAME")]
        name: String,
        /// Memory and share of each GPU's time in one: 1/8; as much as the other one if not given
        #[arg(long, value_name = "PART", conflicts_with_all = ["memory", "compute"])]
        fraction: Option<Fraction>,
        /// Memory on each GPU
        #[arg(long, short, value_name = "AMOUNT")]
        memory: Option<MemoryAmount>,
        /// Share of each GPU's time
        #[arg(long, value_name = "PERCENT")]
        compute: Option<Percent>,
        /// Only say what would be
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the slices as `cleave apply` reads them
    Export,
    /// Delete slices
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names or ids
        #[arg(required = true)]
        slices: Vec<String>,
        /// Even if programs run in them, which are killed
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args)]
#[group(skip)]
struct ChangeOptions {
    /// New memory quota on each GPU
    #[arg(long, short, value_name = "AMOUNT", required_unless_present_any = ["compute", "mode", "priority", "burst", "watchdog", "suspend_after", "host_memory"])]
    memory: Option<MemoryAmount>,
    /// New share of each GPU's time
    #[arg(long, value_name = "PERCENT")]
    compute: Option<Percent>,
    /// How far it is to be enforced: none, balanced, strict, adaptive
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// New priority: production, staging, experiment, or a number from 7 to 0
    #[arg(long, value_name = "CLASS")]
    priority: Option<Priority>,
    /// New burst in ms, for mode strict
    #[arg(long, value_name = "MS")]
    burst: Option<u64>,
    /// New watchdog: warn:2s,kill:30s, or none
    #[arg(long, value_name = "STEPS")]
    watchdog: Option<Watchdog>,
    /// New time of idleness after which it is suspended: 30s, or none
    #[arg(long, value_name = "TIME")]
    suspend_after: Option<SuspendAfter>,
    /// New limit of pinned host memory
    #[arg(long, value_name = "AMOUNT")]
    host_memory: Option<MemoryAmount>,
    /// Shrink below what is in use: nothing is taken away, but nothing more is granted
    #[arg(long)]
    force: bool,
    /// Allow quotas that sum up to so many times what the card has: 1.5; the daemon's factor if not given
    #[arg(long, value_name = "FACTOR")]
    oversubscribe: Option<Factor>,
}

#[derive(Args)]
struct Cdi {
    /// Its name or id
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    slice: Option<String>,
    /// Those of all slices
    #[arg(long)]
    all: bool,
    /// Write them to a folder instead of printing them
    #[arg(long)]
    write: bool,
    /// The folder
    #[arg(long, value_name = "DIR", default_value = "/run/cdi", requires = "write")]
    dir: PathBuf,
}

#[derive(Args, Clone, Debug)]
struct Daemon {
    /// End when no slice is left
    #[arg(long)]
    private: bool,
    /// Where durable state is kept
    #[arg(long, value_name = "DIR", env = "CLEAVE_STATE_DIR", hide_env_values = true)]
    state_dir: Option<PathBuf>,
    /// The engine of slices that name none; with spatial they need not name a trust domain: one user's slices trust each other
    #[arg(long, value_name = "ENGINE", default_value_t)]
    engine: Engine,
    /// How many times what a card has the quotas of its slices may sum up to, where --oversubscribe is not given for a slice: 1.5
    #[arg(long, value_name = "FACTOR", default_value_t = Factor::ONE, env = "CLEAVE_OVERSUBSCRIBE", hide_env_values = true)]
    oversubscribe: Factor,
    /// The GPU of slices that may have any: spread = the one with most left, pack = the one on which it leaves least
    #[arg(long, value_name = "spread|pack", default_value_t, env = "CLEAVE_PLACEMENT", hide_env_values = true)]
    placement: Placement,
    /// Where nvidia-cuda-mps-control is, if not in PATH
    #[arg(long, value_name = "DIR", env = "CLEAVE_MPS_DIR", hide_env_values = true)]
    mps_dir: Option<PathBuf>,
    /// Where the real libcuda.so.1 and libnvidia-ml.so.1 are, if they are not where the system looks
    #[arg(long, value_name = "DIR", env = "CLEAVE_DRIVER_LIBRARY_DIR", hide_env_values = true)]
    driver_library_dir: Option<PathBuf>,
    /// How long windows are where slices take turns, 2ms to 200ms; without it shares and the number of slices decide
    #[arg(long, value_name = "TIME", value_parser = window, env = "CLEAVE_WINDOW", hide_env_values = true)]
    window: Option<u64>,
    /// What a spatial slice's part of the multiprocessors is: own = certain ones, which no other part in its domain has; number = so many, wherever the hardware finds them free
    #[arg(long, value_name = "own|number", value_parser = ["own", "number"], default_value = "own", env = "CLEAVE_PARTS", hide_env_values = true)]
    parts: String,
    /// Classes of kernels that slices made from now on don't tell apart (collective, throughput, latency): to measure what a class is for
    #[arg(long, value_name = "CLASS,…", value_delimiter = ',', value_parser = class, env = "CLEAVE_IGNORE_CLASSES", hide_env_values = true)]
    ignore_classes: Vec<KernelClass>,
    /// Also listen on a TCP address, with the token and TLS
    #[arg(long, value_name = "ADDRESS:PORT", requires = "token_file")]
    listen: Option<std::net::SocketAddr>,
    /// A file that holds the token that TCP clients must show
    #[arg(long, value_name = "FILE", requires = "listen")]
    token_file: Option<PathBuf>,
    /// The certificate chain, PEM
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_cert"])]
    tls_key: Option<PathBuf>,
}

fn class(text: &str) -> Result<KernelClass, String> {
    use KernelClass::{Collective, Latency, Throughput};
    let found = [Collective, Throughput, Latency].into_iter().find(|class| class.name() == text);
    found.ok_or_else(|| "it must be collective, throughput or latency".into())
}

fn window(text: &str) -> Result<u64, String> {
    match text.strip_suffix("ms").and_then(|number| number.parse::<u64>().ok()) {
        Some(ms) if (2..=200).contains(&ms) => Ok(ms),
        _ => Err("it must be a whole number of ms between 2ms and 200ms, as in 20ms".into()),
    }
}

fn every(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000)];
    let number = |(unit, ms): (&str, u64)| Some(text.strip_suffix(unit)?.parse::<u64>().ok()?.saturating_mul(ms));
    match units.into_iter().find_map(number) {
        Some(ms) if (10..=1000).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err("it must be a time between 10ms and 1s, as in 100ms".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("it must be between 0.1 and 3600 seconds".into()),
    }
}

fn on_missing(text: &str) -> Result<OnMissing, String> {
    match text {
        "refuse" => Ok(OnMissing::Refuse),
        "allow" => Ok(OnMissing::Allow),
        _ => Err("it must be `refuse` or `allow`".into()),
    }
}

fn on_bypass(text: &str) -> Result<OnBypass, String> {
    match text {
        "warn" => Ok(OnBypass::Warn),
        "kill" => Ok(OnBypass::Kill),
        _ => Err("it must be `warn` or `kill`".into()),
    }
}

fn main() -> ExitCode {
    // Known before anything is printed, clap's own errors included.
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let color = early_color(&arguments);
    match color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    let matches = Cli::command()
        .color(match color {
            Color::Auto => clap::ColorChoice::Auto,
            Color::Always => clap::ColorChoice::Always,
            Color::Never => clap::ColorChoice::Never,
        })
        .get_matches_from(arguments);
    let cli = match <Cli as clap::FromArgMatches>::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let code = match Context::new(cli.global).and_then(|context| dispatch(context, cli.command)) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            error.code.exit_code()
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// `--color` as it is written before `--`.
fn early_color(arguments: &[OsString]) -> Color {
    let mut words = arguments.iter().map(|a| a.to_string_lossy()).take_while(|a| a != "--");
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.next().map(|v| v.into_owned()),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        match value.as_deref() {
            Some("always") => return Color::Always,
            Some("never") => return Color::Never,
            _ => {}
        }
    }
    Color::Auto
}

fn dispatch(context: Context, command: Command) -> client::Result<i32> {
    use commands::{
        capacity, daemon, drain, fit, inventory, labels, manifest, plan, profile, program, show, slice, system,
    };
    match command {
        Command::Run(run) => match run.existing {
            Some(slice) => program::exec(&context, &slice, &run.run),
            None => program::run(&context, run.slice.spec(true, None), &run.run),
        },
        Command::Exec(exec) => program::exec(&context, &exec.slice, &exec.run),
        Command::Profile(options) => profile::run(&context, &options),
        Command::Slice(SliceCommand::Create { named, count, mut slice, owner, dry_run, inventory }) => {
            slice.name = slice.name.or(named);
            let spec = slice.spec(false, owner);
            match inventory {
                Some(file) => slice::imagine(&context, &spec, &file),
                None => slice::create(&context, &spec, count, dry_run),
            }
        }
        Command::Slice(SliceCommand::List) => slice::list(&context),
        Command::Slice(SliceCommand::Clone { slice, name, fraction, memory, compute, dry_run }) => {
            manifest::clone(&context, &slice, name, fraction, memory, compute, dry_run)
        }
        Command::Slice(SliceCommand::Export) => manifest::export(&context),
        Command::Apply { file, prune, dry_run } => manifest::apply(&context, &file, prune, dry_run),
        Command::Slice(SliceCommand::Show { slice, explain: false }) => slice::show(&context, &slice),
        Command::Slice(SliceCommand::Show { slice, explain: true }) => slice::explain(&context, &slice),
        Command::Slice(SliceCommand::Resize { slice, change }) => slice::resize(&context, &slice, change),
        Command::Slice(SliceCommand::Delete { slices, force }) => slice::delete(&context, &slices, force),
        Command::Pause { slice } => slice::pause(&context, &slice, true),
        Command::Resume { slice } => slice::pause(&context, &slice, false),
        Command::Labels(options) => labels::run(&context, &options),
        Command::Capacity(options) => capacity::run(&context, &options),
        Command::Fit(options) => fit::run(&context, &options),
        Command::Plan(options) => plan::run(&context, &options),
        Command::Drain { gpu, plan, force } => drain::drain(&context, &gpu, plan, force),
        Command::Undrain { gpu } => drain::undrain(&context, &gpu),
        Command::Suspend { slice } => slice::suspend(&context, &slice, true),
        Command::Wake { slice } => slice::suspend(&context, &slice, false),
        Command::Ps { slice } => show::ps(&context, slice.as_deref()),
        Command::Gpus { of, save } => inventory::gpus(&context, &of, save.as_deref()),
        Command::Topo(topo) => inventory::topo(&context, &topo),
        Command::Mig(command) => commands::mig::run(&context, command),
        Command::Modes(of) => inventory::modes(&context, &of),
        Command::Status => show::status(&context),
        Command::Top { interval, once } => show::top(&context, interval, once),
        Command::Metrics => show::metrics(&context),
        Command::Events { follow, since, slice } => show::events(&context, follow, since, slice.as_deref()),
        Command::Env { slice } => program::env(&context, &slice),
        Command::Cdi(cdi) => system::cdi(&context, &cdi),
        Command::Demo => demo::run(context),
        Command::Doctor => system::doctor(&context),
        Command::Daemon(options) => daemon::run(&context, options),
        Command::Shutdown => daemon::shutdown(&context),
        Command::Openapi => system::openapi(&context),
        Command::Licenses { sbom } => commands::licenses::list(&context, sbom),
        Command::Completions { shell } => system::completions(Cli::command(), shell),
        Command::Man { dir } => system::man(Cli::command(), &dir),
        Command::InternalEnter { probe: true, .. } => Ok(launch::probe()),
        Command::InternalEnter { entry, program, .. } => Ok(launch::enter(&entry, &program)),
        Command::InternalFirst => Ok(launch::first()),
        Command::InternalTenant { mode, iterations, pause_ms, computes } => {
            Ok(tenant::run(mode, iterations, Duration::from_millis(pause_ms), computes))
        }
        Command::InternalCheckpoint { arguments } => daemon::checkpoint(&arguments),
        Command::InternalProbeContext { arguments } => daemon::probe_context(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_time_within_reason() {
        assert_eq!((window("20ms"), window("2ms"), window("200ms")), (Ok(20), Ok(2), Ok(200)));
        for bad in ["20", "20s", "1ms", "201ms", "-5ms", "2.5ms", "ms", ""] {
            assert!(window(bad).is_err_and(|error| error.contains("between 2ms and 200ms")), "{bad}");
        }
    }

    #[test]
    fn readings_are_as_far_apart_as_makes_sense() {
        let ms = |ms| Ok(Duration::from_millis(ms));
        assert_eq!((every("10ms"), every("250ms"), every("1s")), (ms(10), ms(250), ms(1000)));
        for bad in ["9ms", "1001ms", "2s", "0s", "100", "1m", "-1s", "0.1s", ""] {
            assert!(every(bad).is_err_and(|error| error.contains("between 10ms and 1s")), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn color_is_read_before_the_program() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(early_color(&words("cleave --color never gpus")), Color::Never);
        assert_eq!(early_color(&words("cleave gpus --color=always")), Color::Always);
        assert_eq!(early_color(&words("cleave run -- ls --color always")), Color::Auto);
        assert_eq!(early_color(&words("cleave gpus --color")), Color::Auto);
    }
}
