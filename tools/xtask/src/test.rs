//! Every test that needs no GPU.
use crate::{cargo, root, run, target};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// The CUDA runtimes and the NVML binding that the tests run for real, as PyPI has them: pinned.
const PYTHON_PACKAGES: [(&str, &str); 5] = [
    ("cudart11", "nvidia-cuda-runtime-cu11==11.8.89"),
    ("cudart12", "nvidia-cuda-runtime-cu12==12.9.79"),
    ("cudart13", "nvidia-cuda-runtime==13.0.96"),
    ("cudart135", "nvidia-cuda-runtime==13.5.37"),
    ("pynvml", "nvidia-ml-py==13.580.82"),
];

/// Puts each of them in a folder of its own under `dir`, unless it is there.
pub fn python_packages(dir: &Path) -> Result<()> {
    for (folder, package) in PYTHON_PACKAGES {
        let place = dir.join(folder);
        let done = place.join("installed");
        if std::fs::read_to_string(&done).is_ok_and(|installed| installed == package) {
            continue;
        }
        let pip =
            ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--upgrade", "--target"];
        run(Command::new("python3").args(pip).arg(&place).arg(package))?;
        std::fs::write(done, package)?;
    }
    Ok(())
}

/// Runs them all.
pub fn all() -> Result<()> {
    let packages = target().join("python");
    python_packages(&packages)?;
    run(cargo().arg("test").env("CLEAVE_TEST_PYTHON", packages))?;
    model_checks()
}

/// The ledger's protocol under every interleaving that matters.
fn model_checks() -> Result<()> {
    run(cargo()
        .args(["test", "--release", "--package", "cleave-ledger", "--test", "loom", "--target-dir"])
        .arg(root().join("target/loom"))
        .env("RUSTFLAGS", "--cfg loom")
        .env("LOOM_MAX_PREEMPTIONS", "2"))
}
