//! The machine around the simulated cards: four to a NUMA node, and a system tree that says so. Cards with NVLink have a switch and
//! a network card each; the others share a switch in pairs.
use crate::model::Inventory;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Cards of a NUMA node.
const CARDS: usize = 4;
/// Processors of a NUMA node.
const PROCESSORS: u32 = 32;

/// The NUMA node of a card.
pub fn node(device: usize) -> u32 {
    (device / CARDS) as u32
}

/// The first processor of a card's NUMA node, and the last.
pub fn processors(device: usize) -> (u32, u32) {
    (node(device) * PROCESSORS, node(device) * PROCESSORS + PROCESSORS - 1)
}

/// The card that leads its switch.
fn leader(inventory: &Inventory, device: usize) -> usize {
    let paired =
        [device & !1, device | 1].iter().all(|at| inventory.devices.get(*at).is_some_and(|card| card.nvlinks == 0));
    if paired { device & !1 } else { device }
}

/// How far two cards are from each other, as `nvmlGpuTopologyLevel_t`: the same, one switch, one node, the system.
pub fn level(inventory: &Inventory, one: usize, other: usize) -> u32 {
    match () {
        _ if one == other => 0,
        _ if leader(inventory, one) == leader(inventory, other) => 10,
        _ if node(one) == node(other) => 40,
        _ => 50,
    }
}

/// Writes the machine's `sys` into `root`, in the place of an older one.
pub fn write(root: &Path, inventory: &Inventory) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let [bus, rdma, nodes] =
        ["sys/bus/pci/devices", "sys/class/infiniband", "sys/devices/system/node"].map(|path| root.join(path));
    fs::create_dir_all(&bus)?;
    fs::create_dir_all(&rdma)?;
    let last = inventory.devices.len().saturating_sub(1);
    for device in (0..=last).step_by(CARDS) {
        let dir = nodes.join(format!("node{}", node(device)));
        let (first, end) = processors(device);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("cpulist"), format!("{first}-{end}\n"))?;
        fs::write(dir.join("meminfo"), format!("Node {} MemTotal:       528482304 kB\n", node(device)))?;
    }
    for (at, card) in inventory.devices.iter().enumerate() {
        let leader = leader(inventory, at);
        let number = inventory.bus(leader);
        let switch = format!("sys/devices/pci0000:{0:02x}/0000:{0:02x}:01.0/0000:{1:02x}:00.0", number - 6, number - 2);
        let port = |slot: usize| format!("{switch}/0000:{:02x}:{slot:02x}.0", number - 1);
        let (first, end) = processors(at);
        let put = |dir: &Path, id: u32, class: &str| -> io::Result<()> {
            fs::create_dir_all(dir)?;
            let values = [
                ("vendor", format!("{:#06x}", id & 0xffff)),
                ("device", format!("{:#06x}", id >> 16)),
                ("class", class.into()),
                ("numa_node", node(at).to_string()),
                ("local_cpulist", format!("{first}-{end}")),
            ];
            for (name, value) in values {
                fs::write(dir.join(name), value + "\n")?;
            }
            symlink(dir, bus.join(dir.file_name().unwrap_or_default()))
        };
        let place = root.join(port(at - leader)).join(format!("0000:{:02x}:00.0", inventory.bus(at)));
        put(&place, card.pci_device_id, "0x030200")?;
        symlink("/sys/bus/pci/drivers/nvidia", place.join("driver"))?;
        symlink(format!("/sys/kernel/iommu_groups/{}", 20 + at), place.join("iommu_group"))?;
        if card.nvlinks > 0 {
            // ConnectX-7.
            let nic = root.join(port(2)).join(format!("0000:{:02x}:00.0", number + 1));
            put(&nic, 0x1021_15b3, "0x020700")?;
            let name = format!("mlx5_{at}");
            let port = nic.join("infiniband").join(&name).join("ports/1");
            fs::create_dir_all(&port)?;
            fs::write(port.join("rate"), "400 Gb/sec (4X NDR)\n")?;
            symlink("../..", nic.join("infiniband").join(&name).join("device"))?;
            symlink(nic.join("infiniband").join(&name), rdma.join(name))?;
        }
    }
    Ok(())
}
