//! What a context costs: measured by making one, in a process of its own.
use crate::config::Config;
use crate::ffi::cuda::make_context;
use crate::ffi::nvml::RealNvml;
use crate::gpu::{GpuInfo, LIBRARIES, Nvml};
use crate::store::ContextCost;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The hidden command that [`probe_context`] serves.
pub const COMMAND: &str = "internal-probe-context";
/// Longest that it may take; a first context on a cold machine takes some seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the probe and reads its answer.
pub async fn run(config: &Config, driver_dir: &Path, gpu: &GpuInfo) -> anyhow::Result<ContextCost> {
    let program = match &config.probe_program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("this program's own file is not known")?,
    };
    let mut command = tokio::process::Command::new(&program);
    command
        .arg(COMMAND)
        .arg("--gpu")
        .arg(gpu.index.to_string())
        .arg("--driver-dir")
        .arg(driver_dir)
        // The one GPU only: the others need not be woken.
        .env("CUDA_VISIBLE_DEVICES", &gpu.uuid)
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()))?
        .with_context(|| format!("{} can't be started", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}", error.trim().lines().last().unwrap_or("it failed without a word"));
    }
    parse(&text).with_context(|| format!("its answer is none: {:?}", text.chars().take(200).collect::<String>()))
}

fn parse(text: &str) -> Option<ContextCost> {
    let mut words = text.split_whitespace();
    let context_bytes = words.next()?.parse().ok().filter(|b| *b > 0)?;
    let stack_factor = words.next()?.parse().ok()?;
    words.next().is_none().then_some(ContextCost { context_bytes, stack_factor })
}

/// `cleave internal-probe-context --gpu N --driver-dir DIR`: makes a context on that GPU, asks NVML what this process
/// uses, and prints the bytes, and the GPU's resident threads.
pub fn probe_context(arguments: &[String]) -> anyhow::Result<()> {
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1)
    };
    let index: u32 = value("--gpu").context("--gpu is missing")?.parse().context("--gpu is no number")?;
    let dir = PathBuf::from(value("--driver-dir").context("--driver-dir is missing")?);
    let [cuda, nvml] = LIBRARIES.map(|name| dir.join(name));
    let nvml = RealNvml::open(&nvml)?;
    let place =
        nvml.gpus().iter().position(|g| g.index == index).with_context(|| format!("there is no GPU {index}"))?;
    let uuid = nvml.gpus().get(place).and_then(GpuInfo::uuid_bytes).context("the GPU has no UUID")?;
    let threads = make_context(&cuda, uuid).map_err(anyhow::Error::msg)?;
    let shown = nvml.processes(place)?;
    let used = shown
        .iter()
        .find(|(pid, _)| *pid == std::process::id())
        .and_then(|(_, bytes)| *bytes)
        .filter(|bytes| *bytes > 0)
        .context("NVML does not show this process (is this a container with a PID namespace of its own?)")?;
    println!("{used} {threads}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(
            parse("543162368 270336\n"),
            Some(ContextCost { context_bytes: 543_162_368, stack_factor: 270_336 })
        );
        for bad in ["", "0 1", "5", "5 6 7", "x y", "-1 2"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_wrong_call_says_what_is_missing() {
        let error = |arguments: &[&str]| {
            probe_context(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()).unwrap_err().to_string()
        };
        assert!(error(&[]).contains("--gpu"));
        assert!(error(&["--gpu", "x", "--driver-dir", "/"]).contains("number"));
        assert!(error(&["--gpu", "0", "--driver-dir", "/nowhere"]).contains("/nowhere/libnvidia-ml.so.1"));
    }
}
