//! Installs a simulated driver: `cargo run -p fakegpu --example install DIR SPEC [real|virtual]`, then
//! `LD_LIBRARY_PATH=DIR program`. Uses the library that lies beside this example's build.
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fakegpu::{Inventory, Pace};

/// The cdylib: cargo puts it one folder above the examples.
fn library() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.parent()?.join("libfakegpu.so");
    path.exists().then_some(path)
}

fn run() -> Result<String, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (dir, spec, pace) = match &arguments[..] {
        [dir, spec] => (dir, spec, Pace::Virtual),
        [dir, spec, pace] if pace == "real" => (dir, spec, Pace::Real),
        [dir, spec, pace] if pace == "virtual" => (dir, spec, Pace::Virtual),
        _ => return Err("usage: install DIR SPEC [real|virtual]".into()),
    };
    let library = library().ok_or("libfakegpu.so is not built: cargo build -p fakegpu")?;
    let bytes = std::fs::read(&library).map_err(|error| format!("{}: {error}", library.display()))?;
    let mut inventory = Inventory::parse(spec).map_err(|error| error.to_string())?;
    inventory.pace = pace;
    fakegpu::install_inventory(Path::new(dir), &inventory, &bytes).map_err(|error| error.to_string())?;
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
