//! Builds what the daemon carries: the stand-in that is injected into programs, and the simulated driver with its MPS
//! control. Each is built by a cargo of its own with its own target directory, because they need other profiles.
//! `CLEAVE_SHIM_LIBRARY`, `CLEAVE_FAKEGPU_LIBRARY` and `CLEAVE_FAKEGPU_CONTROL` name prebuilt files instead.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    println!("cargo::rerun-if-changed=build.rs");
    for dir in [
        "crates/cuda",
        "crates/ledger",
        "crates/policy/src",
        "crates/shim",
        "tools/fakegpu/src",
        "tools/fakegpu/fixtures",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(dir).display());
    }
    for file in ["tools/fakegpu/build.rs", "tools/fakegpu/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let libraries = [
        ("CLEAVE_SHIM_LIBRARY", "cleave-shim", "shim", "--lib", "libcleave_shim.so", "libcleave.so"),
        ("CLEAVE_FAKEGPU_LIBRARY", "fakegpu", "release", "--lib", "libfakegpu.so", "libfakegpu.so"),
        (
            "CLEAVE_FAKEGPU_CONTROL",
            "fakegpu",
            "release",
            "--bins",
            "nvidia-cuda-mps-control",
            "nvidia-cuda-mps-control",
        ),
    ];
    for (variable, package, profile, target, file, name) in libraries {
        println!("cargo::rerun-if-env-changed={variable}");
        let built = match env::var_os(variable) {
            Some(path) => {
                println!("cargo::rerun-if-changed={}", Path::new(&path).display());
                PathBuf::from(path)
            }
            None => build(&root, &out.join("injected"), package, profile, target).join(file),
        };
        if let Err(error) = fs::copy(&built, out.join(name)) {
            panic!("{}: {error}", built.display());
        }
    }
}

/// Builds the library or the programs of `package` and gives their folder.
fn build(root: &Path, target_dir: &Path, package: &str, profile: &str, target: &str) -> PathBuf {
    // Programs are linked with glibc even where the daemon is not.
    let triple = env::var("TARGET").expect("cargo sets TARGET").replace("-musl", "-gnu");
    let mut command = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    command.current_dir(root).args(["build", "--package", package, "--profile", profile, target]);
    command.arg("--target").arg(&triple).arg("--target-dir").arg(target_dir);
    // What the outer cargo was told (flags, clippy, coverage) is not meant for what runs inside other programs.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_TERM_COLOR", "CARGO_REGISTRIES_CRATES_IO_PROTOCOL"];
        let ours = text.starts_with("CARGO_") && !kept.contains(&&*text);
        if ours
            || text.starts_with("RUSTC_")
            || ["RUSTFLAGS", "CARGO", "OUT_DIR", "TARGET", "PROFILE"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    let status = command.status();
    if !status.as_ref().is_ok_and(|s| s.success()) {
        panic!("building {package} failed: {status:?} of {command:?}");
    }
    target_dir.join(triple).join(profile)
}
