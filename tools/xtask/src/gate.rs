//! What must hold of the stand-in library as it is shipped.
use crate::{cargo, run, target};
use anyhow::{Context, Result, bail};
use cleave_cuda::{CUDA_TABLE, Decision, NVML_TABLE, rows};
use object::read::elf::{ElfFile64, FileHeader as _, SectionHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _, elf};
use std::collections::BTreeSet;

/// Largest size of the library in bytes: it is loaded into every process of a slice. A third of it is the names that
/// it must export.
const SIZE: u64 = 448 << 10;
/// Newest glibc whose symbols it may need.
const GLIBC: (u32, u32) = (2, 17);
/// What it may need of libc, all of it older than that.
const IMPORTS: [&str; 11] = [
    "bcmp",
    "clock_gettime",
    "dlopen",
    "dlsym",
    "environ",
    "memcpy",
    "memmove",
    "memset",
    "setenv",
    "strlen",
    "memcmp",
];

/// Builds the library (a reachable panic fails the link) and checks it.
pub fn check() -> Result<()> {
    run(cargo().args(["build", "--profile", "shim", "--package", "cleave-shim"]))?;
    let path = target().join("shim/libcleave_shim.so");
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let size = bytes.len() as u64;
    if size > SIZE {
        bail!("{} has {size} bytes; the gate is {SIZE}", path.display());
    }
    let file = ElfFile64::<Endianness>::parse(bytes.as_slice())?;

    let wanted: BTreeSet<_> = rows(CUDA_TABLE)
        .chain(rows(NVML_TABLE))
        .flatten()
        .filter(|row| row.decision != Decision::Omit)
        .map(|row| row.symbol.to_owned())
        .collect();
    let (mut exported, mut imported) = (BTreeSet::new(), BTreeSet::new());
    for symbol in file.dynamic_symbols() {
        let name = symbol.name()?.to_owned();
        if symbol.is_undefined() { &mut imported } else { &mut exported }.insert(name);
    }
    let missing: Vec<_> = wanted.difference(&exported).collect();
    let surplus: Vec<_> = exported.difference(&wanted).collect();
    if !missing.is_empty() || !surplus.is_empty() {
        bail!("exports differ from the tables: missing {missing:?}, surplus {surplus:?}");
    }
    let foreign: Vec<_> =
        imported.iter().filter(|name| !name.is_empty() && !IMPORTS.contains(&name.as_str())).collect();
    if !foreign.is_empty() {
        bail!("the library needs {foreign:?} of libc; the gate allows {IMPORTS:?}");
    }
    let newest = newest_glibc(&file)?;
    if newest > GLIBC {
        bail!("the library needs glibc {}.{}; the floor is {}.{}", newest.0, newest.1, GLIBC.0, GLIBC.1);
    }
    println!(
        "stand-in: {size} bytes, {} exports, {} imports, glibc {}.{}, no reachable panic",
        exported.len(),
        imported.len(),
        newest.0,
        newest.1
    );
    Ok(())
}

fn newest_glibc(file: &ElfFile64<'_, Endianness>) -> Result<(u32, u32)> {
    let endian = file.endian();
    let data = file.data();
    let header = file.elf_header();
    let sections = header.sections(endian, data)?;
    let mut newest = (0, 0);
    for section in sections.iter().filter(|section| section.sh_type(endian) == elf::SHT_GNU_VERNEED) {
        let Some((mut needs, link)) = section.gnu_verneed(endian, data)? else { continue };
        let strings = sections.strings(endian, data, link)?;
        while let Some((_, mut versions)) = needs.next()? {
            while let Some(version) = versions.next()? {
                let name =
                    strings.get(version.vna_name.get(endian)).ok().and_then(|name| std::str::from_utf8(name).ok());
                let Some(number) = name.and_then(|name| name.strip_prefix("GLIBC_")) else {
                    bail!("the library needs {name:?}, which is not glibc's");
                };
                let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
                newest = newest.max((parts.next().unwrap_or(u32::MAX), parts.next().unwrap_or(0)));
            }
        }
    }
    Ok(newest)
}
