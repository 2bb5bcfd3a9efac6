//! Installs a simulated driver: `cargo run -p fakegpu --example install DIR SPEC [real|virtual]`, then
//! `LD_LIBRARY_PATH=DIR program`. Uses what lies beside this example's build.
use std::path::Path;
use std::process::ExitCode;

use fakegpu::{Inventory, Pace};

/// One of the files that cargo puts one folder above the examples.
fn built(name: &str) -> Result<Vec<u8>, String> {
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = exe.ancestors().nth(2).unwrap_or(Path::new("/")).join(name);
    std::fs::read(&path).map_err(|error| format!("{}: {error}; cargo build -p fakegpu makes it", path.display()))
}

fn run() -> Result<String, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (dir, spec, pace) = match &arguments[..] {
        [dir, spec] => (dir, spec, Pace::Virtual),
        [dir, spec, pace] if pace == "real" => (dir, spec, Pace::Real),
        [dir, spec, pace] if pace == "virtual" => (dir, spec, Pace::Virtual),
        _ => return Err("usage: install DIR SPEC [real|virtual]".into()),
    };
    let (library, control) = (built("libfakegpu.so")?, built(fakegpu::mps::CONTROL)?);
    let mut inventory = Inventory::parse(spec).map_err(|error| error.to_string())?;
    inventory.pace = pace;
    fakegpu::install_inventory(Path::new(dir), &inventory, &library, &control).map_err(|error| error.to_string())?;
    Ok(format!("LD_LIBRARY_PATH={dir}"))
}

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
