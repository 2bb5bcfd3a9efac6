//! Chores of the workspace. `cargo xtask` lists them.
mod gate;
mod generate;
mod test;

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask CHORE
  demo              builds cleave and shows three tenants on one card (a real one if there is one, else simulated)
  test              every test that needs no GPU
  gate              builds the stand-in library and checks its size, exports, panics and glibc floor
  generate          writes the stand-in's exports from crates/cuda/table
  generate --check  fails if they are not what the tables say
  cudart DIR        puts the CUDA runtimes and NVML's Python module from PyPI under DIR, for tests with real ones";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chore = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["demo", rest @ ..] => demo(rest),
        ["test"] => test::all(),
        ["gate"] => gate::check(),
        ["generate"] => generate::write(),
        ["generate", "--check"] => generate::check(),
        ["cudart", dir] => test::python_packages(dir.as_ref()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match chore {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a program in the workspace's folder, showing what it prints; fails if it does.
fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {command:?}");
    let status = command.current_dir(root()).status().with_context(|| format!("{command:?} can't be started"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn demo(arguments: &[&str]) -> Result<()> {
    run(cargo().args(["build", "--release", "--package", "cleave"]))?;
    run(Command::new(target().join("release/cleave")).arg("demo").args(arguments))
}
