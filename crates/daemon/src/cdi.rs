//! A slice as a CDI device (`cleave.dev/slice=NAME`), for docker, podman, containerd and CRI-O.
use cleave_api::LaunchPlan;
use cleave_inventory::makers::Way;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The version of the spec that is written: the first with everything that is used here (names that begin with a
/// digit). Engines refuse a spec that is newer than they are, and podman 4.3 knows none after this.
pub const VERSION: &str = "0.5.0";
/// Vendor and class of the devices.
pub const KIND: &str = "cleave.dev/slice";
/// Where distributions keep the driver's libraries; a container has one of them.
const LIBRARY_DIRS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"];
/// Where the stand-in looks for the real libraries in a container.
const DRIVER_DIR: &str = "/run/cleave/driver";
/// Where an MPS client finds its server.
pub const PIPE_VARIABLE: &str = "CUDA_MPS_PIPE_DIRECTORY";
/// The part of the multiprocessors that it gets, in percent.
pub const PART_VARIABLE: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";
/// Tells the stand-in in a client of an MPS server which multiprocessors are its own: see [`crate::engine::Place`].
pub const PLACE_VARIABLE: &str = "CLEAVE_MULTIPROCESSORS";
/// Where its server is in a container.
const PIPE_DIR: &str = "/run/cleave/mps";
/// Libraries that the driver itself loads, by the names it asks for, `{}` = its version.
const COMPANIONS: [(&str, &str); 5] = [
    ("libnvidia-ptxjitcompiler.so.{}", "libnvidia-ptxjitcompiler.so.1"),
    ("libnvidia-gpucomp.so.{}", "libnvidia-gpucomp.so.{}"),
    ("libnvidia-nvvm.so.{}", "libnvidia-nvvm.so.4"),
    ("libcudadebugger.so.{}", "libcudadebugger.so.1"),
    ("libnvidia-opencl.so.{}", "libnvidia-opencl.so.1"),
];

/// The driver's list of MIG capabilities.
pub const CAPABILITIES: &str = "/proc/driver/nvidia-caps/mig-minors";

/// What a spec is made of.
pub struct Parts<'a> {
    /// How a program is put into the slice.
    pub plan: &'a LaunchPlan,
    /// The folder of the slice's socket for containers.
    pub socket_dir: &'a str,
    /// N in `/dev/nvidiaN` of its GPUs.
    pub minors: Vec<u32>,
    /// How it is given other makers' devices; `None` if it has NVIDIA's.
    pub others: Option<&'a Way>,
    /// N in `/dev/nvidia-caps/nvidia-capN` of what its MIG instance needs.
    pub capabilities: Vec<u32>,
    /// The driver's version.
    pub driver_version: &'a str,
    /// There are no device nodes.
    pub simulated: bool,
}

/// The spec.
pub fn spec(parts: &Parts<'_>) -> Value {
    let Parts { plan, socket_dir, minors, others, capabilities, driver_version, simulated } = parts;
    let mount = |host: &str, container: &str| json!({ "hostPath": host, "containerPath": container, "options": ["ro", "nosuid", "nodev", "rbind"] });
    let mut nodes = Vec::new();
    if let (Some(way), false) = (others, simulated) {
        nodes.extend(way.nodes.iter().map(|path| json!({ "path": path })));
    } else if !simulated {
        let fixed = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"].map(String::from);
        let capabilities = capabilities.iter().map(|m| format!("/dev/nvidia-caps/nvidia-cap{m}"));
        let paths = minors.iter().map(|m| format!("/dev/nvidia{m}")).chain(fixed).chain(capabilities);
        nodes.extend(paths.map(|path| json!({ "path": path })));
    }

    // The stand-in lies over every path under which a program could find a driver: the host's own, which the
    // container may share, and the usual ones.
    let mut covered: BTreeSet<String> = plan.covers.iter().cloned().collect();
    for dir in LIBRARY_DIRS {
        for stem in ["libcuda.so", "libnvidia-ml.so"] {
            covered.insert(format!("{dir}/{stem}"));
            covered.insert(format!("{dir}/{stem}.1"));
            covered.insert(format!("{dir}/{stem}.{driver_version}"));
        }
    }
    let mut mounts: Vec<Value> = covered.iter().map(|path| mount(&plan.library, path)).collect();
    let mut driver_dirs = BTreeSet::from([DRIVER_DIR.to_owned()]);
    driver_dirs.insert(plan.driver_dir.clone());
    for dir in &driver_dirs {
        mounts.extend(plan.real_libraries.iter().map(|(name, path)| mount(path, &format!("{dir}/{name}"))));
    }
    if *simulated {
        // The simulated driver has its state beside its library, and keeps it there.
        mounts.retain(|m| !in_driver_dir(m, &driver_dirs));
        mounts.extend(driver_dirs.iter().map(|dir| {
            json!({ "hostPath": plan.driver_dir, "containerPath": dir, "options": ["rw", "nosuid", "nodev", "rbind"] })
        }));
    } else if let Some(dir) = plan.real_libraries.get("libcuda.so.1").and_then(|p| Path::new(p).parent()) {
        for (file, name) in COMPANIONS {
            let file = dir.join(file.replace("{}", driver_version));
            if file.exists() {
                let name = name.replace("{}", driver_version);
                mounts.extend(LIBRARY_DIRS.map(|to| mount(&file.display().to_string(), &format!("{to}/{name}"))));
            }
        }
        let smi = [PathBuf::from("/usr/bin/nvidia-smi"), dir.join("../bin/nvidia-smi")]
            .into_iter()
            .find_map(|p| fs::canonicalize(p).ok());
        if let Some(smi) = smi {
            mounts.push(mount(&smi.display().to_string(), "/usr/bin/nvidia-smi"));
        }
    }
    mounts.push(mount(socket_dir, "/run/cleave/slice"));
    let mut env = vec![format!("CLEAVE_SLICE={}", plan.name)];
    // Its nodes are what it has; a number among all of the machine's would be another one in there.
    let named = others.iter().filter(|way| !way.numbered).flat_map(|way| &way.environment);
    env.extend(named.map(|(name, value)| format!("{name}={value}")));
    // A container does not see the machine's usual place for MPS.
    if let (Some(pipe), true) = (plan.environment.get(PIPE_VARIABLE), plan.environment.contains_key(PART_VARIABLE)) {
        mounts.push(mount(pipe, PIPE_DIR));
        let mps = plan.environment.iter().filter(|(name, _)| name.starts_with("CUDA_MPS_") || *name == PLACE_VARIABLE);
        env.extend(mps.map(|(name, value)| format!("{name}={}", if name == PIPE_VARIABLE { PIPE_DIR } else { value })));
    }
    json!({
        "cdiVersion": VERSION,
        "kind": KIND,
        "devices": [{
            "name": plan.name,
            "containerEdits": {
                "env": env,
                "deviceNodes": nodes,
                "mounts": mounts,
            },
        }],
    })
}

/// What a MIG instance needs, by the driver's list of all that could ever be (`gpu0/gi7/access 102`): access to it and to its
/// first compute instance.
pub fn capabilities(list: &str, gpu: u32, instance: u32) -> Vec<u32> {
    let wanted = [format!("gpu{gpu}/gi{instance}/access"), format!("gpu{gpu}/gi{instance}/ci0/access")];
    let number = |line: &str| {
        let (name, minor) = line.split_once(' ')?;
        if wanted.iter().any(|one| one == name) { minor.trim().parse().ok() } else { None }
    };
    list.lines().filter_map(number).collect()
}

fn in_driver_dir(mount: &Value, dirs: &BTreeSet<String>) -> bool {
    let path = mount.get("containerPath").and_then(Value::as_str).unwrap_or("");
    dirs.iter().any(|dir| path.starts_with(&format!("{dir}/")))
}

fn file(dir: &Path, slice: &str) -> PathBuf {
    dir.join(format!("cleave.dev-slice-{slice}.json"))
}

/// Writes a slice's spec where container engines look.
pub fn write(dir: &Path, slice: &str, spec: &Value) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = file(dir, slice);
    // Engines read *.json and *.yaml only, so they never see half a file.
    let temporary = path.with_extension("new");
    let done = fs::write(&temporary, format!("{spec:#}\n")).and_then(|()| fs::rename(&temporary, &path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

/// Removes it.
pub fn remove(dir: &Path, slice: &str) {
    let _ = fs::remove_file(file(dir, slice));
}

/// Removes the specs of slices that are no more.
pub fn clean(dir: &Path, is_slice: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let slice = name.strip_prefix("cleave.dev-slice-").and_then(|n| n.strip_suffix(".json"));
        if slice.is_some_and(|slice| !is_slice(slice)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUESTS: &str = "/run/cleave/slices/SLICE-1/guest/slice";

    fn plan() -> LaunchPlan {
        LaunchPlan {
            id: "SLICE-1".into(),
            name: "train".into(),
            library_dir: "/run/cleave/lib".into(),
            library: "/run/cleave/lib/libcleave.so".into(),
            socket_dir: "/run/cleave/slices/SLICE-1/socket".into(),
            driver_dir: "/run/cleave/driver".into(),
            real_libraries: [("libcuda.so.1".to_owned(), "/opt/nv/libcuda.so.580".to_owned())].into(),
            covers: vec!["/opt/nv/libcuda.so.1".into()],
            environment: [].into(),
        }
    }

    #[test]
    fn a_container_gets_devices_and_the_stand_in_under_every_name() {
        let plan = plan();
        let spec = spec(&Parts {
            plan: &plan,
            socket_dir: GUESTS,
            others: None,
            minors: vec![3],
            capabilities: capabilities(
                "config 1\ngpu3/gi1/access 9\ngpu3/gi11/access 102\ngpu3/gi11/ci0/access 103\n",
                3,
                11,
            ),
            driver_version: "580.1",
            simulated: false,
        });
        assert_eq!(spec["cdiVersion"], VERSION);
        assert_eq!(spec["kind"], "cleave.dev/slice");
        let device = &spec["devices"][0];
        assert_eq!(device["name"], "train");
        // All that a device has in version 0.5.0: engines refuse what they don't know.
        assert_eq!(device.as_object().unwrap().keys().collect::<Vec<_>>(), ["containerEdits", "name"]);
        let edits = &device["containerEdits"];
        let nodes: Vec<&str> =
            edits["deviceNodes"].as_array().unwrap().iter().map(|n| n["path"].as_str().unwrap()).collect();
        let fixed = ["/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];
        assert_eq!(nodes[..4], fixed);
        assert_eq!(nodes[4..], ["/dev/nvidia-caps/nvidia-cap102", "/dev/nvidia-caps/nvidia-cap103"]);
        let mounts = edits["mounts"].as_array().unwrap();
        let host = |container: &str| {
            let mut all = mounts.iter().filter(|m| m["containerPath"] == container);
            let found = all.next().map(|m| m["hostPath"].as_str().unwrap());
            assert!(all.next().is_none(), "{container} twice");
            found
        };
        for covered in
            ["/opt/nv/libcuda.so.1", "/usr/lib64/libcuda.so", "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.1"]
        {
            assert_eq!(host(covered), Some("/run/cleave/lib/libcleave.so"));
        }
        assert_eq!(host("/run/cleave/driver/libcuda.so.1"), Some("/opt/nv/libcuda.so.580"));
        assert_eq!(host("/run/cleave/slice"), Some(GUESTS));
        for mount in mounts {
            assert!(mount["options"].as_array().unwrap().contains(&json!("ro")));
        }
    }

    #[test]
    fn a_simulated_slice_has_no_device_nodes_and_its_drivers_state() {
        let plan = plan();
        let spec = spec(&Parts {
            plan: &plan,
            socket_dir: GUESTS,
            others: None,
            minors: vec![0],
            capabilities: vec![],
            driver_version: "580.1",
            simulated: true,
        });
        let edits = &spec["devices"][0]["containerEdits"];
        assert_eq!(edits["deviceNodes"], json!([]));
        let driver: Vec<_> =
            edits["mounts"].as_array().unwrap().iter().filter(|m| m["hostPath"] == "/run/cleave/driver").collect();
        assert_eq!(driver.len(), 1);
    }

    #[test]
    fn specs_are_written_removed_and_swept() {
        let dir = tempfile::tempdir().unwrap();
        let cdi = dir.path().join("cdi");
        write(&cdi, "a", &json!({ "x": 1 })).unwrap();
        write(&cdi, "b", &json!({})).unwrap();
        fs::write(cdi.join("nvidia.yaml"), "").unwrap();
        clean(&cdi, |name| name == "a");
        assert!(cdi.join("cleave.dev-slice-a.json").exists());
        assert!(!cdi.join("cleave.dev-slice-b.json").exists());
        assert!(cdi.join("nvidia.yaml").exists());
        remove(&cdi, "a");
        assert_eq!(fs::read_dir(&cdi).unwrap().count(), 1);
    }
}
