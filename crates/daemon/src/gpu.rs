//! The GPUs and their driver: what the daemon asks of NVML, and where the driver's libraries are.
use cleave_api::MigProfile;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A GPU as it was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuInfo {
    /// NVML's index.
    pub index: u32,
    /// N in `/dev/nvidiaN`.
    pub minor: u32,
    /// `GPU-…`.
    pub uuid: String,
    /// Model.
    pub name: String,
    /// PCI address.
    pub pci: String,
    /// Memory that programs can have: NVML's total less what the driver reserves for itself. `cuDeviceTotalMem` was
    /// measured to be equal or a few MiB less; quotas are compared with this number before a context exists.
    pub memory_bytes: u64,
    /// Compute capability, major and minor; `None` where the driver does not say.
    pub capability: Option<(u32, u32)>,
    /// Whether MIG divides it now; `None` if it can't be divided so.
    pub mig: Option<bool>,
}

impl GpuInfo {
    /// The UUID as CUDA gives it.
    pub fn uuid_bytes(&self) -> Option<[u8; 16]> {
        parse_uuid(&self.uuid)
    }
}

/// The 16 bytes of a UUID, with or without a prefix such as `GPU-`.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hex = text.split_once('-').map_or(text, |(prefix, rest)| if prefix.len() == 8 { text } else { rest });
    let digits: Vec<u8> = hex.bytes().filter(|b| *b != b'-').collect();
    let mut bytes = [0; 16];
    if digits.len() != 32 || hex.len() != 36 {
        return None;
    }
    for (to, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *to = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A UUID's text, without a prefix.
pub fn format_uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A GPU's memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    /// What programs can have.
    pub usable: u64,
    /// In use by everyone.
    pub used: u64,
}

/// MIG on a GPU as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigNow {
    /// MIG divides it.
    pub enabled: bool,
    /// MIG divides it after the next reset.
    pub pending: bool,
    /// PCI vendor and device: `10de:2330`.
    pub pci_id: Option<String>,
    /// What instances there can be.
    pub profiles: Vec<MigProfile>,
    /// What instances there are, in the order of their places.
    pub instances: Vec<MigFound>,
}

/// A GPU instance that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigFound {
    /// NVML's id.
    pub id: u32,
    /// The id of its profile.
    pub profile: u32,
    /// Its first memory slice.
    pub start: u32,
    /// `MIG-…`, of its first compute instance; `None` where it has none.
    pub uuid: Option<String>,
}

/// Why NVML did not answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NvmlError {
    /// The library can't be loaded.
    #[error("{0}")]
    Missing(String),
    /// It lacks what we need.
    #[error("the driver is too old: {0}")]
    TooOld(String),
    /// A call failed.
    #[error("{0}")]
    Call(String),
}

/// What the daemon asks of NVML. GPUs are named by their place in [`Nvml::gpus`].
pub trait Nvml: Send + Sync {
    /// The kernel driver's version.
    fn driver_version(&self) -> String;
    /// 13000 for CUDA 13.0.
    fn cuda_version(&self) -> u32;
    /// The GPUs, as found at the start.
    fn gpus(&self) -> &[GpuInfo];
    /// Memory now.
    fn memory(&self, gpu: usize) -> Result<MemoryState, NvmlError>;
    /// The processes that use the GPU, each once, with the bytes they use; `None` where the driver does not say.
    fn processes(&self, gpu: usize) -> Result<Vec<(u32, Option<u64>)>, NvmlError>;
    /// Samples since a time in µs since 1970: process, time, percent of the sample in which its kernels ran. `None`
    /// where the driver does not sample.
    fn busy(&self, gpu: usize, since: u64) -> Option<Vec<(u32, u64, u32)>>;
    /// Percent of the last sample in which any kernel ran.
    fn utilization(&self, gpu: usize) -> Option<u32>;
    /// Percent of the bandwidth of the GPU's memory that was used since the question before, which is not asked of the
    /// driver again at once: see [`cleave_api::Gpu::bandwidth_percent`].
    fn bandwidth(&self, _gpu: usize) -> Option<f64> {
        None
    }
    /// Whether MIG divides the GPU now; `None` where it can't, or the driver does not say.
    fn mig_mode(&self, gpu: usize) -> Option<bool> {
        self.gpus().get(gpu)?.mig
    }
    /// MIG on the GPU; `None` where it has none.
    fn mig(&self, _gpu: usize) -> Result<Option<MigNow>, NvmlError> {
        Ok(None)
    }
    /// Switches MIG on or off; leaves it as it was where that does not come at once. Blocks for as long as a reset takes.
    fn set_mig_mode(&self, _gpu: usize, _on: bool) -> Result<(), NvmlError> {
        Err(NvmlError::TooOld("it has no MIG".into()))
    }
    /// Makes an instance with one compute instance of the whole of it.
    fn create_instance(&self, _gpu: usize, _profile: &MigProfile, _start: u32) -> Result<(), NvmlError> {
        Err(NvmlError::TooOld("it has no MIG".into()))
    }
    /// Destroys an instance with the compute instances in it; one that is in use is an error.
    fn destroy_instance(&self, _gpu: usize, _id: u32) -> Result<(), NvmlError> {
        Err(NvmlError::TooOld("it has no MIG".into()))
    }
    /// The processes that use the GPU, each with the id of the instance that it is in.
    fn instance_users(&self, gpu: usize) -> Result<Vec<(u32, Option<u32>)>, NvmlError> {
        Ok(self.processes(gpu)?.into_iter().map(|(pid, _)| (pid, None)).collect())
    }
    /// All that it knows of the GPUs and their links, for an inventory.
    fn answers(&self) -> cleave_inventory::NvmlAnswers {
        cleave_inventory::NvmlAnswers::default()
    }
}

/// What a machine answers that has no GPU of NVIDIA's.
pub struct NoGpus;

impl Nvml for NoGpus {
    fn driver_version(&self) -> String {
        String::new()
    }

    fn cuda_version(&self) -> u32 {
        0
    }

    fn gpus(&self) -> &[GpuInfo] {
        &[]
    }

    fn memory(&self, _gpu: usize) -> Result<MemoryState, NvmlError> {
        Err(NvmlError::Missing("there is no driver".into()))
    }

    fn processes(&self, _gpu: usize) -> Result<Vec<(u32, Option<u64>)>, NvmlError> {
        Err(NvmlError::Missing("there is no driver".into()))
    }

    fn busy(&self, _gpu: usize, _since: u64) -> Option<Vec<(u32, u64, u32)>> {
        None
    }

    fn utilization(&self, _gpu: usize) -> Option<u32> {
        None
    }
}

/// File names of the driver's two libraries.
pub const LIBRARIES: [&str; 2] = ["libcuda.so.1", "libnvidia-ml.so.1"];
/// File name of the stand-in.
pub const STAND_IN: &str = "libcleave.so";

const USUAL: [&str; 12] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib64/nvidia",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
];

/// Where the driver's libraries were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverFiles {
    /// Name in the daemon's driver folder → real file.
    pub real: BTreeMap<String, PathBuf>,
    /// Every path under which a program could load one of them.
    pub covers: Vec<PathBuf>,
}

/// Whether `name` is one under which a program loads one of the two libraries.
pub fn is_driver_name(name: &str) -> bool {
    ["libcuda.so", "libnvidia-ml.so"]
        .iter()
        .any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// Looks for the driver: in `given` alone if there is one, else in the dynamic linker's places. What is our own
/// stand-in, under whatever name, is passed over; so are the toolkit's stubs.
pub fn find_driver(given: Option<&Path>, stand_in: &[u8]) -> DriverFiles {
    let mut dirs: Vec<PathBuf> = Vec::new();
    match given {
        Some(dir) => dirs.push(dir.into()),
        None => {
            let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
            dirs.extend(std::env::split_paths(&path).filter(|p| p.is_absolute()));
            dirs.extend(linker_cache_dirs());
            dirs.extend(USUAL.iter().map(PathBuf::from));
        }
    }
    find_in(&dirs, stand_in)
}

fn find_in(dirs: &[PathBuf], stand_in: &[u8]) -> DriverFiles {
    let mut found = DriverFiles::default();
    let mut seen = BTreeSet::new();
    for dir in dirs {
        let Ok(dir) = fs::canonicalize(dir) else { continue };
        if dir.file_name().is_some_and(|n| n == "stubs") || !seen.insert(dir.clone()) {
            continue;
        }
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.retain(|name| is_driver_name(name));
        names.sort();
        for name in names {
            let path = dir.join(&name);
            let Ok(real) = fs::canonicalize(&path) else { continue };
            if is_stand_in(&real, stand_in) {
                continue;
            }
            if LIBRARIES.contains(&name.as_str()) {
                found.real.entry(name).or_insert(real);
            }
            found.covers.push(path);
        }
    }
    found
}

fn is_stand_in(real: &Path, stand_in: &[u8]) -> bool {
    real.file_name().is_some_and(|n| n == STAND_IN)
        || (!stand_in.is_empty()
            && fs::metadata(real).is_ok_and(|m| m.len() == stand_in.len() as u64)
            && fs::read(real).is_ok_and(|bytes| bytes == stand_in))
}

fn linker_cache_dirs() -> Vec<PathBuf> {
    let output = ["/sbin/ldconfig", "/usr/sbin/ldconfig", "ldconfig"]
        .iter()
        .find_map(|program| std::process::Command::new(program).arg("-p").output().ok());
    let Some(output) = output else { return Vec::new() };
    cache_dirs(&String::from_utf8_lossy(&output.stdout), cfg!(target_arch = "x86_64"))
}

fn cache_dirs(listing: &str, x86_64: bool) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .filter(|(name, _)| is_driver_name(name.split(' ').next().unwrap_or("")))
        // A 32-bit library has no architecture in brackets; on x86-64 ours is marked.
        .filter(|(name, _)| !x86_64 || name.contains("x86-64"))
        .filter_map(|(_, path)| Path::new(path.trim()).parent().map(Path::to_path_buf))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_read_and_print() {
        let text = "GPU-8dd5a6ba-1b95-2a6a-a31c-9d2f6ab73f0e";
        let bytes = parse_uuid(text).unwrap();
        assert_eq!(format!("GPU-{}", format_uuid(bytes)), text);
        assert_eq!(parse_uuid(&text[4..]), Some(bytes));
        for bad in
            ["", "GPU-", "GPU-8dd5a6ba", "GPU-8dd5a6ba-1b95-2a6a-a31c-9d2f6ab73f0g", "8dd5a6ba1b952a6aa31c9d2f6ab73f0e"]
        {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_two_libraries_are_meant() {
        for name in ["libcuda.so", "libcuda.so.1", "libcuda.so.580.159.04", "libnvidia-ml.so.1"] {
            assert!(is_driver_name(name), "{name}");
        }
        for name in ["libcudart.so.13", "libcudadebugger.so.1", "libcuda.so1", "libnvidia-ml-x.so", "libcuda"] {
            assert!(!is_driver_name(name), "{name}");
        }
    }

    #[test]
    fn the_linker_cache_is_read() {
        let listing = "3 libs found in cache `/etc/ld.so.cache'\n\
            \tlibnvidia-ml.so.1 (libc6,x86-64) => /usr/local/nvidia/lib64/libnvidia-ml.so.1\n\
            \tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1\n\
            \tlibcudart.so.13 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.13\n";
        assert_eq!(cache_dirs(listing, true), [PathBuf::from("/usr/local/nvidia/lib64")]);
    }

    #[test]
    fn the_driver_is_found_under_every_name_but_never_our_own_library() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["ours", "covered", "real", "second", "stubs"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("ours/libcleave.so"), b"stand-in").unwrap();
        std::os::unix::fs::symlink("libcleave.so", at("ours/libcuda.so.1")).unwrap();
        fs::write(at("covered/libcuda.so.1"), b"stand-in").unwrap();
        fs::write(at("stubs/libcuda.so.1"), b"stub").unwrap();
        fs::write(at("real/libcuda.so.580.1"), b"real").unwrap();
        std::os::unix::fs::symlink("libcuda.so.580.1", at("real/libcuda.so.1")).unwrap();
        std::os::unix::fs::symlink("libcuda.so.1", at("real/libcuda.so")).unwrap();
        fs::write(at("second/libnvidia-ml.so.1"), b"nvml").unwrap();
        fs::write(at("second/libcuda.so.1"), b"older").unwrap();
        let dirs: Vec<_> =
            ["ours", "covered", "stubs", "missing", "real", "second", "real"].iter().map(|d| at(d)).collect();
        let found = find_in(&dirs, b"stand-in");
        let base = fs::canonicalize(dir.path()).unwrap();
        assert_eq!(found.real["libcuda.so.1"], base.join("real/libcuda.so.580.1"));
        assert_eq!(found.real["libnvidia-ml.so.1"], base.join("second/libnvidia-ml.so.1"));
        let covers: Vec<_> = found.covers.iter().map(|p| p.strip_prefix(&base).unwrap().to_str().unwrap()).collect();
        assert_eq!(
            covers,
            [
                "real/libcuda.so",
                "real/libcuda.so.1",
                "real/libcuda.so.580.1",
                "second/libcuda.so.1",
                "second/libnvidia-ml.so.1"
            ]
        );
    }
}
