//! An inventory from what `lstopo --of xml` wrote (hwloc 1 and 2).
//!
//! hwloc may have been told to leave bridges out, so PIX and PXB are as good as what was written; it knows nothing of NVLink.
use crate::matrix::link_path;
use crate::survey::pci_address;
use crate::table::Table;
use cleave_api::{Device, Inventory, MemoryFrom, Nic, NumaNode, Pair, Vendor};
use cleave_policy::topology::{Cpus, Path};
use std::collections::BTreeMap;

/// An element with its attributes, or the end of one.
enum Tag<'a> {
    Open { name: &'a str, attributes: BTreeMap<&'a str, String>, closed: bool },
    Close,
}

/// What the objects around one say.
#[derive(Clone, Default)]
struct Around {
    cpus: Cpus,
    nodes: Cpus,
    place: Vec<String>,
    /// Which device or NIC is being described.
    pci: Option<PciObject>,
}

#[derive(Clone, Copy)]
enum PciObject {
    Device(usize),
    Other,
}

/// Reads hwloc's XML. The error names the line and the rule.
pub fn read(text: &str) -> Result<Inventory, String> {
    let mut inventory = Inventory::default();
    let mut stack: Vec<Around> = vec![Around::default()];
    let mut places: BTreeMap<String, (Vec<String>, Option<u32>)> = BTreeMap::new();
    let mut seen_topology = false;
    let mut bridges = 0;
    for tag in tags(text) {
        let (line, tag) = tag?;
        let at = |why: &str| format!("line {line}: {why}");
        let (name, attributes, closed) = match tag {
            Tag::Close => {
                if stack.len() == 1 {
                    return Err(at("an element ends that has not begun"));
                }
                stack.pop();
                continue;
            }
            Tag::Open { name, attributes, closed } => (name, attributes, closed),
        };
        seen_topology |= name == "topology";
        let mut around = stack.last().cloned().unwrap_or_default();
        let get = |key: &str| attributes.get(key).map(String::as_str);
        if name == "object" {
            let set = |key: &str| {
                get(key).map(|text| bitmap(text).ok_or_else(|| at(&format!("{key} \"{text}\" is no bitmap"))))
            };
            if let Some(cpus) = set("cpuset") {
                around.cpus = cpus?;
            }
            if let Some(nodes) = set("nodeset") {
                around.nodes = nodes?;
            }
            match get("type") {
                Some("NUMANode") => {
                    let id = get("os_index")
                        .and_then(|id| id.parse().ok())
                        .ok_or_else(|| at("a NUMANode without os_index"))?;
                    let memory = get("local_memory").and_then(|bytes| bytes.parse().ok());
                    inventory.numa.push(NumaNode { id, cpus: around.cpus.to_string(), memory_bytes: memory });
                }
                Some("Bridge") => {
                    bridges += 1;
                    around.place.push(get("pci_busid").map_or_else(|| format!("bridge {bridges}"), pci_address));
                }
                Some("PCIDev") => {
                    let pci = pci_address(get("pci_busid").ok_or_else(|| at("a PCIDev without pci_busid"))?);
                    around.place.push(pci.clone());
                    let (class, id) = pci_type(get("pci_type").unwrap_or(""));
                    let node = around.nodes.only();
                    places.insert(pci.clone(), (around.place.clone(), node));
                    around.pci = Some(PciObject::Other);
                    if let Some(vendor) = maker(class, id) {
                        around.pci = Some(PciObject::Device(inventory.devices.len()));
                        let model = Table::get().model(Some(id), "", None);
                        let memory = model.and_then(|model| model.memory_gb).map(|gb| (gb * 1e9) as u64);
                        inventory.devices.push(Device {
                            vendor,
                            name: model.map_or_else(|| format!("{vendor:?} {id}"), |model| model.name.clone()),
                            model: model.map(|model| model.name.clone()),
                            pci: Some(pci),
                            pci_id: Some(id.to_owned()),
                            memory_total_bytes: memory,
                            memory_from: memory.map(|_| MemoryFrom::Table),
                            numa_node: node,
                            cpus: (!around.cpus.is_empty()).then(|| around.cpus.to_string()),
                            memory_nodes: (!around.nodes.is_empty()).then(|| around.nodes.to_string()),
                            ..Device::default()
                        });
                    }
                }
                Some("OSDev") => {
                    let name = get("name").unwrap_or("").to_owned();
                    let pci = around.place.last().cloned();
                    let nic = || Nic {
                        name: name.clone(),
                        pci: pci.clone(),
                        numa_node: around.nodes.only(),
                        ..Nic::default()
                    };
                    match get("osdev_type") {
                        Some("3" | "OpenFabrics") => inventory.nics.push(Nic { label: Some(String::new()), ..nic() }),
                        Some("2" | "Network") => inventory.nics.push(Nic { interfaces: vec![name.clone()], ..nic() }),
                        _ => {}
                    }
                }
                _ => {}
            }
        } else if name == "info"
            && let Some(PciObject::Device(device)) = around.pci
            && let Some(device) = inventory.devices.get_mut(device)
            && let (Some(key), Some(value)) = (get("name"), get("value"))
        {
            match key {
                "NVIDIAUUID" | "AMDUUID" => device.uuid = Some(value.to_owned()),
                "GPUModel" => device.name = value.to_owned(),
                _ => {}
            }
        }
        if !closed {
            stack.push(around);
        }
    }
    if !seen_topology {
        return Err("there is no <topology>: `lstopo --of xml` writes one".into());
    }
    if stack.len() != 1 {
        return Err(format!("it ends in the middle: {} elements are open", stack.len() - 1));
    }
    finish(&mut inventory, &places);
    Ok(inventory)
}

/// Orders and labels what was found, and links it.
fn finish(inventory: &mut Inventory, places: &BTreeMap<String, (Vec<String>, Option<u32>)>) {
    inventory.devices.sort_by(|a, b| (a.vendor, &a.pci).cmp(&(b.vendor, &b.pci)));
    for (at, device) in inventory.devices.iter_mut().enumerate() {
        device.index = at as u32;
        device.label = format!("GPU{at}");
    }
    inventory.nics.sort_by_key(|nic| nic.label.is_none());
    let mut rdma = 0;
    for nic in &mut inventory.nics {
        if nic.label.is_some() {
            nic.label = Some(format!("NIC{rdma}"));
            rdma += 1;
        }
    }
    let devices = inventory.devices.iter().map(|device| (device.label.clone(), device.pci.clone()));
    let nics = inventory.nics.iter().filter_map(|nic| Some((nic.label.clone()?, nic.pci.clone())));
    let ends: Vec<(String, Option<String>)> = devices.chain(nics).collect();
    for (at, (a, pci_a)) in ends.iter().enumerate() {
        for (b, pci_b) in ends.iter().skip(at + 1) {
            let place = |pci: &Option<String>| places.get(pci.as_deref()?);
            let path = place(pci_a).zip(place(pci_b)).map(|((one, node_one), (other, node_other))| {
                link_path(Path::between((one, *node_one), (other, *node_other)))
            });
            inventory.pairs.push(Pair { a: a.clone(), b: b.clone(), nvlinks: 0, path });
        }
    }
}

/// `0302 [10de:2330 (10de:16c1)] a1` as the class and `10de:2330`.
fn pci_type(text: &str) -> (&str, &str) {
    let class = text.split_whitespace().next().unwrap_or("");
    let id = text.split_once('[').map_or("", |(_, rest)| rest.get(..9).unwrap_or(""));
    (class, id)
}

fn maker(class: &str, id: &str) -> Option<Vendor> {
    let (display, processing) = (class.starts_with("03"), class.starts_with("12"));
    match id.split(':').next()? {
        "10de" if display || processing => Some(Vendor::Nvidia),
        "1002" if display || processing => Some(Vendor::Amd),
        "8086" if display || processing => Some(Vendor::Intel),
        "1da3" => Some(Vendor::Habana),
        "19e5" if processing => Some(Vendor::Huawei),
        "17cb" if processing => Some(Vendor::Qualcomm),
        _ => None,
    }
}

/// `0x000000ff,0xffffffff`: words of 32 bits, the highest first; a word without digits is 0, `0xf...f` is an endless set.
fn bitmap(text: &str) -> Option<Cpus> {
    let words: Vec<&str> = text.split(',').collect();
    let mut bits = Vec::new();
    for (at, word) in words.iter().rev().enumerate() {
        if *word == "0xf...f" {
            continue;
        }
        let digits = word.trim_start_matches("0x");
        let value = if digits.is_empty() { 0 } else { u32::from_str_radix(digits, 16).ok()? };
        bits.extend((0..32).filter(|bit| value >> bit & 1 == 1).map(|bit| at as u32 * 32 + bit));
    }
    Some(Cpus::of(bits))
}

/// The tags of an XML text, with their lines. Text between them, comments and declarations are passed over.
fn tags(text: &str) -> impl Iterator<Item = Result<(usize, Tag<'_>), String>> {
    let mut rest = text;
    let mut line = 1;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find('<')?;
            line += rest.get(..start)?.matches('\n').count();
            let inside = rest.get(start + 1..)?;
            let ends = if inside.starts_with("!--") { "-->" } else { ">" };
            let Some(end) = inside.find(ends) else {
                rest = "";
                return Some(Err(format!("line {line}: an element does not end")));
            };
            let body = inside.get(..end)?;
            rest = inside.get(end + ends.len()..)?;
            let here = line;
            line += body.matches('\n').count();
            if body.starts_with(['!', '?']) {
                continue;
            }
            if body.starts_with('/') {
                return Some(Ok((here, Tag::Close)));
            }
            let closed = body.ends_with('/');
            let body = body.trim_end_matches('/').trim();
            let (name, list) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
            return Some(match attributes(list) {
                Some(attributes) => Ok((here, Tag::Open { name, attributes, closed })),
                None => Err(format!("line {here}: the attributes of <{name}> are not as in name=\"value\"")),
            });
        }
    })
}

fn attributes(mut list: &str) -> Option<BTreeMap<&str, String>> {
    let mut found = BTreeMap::new();
    loop {
        list = list.trim_start();
        if list.is_empty() {
            return Some(found);
        }
        let (key, after) = list.split_once('=')?;
        let (value, after) = after.trim_start().strip_prefix('"')?.split_once('"')?;
        let plain = value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
        found.insert(key.trim(), plain);
        list = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_are_read() {
        let set = |text: &str| bitmap(text).map(|cpus| cpus.to_string());
        assert_eq!(set("0x000000ff").as_deref(), Some("0-7"));
        assert_eq!(set("0x00000001,0x80000000,,0xffffffff").as_deref(), Some("0-31,95-96"));
        assert_eq!(set("0x0").as_deref(), Some(""));
        assert_eq!(set("many"), None);
    }

    #[test]
    fn what_is_no_topology_is_refused() {
        for (text, said) in [
            ("", "no <topology>"),
            ("<html></html>", "no <topology>"),
            ("<topology>\n<object type=\"Machine\" cpuset=\"zz\"/>", "line 2: cpuset \"zz\" is no bitmap"),
            ("<topology>\n<object type=\"Machine\">", "it ends in the middle: 2 elements are open"),
            ("<topology>\n<object type=Machine/>", "line 2: the attributes of <object>"),
            ("<topology></topology></topology>", "line 1: an element ends that has not begun"),
            ("<topology>\n\n<object", "line 3: an element does not end"),
            ("<topology><object type=\"PCIDev\"/></topology>", "without pci_busid"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
