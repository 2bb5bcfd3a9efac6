//! Puts a simulated driver into a directory, where a program finds it through `LD_LIBRARY_PATH`.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::model::{Inventory, SpecError};
use crate::mps::CONTROL;

/// The file with the inventory.
pub const INVENTORY: &str = "sim.toml";
/// The file that the processes share.
pub const STATE: &str = "state";
/// The file that says by its locks which process is which.
pub const OWNERS: &str = "owners";
/// The system tree of the machine around the cards.
pub const ROOT: &str = "root";
/// The library itself.
pub const LIBRARY: &str = "libfakegpu.so";

/// Why an installation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The inventory could not be written as TOML.
    #[error("inventory: {0}")]
    Inventory(#[from] toml::ser::Error),
    /// A file could not be made.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes `dir` a driver's directory: the library under all the driver's names, the MPS control, the inventory that `spec` describes,
/// and fresh shared state. What is there already is replaced; programs that run on it keep the old state.
pub fn install(dir: &Path, spec: &str, library: &[u8], control: &[u8]) -> Result<(), Error> {
    install_inventory(dir, &Inventory::parse(spec)?, library, control)
}

/// The same for an inventory that was made or changed by the caller.
pub fn install_inventory(dir: &Path, inventory: &Inventory, library: &[u8], control: &[u8]) -> Result<(), Error> {
    let at = |name: &str| dir.join(name);
    let file = |path: &Path, result: io::Result<()>| result.map_err(|source| Error::File { path: path.into(), source });
    file(dir, fs::create_dir_all(dir))?;
    // A running program keeps what it has mapped: replace files, never rewrite them.
    let replace = |name: &str, bytes: &[u8]| {
        let temporary = at(&format!(".{name}.new"));
        file(&temporary, fs::write(&temporary, bytes))?;
        file(&at(name), fs::rename(&temporary, at(name)))
    };
    replace(LIBRARY, library)?;
    replace(CONTROL, control)?;
    file(&at(CONTROL), fs::set_permissions(at(CONTROL), fs::Permissions::from_mode(0o755)))?;
    replace(INVENTORY, toml::to_string(inventory)?.as_bytes())?;
    replace(STATE, &[])?;
    replace(OWNERS, &[])?;
    file(&at(ROOT), crate::machine::write(&at(ROOT), inventory))?;
    let state = at(STATE);
    let grow =
        fs::OpenOptions::new().write(true).open(&state).and_then(|f| f.set_len(crate::shared::STATE_BYTES as u64));
    file(&state, grow)?;
    for stem in ["libcuda.so", "libnvidia-ml.so"] {
        for name in [stem.to_owned(), format!("{stem}.1"), format!("{stem}.{}", inventory.driver)] {
            let path = at(&name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => file(&path, Err(error))?,
                _ => {}
            }
            file(&path, symlink(LIBRARY, &path))?;
        }
    }
    Ok(())
}
