//! G13: the list of what is built in is what Cargo says. `CLEAVE_UPDATE=1 cargo test -p cleave --test licenses` renews it.
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

fn built_in() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages: BTreeMap<&str, &Value> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (p["id"].as_str().unwrap(), p)).collect();
    let nodes: BTreeMap<&str, &Value> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|n| (n["id"].as_str().unwrap(), n)).collect();
    let mut open: Vec<&str> = packages.iter().filter(|(_, p)| p["name"] == "cleave").map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            // Neither what only tests use nor what only builds use is in the binary.
            if dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null()) {
                open.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    let mut libraries: Vec<Value> = seen
        .iter()
        .map(|id| packages[id])
        .filter(|package| !package["source"].is_null())
        .map(|p| json!({ "name": p["name"], "version": p["version"], "license": p["license"] }))
        .collect();
    libraries.sort_by_key(|l| (l["name"].to_string(), l["version"].to_string()));
    libraries
}

#[test]
fn the_list_of_what_is_built_in_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/third-party.json");
    let libraries = built_in();
    for library in &libraries {
        assert!(library["license"].is_string(), "{library} has no licence");
    }
    let text = format!("[\n{}\n]\n", libraries.iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join(",\n"));
    if std::env::var_os("CLEAVE_UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == text, "{path} is out of date: CLEAVE_UPDATE=1 cargo test -p cleave --test licenses renews it");
}

/// The licence is in the project and in what the tool prints, and the SBOM has every library of the list.
#[test]
fn the_licence_is_there_and_the_sbom_is_whole() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../LICENSE")).unwrap();
    assert!(text.contains("Apache License") && text.contains("Version 2.0, January 2004"));
    let cleave = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cleave")).args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(cleave(&["licenses"]).contains("Apache-2.0"));
    let sbom: Value = serde_json::from_str(&cleave(&["licenses", "--sbom"])).unwrap();
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
    assert_eq!(sbom["metadata"]["component"]["licenses"][0]["expression"], "Apache-2.0");
    let listed: Vec<(Value, Value, Value)> = sbom["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].clone(), c["version"].clone(), c["licenses"][0]["expression"].clone()))
        .collect();
    let built_in: Vec<_> =
        built_in().iter().map(|l| (l["name"].clone(), l["version"].clone(), l["license"].clone())).collect();
    assert_eq!(listed, built_in);
}
