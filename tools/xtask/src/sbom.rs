//! The bill of materials of the binary: every crate that is linked into it, with version, source and licence.
use crate::{cargo, root};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// Prints it as CycloneDX 1.5 JSON. Fails if a part has no licence.
pub fn print() -> Result<()> {
    println!("{:#}", make()?);
    Ok(())
}

fn make() -> Result<Value> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let output = cargo().args(arguments).current_dir(root()).output()?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: HashMap<_, _> = list(&metadata["packages"]).into_iter().map(|p| (text(&p["id"]), p)).collect();
    let nodes: HashMap<_, _> = list(&metadata["resolve"]["nodes"]).into_iter().map(|n| (text(&n["id"]), n)).collect();
    let start = packages.values().find(|p| p["name"] == "cleave").context("there is no package `cleave`")?;

    // What is reached through ordinary dependencies is linked in; what only builds or tests is not.
    let (mut linked, mut next) = (BTreeSet::new(), vec![text(&start["id"])]);
    while let Some(id) = next.pop() {
        if linked.insert(id.clone()) {
            for dependency in list(&nodes.get(&id).context("cargo's graph lacks a node")?["deps"]) {
                if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                    next.push(text(&dependency["pkg"]));
                }
            }
        }
    }
    let mut components = Vec::new();
    for package in linked.iter().filter_map(|id| packages.get(id)) {
        let (name, version, licence) = (text(&package["name"]), text(&package["version"]), text(&package["license"]));
        if licence.is_empty() {
            bail!("{name} {version} names no licence");
        }
        components.push(json!({
            "type": "library", "name": name, "version": version, "purl": format!("pkg:cargo/{name}@{version}"),
            "licenses": [{ "expression": licence }],
        }));
    }
    components.sort_by_key(|component| component["purl"].to_string());
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": { "type": "application", "name": "cleave", "version": start["version"] } },
        "components": components,
    }))
}

#[cfg(test)]
mod tests {
    /// G13: no part of the binary asks for a licence fee; each is named with its licence.
    #[test]
    fn every_part_of_the_binary_has_a_licence() {
        let bill = super::make().unwrap();
        let parts = bill["components"].as_array().unwrap();
        assert!(parts.iter().any(|part| part["name"] == "cleave-ledger"), "{bill:#}");
        assert!(parts.len() > 5);
        assert!(std::fs::read_to_string(crate::root().join("LICENSE")).unwrap().contains("Apache License"));
    }
}
