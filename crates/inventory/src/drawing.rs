//! NUMA nodes as boxes, with what is on each.
use crate::matrix::{labels, links};
use cleave_api::{Inventory, NumaNode, Problem};
use cleave_policy::topology::{Link, Path};

/// Draws them at most `columns` wide: longer lines are cut.
pub fn boxes(inventory: &Inventory, columns: usize) -> String {
    let names = labels(inventory);
    let all = links(inventory, &names);
    let mut nodes: Vec<Option<&NumaNode>> = inventory.numa.iter().map(Some).collect();
    let placed = |node: Option<u32>| node.is_some_and(|id| inventory.numa.iter().any(|known| known.id == id));
    if inventory.devices.iter().any(|device| !placed(device.numa_node)) {
        nodes.push(None);
    }
    let on = |node: Option<&NumaNode>, at: Option<u32>| match node {
        Some(node) => at == Some(node.id),
        None => !placed(at),
    };
    let mut drawn = Vec::new();
    for node in nodes {
        let mut lines = Vec::new();
        for (row, device) in inventory.devices.iter().enumerate().filter(|(_, device)| on(node, device.numa_node)) {
            let near = (inventory.devices.len()..names.len()).map(|nic| (all.get(row, nic), nic));
            let best = near.clone().map(|(link, _)| link).max().filter(|link| *link > far());
            let close: Vec<&str> =
                near.filter(|(link, _)| Some(*link) == best).filter_map(|(_, nic)| names.get(nic).copied()).collect();
            let close = best.map_or(String::new(), |link| format!("  {link} {}", close.join(",")));
            let pci = device.pci.as_deref().unwrap_or("");
            lines.push(format!("{}  {}  {pci}{close}", device.label, device.name).trim_end().to_owned());
        }
        for nic in inventory.nics.iter().filter(|nic| nic.label.is_some() && on(node, nic.numa_node)) {
            let rate = nic.rate_gbit_s.map_or(String::new(), |rate| format!("  {rate} Gbit/s"));
            lines.push(format!(
                "{}  {}  {}{rate}",
                nic.label.as_deref().unwrap_or(""),
                nic.name,
                nic.pci.as_deref().unwrap_or("")
            ));
        }
        // A node of a GPU's own memory says nothing by itself.
        if lines.is_empty() && node.is_some_and(|node| node.cpus.is_empty()) {
            continue;
        }
        let title = match node {
            Some(node) => {
                let memory = node.memory_bytes.map_or(String::new(), |bytes| format!(", {} GiB", bytes >> 30));
                format!(" NUMA {}: CPUs {}{memory} ", node.id, node.cpus)
            }
            None => " NUMA node not known ".into(),
        };
        drawn.push((title, lines));
    }
    let longest =
        drawn.iter().flat_map(|(title, lines)| lines.iter().chain([title])).map(|line| line.chars().count()).max();
    let width = longest.unwrap_or(0).min(columns.saturating_sub(4)).max(8);
    let cut = |line: &str| line.chars().take(width).collect::<String>();
    let mut out = String::new();
    for (title, lines) in drawn {
        let title = cut(&title);
        out.push_str(&format!("┌─{title}{}┐\n", "─".repeat(width + 1 - title.chars().count())));
        for line in lines {
            out.push_str(&format!("│ {:<width$} │\n", cut(&line)));
        }
        out.push_str(&format!("└{}┘\n", "─".repeat(width + 2)));
    }
    out
}

/// What is no nearer is not worth a word.
fn far() -> Link {
    Link { nvlinks: 0, path: Some(Path::Sys) }
}

/// Problems, a line each.
pub fn problems(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| format!("{}: {}", problem.about, problem.message)).collect()
}
