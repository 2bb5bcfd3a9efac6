//! What `nvidia-smi topo -m` printed on real machines is read and printed again, equal.
use cleave_api::Inventory;
use cleave_inventory::matrix::{best, read, text};

const FILES: [(&str, &str); 10] = [
    ("dgx-a100", include_str!("topo/dgx-a100.txt")),
    ("hgx-h100", include_str!("topo/hgx-h100.txt")),
    ("hgx-h20", include_str!("topo/hgx-h20.txt")),
    ("gb200", include_str!("topo/gb200.txt")),
    ("pcie-paths", include_str!("topo/pcie-paths.txt")),
    ("pcie-8x4090", include_str!("topo/pcie-8x4090.txt")),
    ("pcie-6", include_str!("topo/pcie-6.txt")),
    ("pcie-5", include_str!("topo/pcie-5.txt")),
    ("pcie-2x5090", include_str!("topo/pcie-2x5090.txt")),
    ("a6000-bridge", include_str!("topo/a6000-bridge.txt")),
];

fn file(name: &str) -> &'static str {
    FILES.iter().find(|(known, _)| *known == name).unwrap().1
}

fn inventory(name: &str) -> Inventory {
    read(file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// As a terminal draws it: without the underlining, tabs to every eighth column, nothing at line ends.
fn drawn(text: &str) -> Vec<String> {
    let plain = text.replace("\x1b[4m", "").replace("\x1b[0m", "");
    let line = |line: &str| {
        let mut out = String::new();
        for c in line.chars() {
            match c {
                '\t' => out.push_str(&" ".repeat(8 - out.chars().count() % 8)),
                c => out.push(c),
            }
        }
        out.trim_end().to_owned()
    };
    plain.trim_end().lines().map(line).collect()
}

#[test]
fn what_was_read_is_printed_again() {
    for (name, original) in FILES {
        let printed = text(&inventory(name));
        let (mut wanted, mut found) = (drawn(original), drawn(&printed));
        let matrix = wanted.iter().position(|line| line.is_empty()).unwrap_or(wanted.len());
        match name {
            // Printed by a driver that had no third column.
            "a6000-bridge" => {
                assert_eq!(found[0].replace("   GPU NUMA ID", ""), wanted[0]);
                for (found, wanted) in found[1..matrix].iter().zip(&wanted[1..matrix]) {
                    assert_eq!(found.strip_suffix("N/A").unwrap().trim_end(), wanted, "{name}");
                }
                continue;
            }
            // `topo -mp` has no NVLink in its legend.
            "pcie-paths" => found.retain(|line| !line.starts_with("  NV#")),
            _ => {}
        }
        if matrix == wanted.len() {
            found.truncate(matrix);
        }
        assert_eq!(found.len(), wanted.len(), "{name}: {printed}");
        for (found, wanted) in found.iter().zip(wanted.drain(..)) {
            assert_eq!(*found, wanted, "{name}");
        }
    }
}

/// Where the text came as the driver wrote it, the very bytes are the same.
#[test]
fn tabs_are_where_they_were() {
    for name in ["hgx-h100", "pcie-2x5090"] {
        let printed = text(&inventory(name)).replace("\x1b[4m", "").replace("\x1b[0m", "");
        assert_eq!(printed, file(name), "{name}");
    }
}

#[test]
fn a_matrix_is_read_whole() {
    let h100 = inventory("hgx-h100");
    assert_eq!((h100.devices.len(), h100.nics.len(), h100.numa.len()), (8, 12, 2));
    assert_eq!(h100.pairs.len(), 20 * 19 / 2);
    assert_eq!(h100.nics[10].name, "mlx5_10");
    assert_eq!(h100.numa[1].cpus, "56-111,168-223");
    assert_eq!(h100.devices[7].numa_node, Some(1));
    let a100 = inventory("dgx-a100");
    let nodes: Vec<_> = a100.devices.iter().map(|device| device.numa_node.unwrap()).collect();
    assert_eq!(nodes, [3, 3, 1, 1, 7, 7, 5, 5]);
}

/// B3, B4, B5: the pair, the four, and the processors near them.
#[test]
fn groups_are_chosen_on_real_machines() {
    let chosen = |name: &str, size: usize| {
        let found = best(&inventory(name), size);
        let (group, cpus) = found.into_iter().next().unwrap();
        (group.members, group.links.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), cpus.to_string())
    };
    let row = |members: &[usize], links: &str, cpus: &str| (members.to_vec(), links.to_owned(), cpus.to_owned());
    assert_eq!(chosen("dgx-a100", 2), row(&[0, 1], "NV12", "48-63,176-191"));
    assert_eq!(chosen("a6000-bridge", 2), row(&[0, 1], "NV4", "0-31,64-95"));
    assert_eq!(chosen("pcie-6", 2), row(&[0, 1], "PIX", "0-23,48-71"));
    assert_eq!(chosen("pcie-6", 4), row(&[0, 1, 2, 3], "NODE NODE NODE NODE PIX PIX", "0-23,48-71"));
    assert_eq!(chosen("pcie-5", 2), row(&[1, 2], "PHB", "0-7,16-23"));
    assert_eq!(chosen("pcie-5", 3).0, [1, 2, 3]);
    assert_eq!(chosen("pcie-paths", 4), row(&[0, 1, 2, 3], "NODE NODE NODE NODE NODE NODE", "0,2,4,6,8,10"));
    assert_eq!(chosen("pcie-8x4090", 2).1, "SYS");
    assert_eq!(best(&inventory("hgx-h100"), 4).len(), 70);
}
