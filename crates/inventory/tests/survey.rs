//! Machines of each maker, from system trees alone and with NVML's answers.
use cleave_api::{Device, Inventory, LinkPath, MemoryFrom, Vendor};
use cleave_inventory::{NvLinkEnd, NvmlAnswers, NvmlGpu, hwloc, matrix, survey};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Makes the tree that `text` describes; trees/README.md says how.
fn unpack(text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().to_owned();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(path) = line.strip_prefix("@ ") {
            dir = root.path().join(path);
            fs::create_dir_all(&dir).unwrap();
            let name = dir.file_name().unwrap().to_owned();
            let parent = dir.parent().unwrap().to_owned();
            let class = parent.file_name().unwrap().to_str().unwrap();
            let linked_from = match class {
                "infiniband" | "net" => {
                    symlink("../..", dir.join("device")).unwrap();
                    format!("sys/class/{class}")
                }
                _ if path.contains("/pci") => "sys/bus/pci/devices".into(),
                _ => continue,
            };
            fs::create_dir_all(root.path().join(&linked_from)).unwrap();
            symlink(&dir, root.path().join(linked_from).join(name)).unwrap();
            continue;
        }
        let (name, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        match name {
            "driver" => symlink(format!("/sys/bus/pci/drivers/{value}"), dir.join(name)).unwrap(),
            "iommu_group" => symlink(format!("/sys/kernel/iommu_groups/{value}"), dir.join(name)).unwrap(),
            _ => {
                let file = dir.join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, format!("{value}\n")).unwrap();
            }
        }
    }
    root
}

fn found(tree: &str) -> Inventory {
    survey(unpack(tree).path(), &NvmlAnswers::default())
}

fn path(inventory: &Inventory, a: &str, b: &str) -> Option<LinkPath> {
    inventory.pairs.iter().find(|pair| pair.a == a && pair.b == b).unwrap_or_else(|| panic!("{a} {b}")).path
}

const NVIDIA: &str = include_str!("trees/nvidia.tree");

#[test]
fn nvidia_without_nvml() {
    let inventory = found(NVIDIA);
    assert_eq!(inventory.problems, []);
    assert_eq!(inventory.nvidia_driver.as_deref(), Some("580.159.04"));
    assert_eq!(inventory.nvswitches, ["0000:9f:00.0"]);
    let [one, two] = inventory.devices.as_slice() else { panic!("{:?}", inventory.devices) };
    assert_eq!((one.label.as_str(), one.name.as_str()), ("GPU0", "NVIDIA H100 80GB HBM3"));
    assert_eq!(one.model.as_deref(), Some("H100 SXM"));
    assert_eq!((one.driver.as_deref(), one.iommu_group), (Some("nvidia"), Some(28)));
    assert_eq!((one.numa_node, one.cpus.as_deref()), (Some(0), Some("0-55,112-167")));
    let link = (one.pcie.generation, one.pcie.generation_max, one.pcie.lanes, one.pcie.lanes_max);
    assert_eq!(link, (Some(1), Some(5), Some(16), Some(16)));
    assert_eq!((one.memory_total_bytes, one.memory_from), (Some(80_000_000_000), Some(MemoryFrom::Table)));
    // Passed through to a virtual machine: nobody here knows its name but the table.
    assert_eq!((two.driver.as_deref(), two.name.as_str()), (Some("vfio-pci"), "H100 SXM"));
    let names: Vec<_> = inventory.nics.iter().map(|nic| (nic.label.as_deref(), nic.name.as_str())).collect();
    assert_eq!(
        names,
        [
            (Some("NIC0"), "mlx5_0"),
            (Some("NIC1"), "mlx5_1"),
            (Some("NIC2"), "mlx5_2"),
            (Some("NIC3"), "mlx5_10"),
            (None, "eno1"),
        ]
    );
    let nic = &inventory.nics[0];
    assert_eq!((nic.interfaces.as_slice(), nic.rate_gbit_s), (["ibp25s0".to_owned()].as_slice(), Some(400.0)));
    assert_eq!((nic.driver.as_deref(), nic.pci.as_deref()), (Some("mlx5_core"), Some("0000:19:00.0")));
    assert_eq!((inventory.nics[4].rate_gbit_s, inventory.nics[4].numa_node), (None, None));
    let ways = ["NIC0", "NIC1", "NIC2", "NIC3", "GPU1"].map(|to| {
        let pair = inventory.pairs.iter().find(|pair| pair.a == "GPU0" && pair.b == to).unwrap();
        pair.path.unwrap()
    });
    assert_eq!(ways, [LinkPath::Pix, LinkPath::Pxb, LinkPath::Phb, LinkPath::Node, LinkPath::Sys]);
    assert_eq!(inventory.numa[1].memory_bytes, Some(1_056_936_012 << 10));
    let matrix = matrix::text(&inventory);
    assert!(matrix.contains("\nGPU0\t X \tSYS\tPIX\tPXB\tPHB\tNODE\t0-55,112-167\t0\t\tN/A\n"), "{matrix}");
    assert!(matrix.ends_with("  NIC3: mlx5_10\n"), "{matrix}");
}

/// NVML knows more, and where it does not answer the tree does; what it does not show is said.
#[test]
fn nvidia_with_nvml() {
    let device = |pci: &str| Device {
        name: "NVIDIA H100 80GB HBM3".into(),
        pci: Some(pci.into()),
        memory_total_bytes: Some(81559 << 20),
        cpus: Some("0-3".into()),
        ..Device::default()
    };
    let gpu = NvmlGpu {
        device: device("0000:98:00.0"),
        nvlinks: vec![NvLinkEnd::Switch; 18],
        paths: vec![None, None],
        joined: vec![None, Some(true)],
    };
    let gone = NvmlGpu { device: device("0000:77:00.0"), paths: vec![Some(LinkPath::Phb), None], ..gpu.clone() };
    let answers = NvmlAnswers { driver: "580.1".into(), cuda: 13000, gpus: vec![gpu, gone], problems: Vec::new() };
    let inventory = survey(unpack(NVIDIA).path(), &answers);
    let labels: Vec<_> = inventory.devices.iter().map(|device| device.pci.as_deref().unwrap()).collect();
    assert_eq!(labels, ["0000:98:00.0", "0000:77:00.0", "0000:18:00.0"]);
    let first = &inventory.devices[0];
    assert_eq!(
        (first.cpus.as_deref(), first.numa_node, first.driver.as_deref()),
        (Some("0-3"), Some(1), Some("vfio-pci"))
    );
    assert_eq!((first.memory_total_bytes, first.memory_from), (Some(81559 << 20), Some(MemoryFrom::Driver)));
    assert_eq!(inventory.nvidia_driver.as_deref(), Some("580.1"));
    assert_eq!(inventory.pairs[0].nvlinks, 18);
    assert_eq!(path(&inventory, "GPU0", "GPU2"), Some(LinkPath::Sys));
    // One that is not in the tree has no place on the bus.
    assert_eq!(path(&inventory, "GPU1", "NIC0"), None);
    let [problem] = inventory.problems.as_slice() else { panic!("{:?}", inventory.problems) };
    assert_eq!(problem.about, "0000:18:00.0");
}

/// G1: model, memory and driver of each maker's devices.
#[test]
fn every_maker_is_recognised() {
    let gb = |gb: u64| gb * 1_000_000_000;
    let gib = |gib: u64| gib << 30;
    let (driver, table) = (Some(MemoryFrom::Driver), Some(MemoryFrom::Table));
    for (tree, vendor, wanted) in [
        (
            include_str!("trees/amd.tree"),
            Vendor::Amd,
            vec![
                ("AMD Instinct MI300X OAM", Some("Instinct MI300X"), Some(206_141_652_992), driver, Some("amdgpu")),
                ("Instinct MI300X", Some("Instinct MI300X"), Some(gb(192)), table, Some("amdgpu")),
                ("Instinct MI100", Some("Instinct MI100"), Some(gb(32)), table, None),
            ],
        ),
        (
            include_str!("trees/intel.tree"),
            Vendor::Intel,
            vec![
                ("Data Center GPU Max 1550", Some("Data Center GPU Max 1550"), Some(gib(128)), driver, Some("xe")),
                ("Data Center GPU Flex 170", Some("Data Center GPU Flex 170"), Some(gib(16)), driver, Some("i915")),
            ],
        ),
        (
            include_str!("trees/gaudi.tree"),
            Vendor::Habana,
            vec![
                ("GAUDI2", Some("Gaudi 2"), Some(gb(96)), table, Some("habanalabs")),
                ("Gaudi 3", Some("Gaudi 3"), Some(gb(128)), table, None),
            ],
        ),
        (
            include_str!("trees/ascend.tree"),
            Vendor::Huawei,
            vec![
                ("Ascend 910A", Some("Ascend 910A"), Some(gb(32)), table, Some("devdrv_device_driver")),
                ("Huawei 19e5:d802", None, None, None, Some("devdrv_device_driver")),
            ],
        ),
        (
            include_str!("trees/qualcomm.tree"),
            Vendor::Qualcomm,
            vec![("Qualcomm 17cb:a100", None, None, None, Some("qaic"))],
        ),
    ] {
        let inventory = found(tree);
        let devices: Vec<_> = (inventory.devices.iter())
            .map(|d| {
                assert_eq!(d.vendor, vendor);
                (d.name.as_str(), d.model.as_deref(), d.memory_total_bytes, d.memory_from, d.driver.as_deref())
            })
            .collect();
        assert_eq!(devices, wanted);
        assert!(inventory.devices.iter().all(|device| device.numa_node.is_some()));
    }
    let amd = found(include_str!("trees/amd.tree"));
    assert_eq!(amd.devices[0].partition.as_deref(), Some("SPX/NPS1"));
    assert_eq!((amd.devices[0].power_limit_watts, amd.devices[0].power_limit_max_watts), (Some(750.0), Some(750.0)));
    // What one device does not say is a problem of that device.
    assert_eq!(amd.problems.len(), 1, "{:?}", amd.problems);
    assert_eq!(amd.problems[0].about, "0000:85:00.0");
    assert!(amd.problems[0].message.contains("mem_info_vram_total is no number: \"many\""));
    let gaudi = found(include_str!("trees/gaudi.tree"));
    assert_eq!((gaudi.devices[0].power_limit_watts, gaudi.devices[0].clock_max_mhz), (Some(600.0), Some(1650)));
}

#[test]
fn what_can_not_be_read_is_said_and_the_rest_answered() {
    let root = unpack(NVIDIA);
    let at = |path: &str| root.path().join("sys/bus/pci/devices").join(path);
    // A folder where a file ought to be can't be read, whoever reads it.
    fs::remove_file(at("0000:18:00.0/numa_node")).unwrap();
    fs::create_dir(at("0000:18:00.0/numa_node")).unwrap();
    // A device that goes away between two looks.
    symlink("/gone", at("0000:99:00.0")).unwrap();
    let inventory = survey(root.path(), &NvmlAnswers::default());
    assert_eq!(inventory.devices.len(), 2);
    let [problem] = inventory.problems.as_slice() else { panic!("{:?}", inventory.problems) };
    assert_eq!(problem.about, "0000:18:00.0");
    assert!(problem.message.starts_with("numa_node can't be read: "), "{}", problem.message);
    assert_eq!((inventory.devices[0].numa_node, inventory.devices[1].numa_node), (None, Some(1)));
}

#[test]
fn a_machine_without_anything_is_answered() {
    for root in [Path::new("/nowhere"), tempfile::tempdir().unwrap().path()] {
        let inventory = survey(root, &NvmlAnswers::default());
        assert_eq!(inventory, Inventory::default());
    }
}

#[test]
fn hwloc_is_read() {
    let inventory = hwloc::read(include_str!("hwloc.xml")).unwrap();
    let devices: Vec<_> = (inventory.devices.iter())
        .map(|d| {
            (d.label.as_str(), d.name.as_str(), d.pci.as_deref().unwrap(), d.numa_node, d.cpus.as_deref().unwrap())
        })
        .collect();
    assert_eq!(
        devices,
        [
            ("GPU0", "H100 SXM", "0000:18:00.0", Some(0), "0-3"),
            ("GPU1", "AMD Instinct MI300X \"OAM\"", "0000:98:00.0", Some(1), "4-7"),
        ]
    );
    assert_eq!(inventory.devices[0].uuid.as_deref(), Some("GPU-8dd5a6ba-1b95-2a6a-a31c-9d2f6ab73f0e"));
    let nics: Vec<_> = inventory.nics.iter().map(|nic| (nic.label.as_deref(), nic.name.as_str())).collect();
    assert_eq!(nics, [(Some("NIC0"), "mlx5_0"), (None, "ibp25s0")]);
    assert_eq!(path(&inventory, "GPU0", "NIC0"), Some(LinkPath::Pix));
    assert_eq!(path(&inventory, "GPU0", "GPU1"), Some(LinkPath::Sys));
    assert_eq!(inventory.numa.len(), 2);
    assert_eq!(inventory.numa[1].cpus, "4-7");
}

#[test]
fn nodes_are_drawn() {
    let drawn = cleave_inventory::drawing::boxes(&found(NVIDIA), 100);
    let wanted = "\
┌─ NUMA 0: CPUs 0-55,112-167, 1007 GiB ──────────────────┐
│ GPU0  NVIDIA H100 80GB HBM3  0000:18:00.0  PIX NIC0    │
│ NIC0  mlx5_0  0000:19:00.0  400 Gbit/s                 │
";
    assert!(drawn.starts_with("┌─ NUMA 0: CPUs 0-55,112-167, 1007 GiB ─"), "{drawn}");
    assert!(drawn.contains("│ GPU0  NVIDIA H100 80GB HBM3  0000:18:00.0  PIX NIC0"), "{drawn}\n{wanted}");
    assert!(drawn.contains("│ GPU1  H100 SXM  0000:98:00.0 "), "{drawn}");
    let widths: std::collections::BTreeSet<usize> = drawn.lines().map(|line| line.chars().count()).collect();
    assert_eq!(widths.len(), 1, "{drawn}");
    let narrow = cleave_inventory::drawing::boxes(&found(NVIDIA), 40);
    assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
}
