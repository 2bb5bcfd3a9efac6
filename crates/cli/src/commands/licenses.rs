//! `cleave licenses`: what is built into this binary, and under which licences.
use super::Context;
use crate::client::Result;
use crate::output::{self, Format, table};
use cleave_api::{ErrorBody, ErrorCode, List};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Kept true by `tests/licenses.rs`, which makes it from Cargo's own records.
const THIRD_PARTY: &str = include_str!("../../third-party.json");

/// A library that is built in.
#[derive(Serialize, Deserialize)]
struct Library {
    name: String,
    version: String,
    license: String,
}

/// Lists the libraries; with `sbom`, as a CycloneDX document.
pub(crate) fn list(context: &Context, sbom: bool) -> Result<i32> {
    let libraries: Vec<Library> = serde_json::from_str(THIRD_PARTY)
        .map_err(|e| ErrorBody::new(ErrorCode::Internal, format!("the list of libraries is malformed: {e}"), ""))?;
    if sbom {
        let format = if context.format == Format::Table { Format::Json } else { context.format };
        output::print(format, &cyclonedx(&libraries), String::new)?;
        return Ok(0);
    }
    let libraries = List::new("licenses", libraries);
    output::print(context.format, &libraries, || {
        let rows = libraries.items.iter().map(|l| vec![l.name.clone(), l.version.clone(), l.license.clone()]);
        let rows = table(&["LIBRARY", "VERSION", "LICENCE"], rows.collect());
        format!("cleave {} is under Apache-2.0, and has built in:\n\n{rows}", env!("CARGO_PKG_VERSION"))
    })?;
    Ok(0)
}

fn cyclonedx(libraries: &[Library]) -> serde_json::Value {
    let component = |kind: &str, name: &str, version: &str, license: &str| {
        let purl = format!("pkg:cargo/{name}@{version}");
        json!({
            "type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "licenses": [{ "expression": license }],
        })
    };
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component("application", "cleave", env!("CARGO_PKG_VERSION"), "Apache-2.0") },
        "components": libraries.iter().map(|l| component("library", &l.name, &l.version, &l.license)).collect::<Vec<_>>(),
    })
}
