//! The matrix of links, as `nvidia-smi topo -m` writes it: printed from an inventory, and read into one.
use cleave_api::{Device, Inventory, LinkPath, Nic, NumaNode, Pair};
use cleave_policy::topology::{Cpus, Group, Link, Links, Path, groups};
use std::collections::BTreeMap;

const LEGEND: &str = "
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
";

/// The way as the policy knows it.
pub fn path(path: LinkPath) -> Path {
    match path {
        LinkPath::Pix => Path::Pix,
        LinkPath::Pxb => Path::Pxb,
        LinkPath::Phb => Path::Phb,
        LinkPath::Node => Path::Node,
        LinkPath::Sys => Path::Sys,
    }
}

/// The way as the API knows it.
pub fn link_path(path: Path) -> LinkPath {
    match path {
        Path::Pix => LinkPath::Pix,
        Path::Pxb => LinkPath::Pxb,
        Path::Phb => LinkPath::Phb,
        Path::Node => LinkPath::Node,
        Path::Sys => LinkPath::Sys,
    }
}

/// What can be in the matrix, devices first.
pub fn labels(inventory: &Inventory) -> Vec<&str> {
    let nics = inventory.nics.iter().filter_map(|nic| nic.label.as_deref());
    inventory.devices.iter().map(|device| device.label.as_str()).chain(nics).collect()
}

/// The links between each two of `labels`.
pub fn links(inventory: &Inventory, labels: &[&str]) -> Links {
    let places: BTreeMap<&str, usize> = labels.iter().enumerate().map(|(at, label)| (*label, at)).collect();
    let mut links = Links::new(labels.len());
    for pair in &inventory.pairs {
        if let (Some(a), Some(b)) = (places.get(pair.a.as_str()), places.get(pair.b.as_str())) {
            links.set(*a, *b, Link { nvlinks: pair.nvlinks, path: pair.path.map(path) });
        }
    }
    links
}

/// The groups of `size` devices, the best first, and the processors near each.
pub fn best(inventory: &Inventory, size: usize) -> Vec<(Group, Cpus)> {
    let labels: Vec<&str> = inventory.devices.iter().map(|device| device.label.as_str()).collect();
    let all: Vec<usize> = (0..labels.len()).collect();
    let found = groups(&links(inventory, &labels), size, &all);
    found
        .into_iter()
        .map(|group| {
            let cpus = near(inventory, &group.members);
            (group, cpus)
        })
        .collect()
}

/// The processors near these devices: of all of them together.
pub fn near(inventory: &Inventory, members: &[usize]) -> Cpus {
    let each = members.iter().filter_map(|at| inventory.devices.get(*at)?.cpus.as_deref()?.parse::<Cpus>().ok());
    each.fold(Cpus::default(), |all, cpus| all.with(&cpus))
}

/// The matrix with its legend. Its first line is underlined, as `nvidia-smi` does it.
pub fn text(inventory: &Inventory) -> String {
    let labels = labels(inventory);
    let links = links(inventory, &labels);
    let mut out = format!("\t\x1b[4m{}\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n", labels.join("\t"));
    for (row, label) in labels.iter().enumerate() {
        out.push_str(label);
        for column in 0..labels.len() {
            match row == column {
                true => out.push_str("\t X "),
                false => out.push_str(&format!("\t{}", links.get(row, column))),
            }
        }
        match inventory.devices.get(row) {
            Some(device) => out.push_str(&affinity(device)),
            None => out.push_str("\t\t\t\t"),
        }
        out.push('\n');
    }
    out.push_str(LEGEND);
    let mut nics = inventory.nics.iter().filter(|nic| nic.label.is_some()).peekable();
    if nics.peek().is_some() {
        out.push_str("\nNIC Legend:\n\n");
        nics.for_each(|nic| out.push_str(&format!("  {}: {}\n", nic.label.as_deref().unwrap_or(""), nic.name)));
    }
    out
}

/// The last three columns. `nvidia-smi` leaves room for a long list of processors where there is no node.
fn affinity(device: &Device) -> String {
    let cpus = device.cpus.as_deref().unwrap_or("");
    let nodes = device.memory_nodes.as_deref().unwrap_or("\tN/A");
    let own = device.own_numa_node.map_or_else(|| "N/A".into(), |node| node.to_string());
    format!("\t{cpus}\t{nodes}\t\t{own}")
}

/// Reads what `nvidia-smi topo -m` printed. The error names the line, what is wrong with it, and the rule.
pub fn read(text: &str) -> Result<Inventory, String> {
    let plain = without_escapes(text);
    let lines: Vec<&str> = plain.lines().map(str::trim_end).collect();
    let is_header = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first().is_some_and(|word| is_gpu(word)) && !words.contains(&"X")
    };
    let header =
        lines.iter().position(is_header).ok_or("there is no matrix: no line names GPU0 and what follows it")?;
    let columns: Vec<&str> = lines
        .get(header)
        .into_iter()
        .flat_map(|line| line.split_whitespace())
        .take_while(|w| *w != "CPU" && *w != "NUMA")
        .collect();
    let mut inventory = Inventory::default();
    let mut labels: Vec<String> = Vec::new();
    for name in &columns {
        if is_gpu(name) {
            let index = inventory.devices.len() as u32;
            let label = format!("GPU{index}");
            if *name != label || !inventory.nics.is_empty() {
                return Err(format!("line {}: column {name} is where {label} ought to be", header + 1));
            }
            inventory.devices.push(Device {
                index,
                label: label.clone(),
                name: "NVIDIA GPU".into(),
                ..Device::default()
            });
            labels.push(label);
        } else {
            let label = format!("NIC{}", inventory.nics.len());
            inventory.nics.push(Nic { label: Some(label.clone()), name: (*name).to_owned(), ..Nic::default() });
            labels.push(label);
        }
    }
    let mut cells: BTreeMap<(usize, usize), Link> = BTreeMap::new();
    let mut rows = 0;
    for (number, line) in lines.iter().enumerate().skip(header + 1).take_while(|(_, line)| !line.is_empty()) {
        let at = |why: String| format!("line {}: {why}", number + 1);
        let words: Vec<&str> = line.split_whitespace().collect();
        let label = words.first().copied().unwrap_or("");
        let row = columns
            .iter()
            .position(|column| *column == label)
            .ok_or_else(|| at(format!("row {label} has no column")))?;
        if row != rows {
            return Err(at(format!("row {label} is where {} ought to be", columns.get(rows).unwrap_or(&"none"))));
        }
        rows += 1;
        if words.len() <= columns.len() {
            return Err(at(format!(
                "row {label} has {} entries, and there are {} columns",
                words.len() - 1,
                columns.len()
            )));
        }
        for (column, word) in words.iter().skip(1).take(columns.len()).enumerate() {
            if (*word == "X") != (row == column) {
                return Err(at(format!(
                    "{word} is where row {label} meets column {}",
                    columns.get(column).unwrap_or(&"")
                )));
            }
            if row != column {
                cells.insert((row, column), cell(word).map_err(at)?);
            }
        }
        if let Some(device) = inventory.devices.get_mut(row) {
            read_affinity(device, line, columns.len());
        }
    }
    if rows < columns.len() {
        return Err(format!(
            "there is no row {}: {} of {} are there",
            columns.get(rows).unwrap_or(&""),
            rows,
            columns.len()
        ));
    }
    for a in 0..labels.len() {
        for b in a + 1..labels.len() {
            let (Some(there), Some(back)) = (cells.get(&(a, b)), cells.get(&(b, a))) else { continue };
            let (Some(one), Some(other)) = (labels.get(a), labels.get(b)) else { continue };
            if there != back {
                return Err(format!("{one} to {other} is {there}, and back it is {back}: a link has two ends"));
            }
            inventory.pairs.push(Pair {
                a: one.clone(),
                b: other.clone(),
                nvlinks: there.nvlinks,
                path: there.path.map(link_path),
            });
        }
    }
    for line in &lines {
        if let Some((label, name)) = line.trim().split_once(": ")
            && let Some(nic) = inventory.nics.iter_mut().find(|nic| nic.label.as_deref() == Some(label))
        {
            nic.name = name.trim().to_owned();
        }
    }
    inventory.numa = nodes(&inventory.devices);
    Ok(inventory)
}

/// The NUMA nodes of these devices, with the processors near them.
pub fn nodes(devices: &[Device]) -> Vec<NumaNode> {
    let mut nodes: BTreeMap<u32, Cpus> = BTreeMap::new();
    for device in devices {
        if let Some(node) = device.numa_node {
            let cpus = device.cpus.as_deref().and_then(|cpus| cpus.parse().ok()).unwrap_or_default();
            let all = nodes.entry(node).or_default();
            *all = all.with(&cpus);
        }
    }
    nodes.into_iter().map(|(id, cpus)| NumaNode { id, cpus: cpus.to_string(), memory_bytes: None }).collect()
}

fn is_gpu(word: &str) -> bool {
    word.strip_prefix("GPU").is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn cell(word: &str) -> Result<Link, String> {
    if let Some(count) = word.strip_prefix("NV")
        && let Ok(nvlinks @ 1..=1000) = count.parse()
    {
        return Ok(Link { nvlinks, path: None });
    }
    let path = word.parse().map_err(|()| format!("\"{word}\" is none of X, NV#, PIX, PXB, PHB, NODE and SYS"))?;
    Ok(Link { nvlinks: 0, path: Some(path) })
}

/// The columns behind the matrix: where there are tabs an empty one can be told.
fn read_affinity(device: &mut Device, line: &str, columns: usize) {
    let behind: Vec<&str> = match line.contains('\t') {
        true => line.split('\t').skip(columns + 1).map(str::trim).collect(),
        false => line.split_whitespace().skip(columns + 1).collect(),
    };
    let (cpus, rest) = behind.split_first().unwrap_or((&"", &[]));
    let known = |text: &str| (!text.is_empty() && text != "N/A").then(|| text.to_owned());
    device.cpus = known(cpus).filter(|text| text.parse::<Cpus>().is_ok());
    let mut rest = rest.iter().filter(|text| !text.is_empty());
    device.memory_nodes = rest.next().and_then(|text| known(text)).filter(|text| text.parse::<Cpus>().is_ok());
    device.own_numa_node = rest.next().and_then(|text| text.parse().ok());
    // Where several are near, the processors' own node has the lowest number.
    let first = device.memory_nodes.as_deref().and_then(|nodes| nodes.split([',', '-']).next());
    device.numa_node = first.and_then(|node| node.parse().ok());
}

fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split("\x1b[");
    out.push_str(parts.next().unwrap_or(""));
    for part in parts {
        out.push_str(part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_matrix_is_refused_with_the_line() {
        let refused = |text: &str| read(text).unwrap_err();
        assert!(refused("").contains("no line names GPU0"));
        assert!(refused("hello\nworld\n").contains("no line names GPU0"));
        let matrix =
            |rows: &str| format!("\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n{rows}\n\nLegend:\n");
        for (rows, said) in [
            ("GPU0\t X \tNODENODE\t0-3\t0\t\tN/A", "line 2: \"NODENODE\" is none of X, NV#, PIX"),
            ("GPU0\t X", "line 2: row GPU0 has 1 entries, and there are 2 columns"),
            ("GPU0\t X \tSYS\t0-3\t0", "there is no row GPU1: 1 of 2"),
            ("GPU1\t X \tSYS\t0-3\t0", "line 2: row GPU1 is where GPU0 ought to be"),
            ("GPU0\tSYS\tSYS\t0-3\t0", "line 2: SYS is where row GPU0 meets column GPU0"),
            ("GPU0\t X \tSYS\t0\t0\nGPU1\tPIX\t X \t0\t0", "GPU0 to GPU1 is SYS, and back it is PIX"),
            ("GPU0\t X \tNV0\t0\t0", "NV0"),
            ("TPU0\t X \tSYS\t0\t0", "row TPU0 has no column"),
        ] {
            let error = refused(&matrix(rows));
            assert!(error.contains(said), "{rows:?}: {error}");
        }
        assert!(refused("\tGPU0\tGPU2\nGPU0\t X \tSYS\nGPU2\tSYS\t X\n").contains("column GPU2 is where GPU1"));
    }

    #[test]
    fn older_matrices_are_read_too() {
        let old = "\tGPU0\tmlx5_0\tCPU Affinity\nGPU0\t X \tPIX\t0-23,48-71\nmlx5_0\tPIX\t X \t\n\nLegend:\n";
        let inventory = read(old).unwrap();
        assert_eq!(inventory.nics[0].name, "mlx5_0");
        assert_eq!(inventory.nics[0].label.as_deref(), Some("NIC0"));
        assert_eq!(inventory.devices[0].cpus.as_deref(), Some("0-23,48-71"));
        assert_eq!(inventory.devices[0].numa_node, None);
        // One GPU of a machine that tells no node.
        let one =
            read("\t\x1b[4mGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\nGPU0\t X \t0-7\t\tN/A\t\tN/A\n")
                .unwrap();
        assert_eq!(one.devices[0].cpus.as_deref(), Some("0-7"));
        assert_eq!((one.devices[0].memory_nodes.clone(), one.devices[0].own_numa_node), (None, None));
        assert!(text(&one).contains("\nGPU0\t X \t0-7\t\tN/A\t\tN/A\n"));
        // And one that tells no processors.
        let none = read("\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t\t0\t\tN/A\n").unwrap();
        assert_eq!((none.devices[0].cpus.clone(), none.devices[0].numa_node), (None, Some(0)));
        assert!(text(&none).contains("\nGPU0\t X \t\t0\t\tN/A\n"));
    }
}
