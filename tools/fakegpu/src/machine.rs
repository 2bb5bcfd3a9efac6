//! The machine around the simulated cards: four to a NUMA node, and a system tree that says so. Cards with NVLink have a switch and
//! a network card each; the others share a switch in pairs. Other makers' devices come after them, each under a switch of its own.
use crate::model::{Inventory, Other};
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
    let last = (inventory.devices.len() + inventory.others.len()).saturating_sub(1);
    for device in (0..=last).step_by(CARDS) {
        let dir = nodes.join(format!("node{}", node(device)));
        let (first, end) = processors(device);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("cpulist"), format!("{first}-{end}\n"))?;
        fs::write(dir.join("meminfo"), format!("Node {} MemTotal:       528482304 kB\n", node(device)))?;
    }
    // A device under the switch of the card `leader`, at a port of that.
    let port = |leader: usize, slot: usize| {
        let number = inventory.bus(leader);
        let switch = format!("sys/devices/pci0000:{0:02x}/0000:{0:02x}:01.0/0000:{1:02x}:00.0", number - 6, number - 2);
        format!("{switch}/0000:{:02x}:{slot:02x}.0", number - 1)
    };
    let put = |at: usize, dir: &Path, id: u32, class: &str| -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let (first, end) = processors(at);
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
    let attach = |at: usize, place: &Path, driver: &str| -> io::Result<()> {
        symlink(format!("/sys/bus/pci/drivers/{driver}"), place.join("driver"))?;
        symlink(format!("/sys/kernel/iommu_groups/{}", 20 + at), place.join("iommu_group"))
    };
    for (at, card) in inventory.devices.iter().enumerate() {
        let leader = leader(inventory, at);
        let number = inventory.bus(leader);
        let place = root.join(port(leader, at - leader)).join(format!("0000:{:02x}:00.0", inventory.bus(at)));
        put(at, &place, card.pci_device_id, "0x030200")?;
        attach(at, &place, "nvidia")?;
        if card.nvlinks > 0 {
            // ConnectX-7.
            let nic = root.join(port(leader, 2)).join(format!("0000:{:02x}:00.0", number + 1));
            put(at, &nic, 0x1021_15b3, "0x020700")?;
            let name = format!("mlx5_{at}");
            let port = nic.join("infiniband").join(&name).join("ports/1");
            fs::create_dir_all(&port)?;
            fs::write(port.join("rate"), "400 Gb/sec (4X NDR)\n")?;
            symlink("../..", nic.join("infiniband").join(&name).join("device"))?;
            symlink(nic.join("infiniband").join(&name), rdma.join(name))?;
        }
    }
    for (number, other) in inventory.others.iter().enumerate() {
        let at = inventory.devices.len() + number;
        let place = root.join(port(at, 0)).join(format!("0000:{:02x}:00.0", inventory.bus(at)));
        put(at, &place, other.pci_device_id, &other.class)?;
        attach(at, &place, &other.driver)?;
        let maker = |one: &&Other| one.pci_device_id & 0xffff == other.pci_device_id & 0xffff;
        let before = inventory.others.iter().take(number).filter(maker).count();
        let numbered =
            |text: &str| text.replace("{n}", &before.to_string()).replace("{n+128}", &(before + 128).to_string());
        for folder in &other.folders {
            fs::create_dir_all(place.join(numbered(folder)))?;
        }
        for (name, text) in &other.files {
            let file = place.join(numbered(name));
            fs::create_dir_all(file.parent().unwrap_or(&place))?;
            fs::write(file, numbered(text) + "\n")?;
        }
    }
    Ok(())
}
