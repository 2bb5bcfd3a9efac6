//! Puts the stand-in library and the way to the real ones into the run directory.
use crate::files::RunDir;
use crate::gpu::{DriverFiles, LIBRARIES, STAND_IN};
use anyhow::Context;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// The library that is injected into programs, as it was built with this daemon.
pub static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libcleave.so"));
/// The simulated driver.
pub static SIMULATED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libfakegpu.so"));
/// Its MPS control.
pub static SIMULATED_CONTROL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nvidia-cuda-mps-control"));

/// Writes a file under a new inode, so that programs that have mapped the old one keep it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = fs::File::options().write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn link(to: &Path, path: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|old| old == to) {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    symlink(to, &temporary)?;
    fs::rename(&temporary, path)
}

/// The stand-in, under every name by which a program may load a driver.
pub fn stand_in(run: &RunDir, driver_version: &str) -> anyhow::Result<()> {
    let dir = run.library_dir();
    let file = dir.join(STAND_IN);
    replace(&file, SHIM).with_context(|| format!("can't write {}", file.display()))?;
    let mut names = Vec::new();
    for stem in ["libcuda.so", "libnvidia-ml.so"] {
        names.push(stem.to_owned());
        names.push(format!("{stem}.1"));
        if !driver_version.is_empty() && !driver_version.contains('/') {
            names.push(format!("{stem}.{driver_version}"));
        }
    }
    for entry in fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Of a driver that was replaced.
        if name != STAND_IN && !names.contains(&name) {
            let _ = fs::remove_file(entry.path());
        }
    }
    for name in names {
        link(Path::new(STAND_IN), &dir.join(&name))
            .with_context(|| format!("can't link {name} in {}", dir.display()))?;
    }
    Ok(())
}

/// The way to the real driver.
pub fn real_driver(run: &RunDir, driver: &DriverFiles) -> anyhow::Result<()> {
    let dir = run.driver_dir();
    for name in LIBRARIES {
        let Some(real) = driver.real.get(name) else { continue };
        link(real, &dir.join(name)).with_context(|| format!("can't link {name} in {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_has_every_name_and_running_programs_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        stand_in(&run, "580.1").unwrap();
        let lib = run.library_dir();
        for name in ["libcuda.so", "libcuda.so.1", "libcuda.so.580.1", "libnvidia-ml.so.1", "libnvidia-ml.so.580.1"] {
            assert_eq!(fs::read(lib.join(name)).unwrap(), SHIM, "{name}");
        }
        fs::write(lib.join(STAND_IN), b"an older one").unwrap();
        let mapped = fs::File::open(lib.join(STAND_IN)).unwrap();
        stand_in(&run, "590.2").unwrap();
        assert_eq!(io::read_to_string(mapped).unwrap(), "an older one");
        assert_eq!(fs::read(lib.join("libcuda.so.590.2")).unwrap(), SHIM);
        assert!(!lib.join("libcuda.so.580.1").exists());
        assert_eq!(fs::read_dir(&lib).unwrap().count(), 7);
    }
}
