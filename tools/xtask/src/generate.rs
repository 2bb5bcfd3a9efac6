//! Writes `crates/shim/src/generated.rs` from the tables of `crates/cuda`.
use anyhow::{Result, anyhow, bail};
use cleave_cuda::{CUDA_TABLE, Decision, Entry, NVML_TABLE, classes, rows};
use std::fmt::Write as _;
use std::path::PathBuf;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crates/shim/src/generated.rs")
}

/// Writes the file.
pub fn write() -> Result<()> {
    std::fs::write(path(), text()?)?;
    Ok(())
}

/// Fails if the file is not what the tables say.
pub fn check() -> Result<()> {
    if std::fs::read_to_string(path())? != text()? {
        bail!("crates/shim/src/generated.rs is not what crates/cuda/table says: run `cargo xtask generate`");
    }
    Ok(())
}

fn read(table: &'static str) -> Result<Vec<Entry<'static>>> {
    let all: Result<Vec<_>, _> = rows(table).collect();
    let mut all = all.map_err(|line| anyhow!("a row is undecided or malformed: {line:?}"))?;
    all.retain(|row| row.decision != Decision::Omit);
    Ok(all)
}

fn text() -> Result<String> {
    let cuda = read(CUDA_TABLE)?;
    let nvml = read(NVML_TABLE)?;
    let all: Vec<_> = cuda.iter().chain(&nvml).collect();
    let mut out = String::from(
        "//! What `cargo xtask generate` makes of `crates/cuda/table`: do not edit.\n\
         //!\n\
         //! Every exported name has a number, a place for the real entry point, and an export: a hook of ours, a jump to\n\
         //! the real entry point, or a refusal.\n",
    );
    writeln!(
        out,
        "use crate::real::{{enter, pass, refuse}};\nuse cleave_ledger::KernelClass;\nuse core::ffi::c_void;\n"
    )?;
    writeln!(out, "/// Number of names.\npub const COUNT: usize = {};", all.len())?;
    writeln!(
        out,
        "/// Names below this one are the CUDA driver's, the others NVML's.\npub const CUDA_COUNT: usize = {};\n",
        cuda.len()
    )?;

    let mut names = String::new();
    let mut offsets = Vec::new();
    for row in &all {
        offsets.push(names.len());
        names.push_str(row.symbol);
        names.push('\0');
    }
    if names.len() > usize::from(u16::MAX) {
        bail!("the names no longer fit 16-bit offsets");
    }
    writeln!(
        out,
        "/// The names, each ended by a zero.\n#[rustfmt::skip]\npub static NAMES: &[u8] = b\"{}\";\n",
        names.replace('\0', "\\0")
    )?;
    writeln!(out, "/// Where each name starts.\n#[rustfmt::skip]\npub static OFFSETS: [u16; COUNT] = {offsets:?};\n")?;

    writeln!(
        out,
        "/// The numbers of the hooked names.\n#[allow(non_upper_case_globals, missing_docs)]\npub mod index {{"
    )?;
    for (number, row) in all.iter().enumerate() {
        if row.decision == Decision::Hook {
            writeln!(out, "    pub const {}: usize = {number};", row.symbol)?;
        }
    }
    writeln!(out, "}}\n")?;

    let (always, parted) = ([Decision::Hook, Decision::Refuse], [Decision::Enter]);
    for (name, who, decisions) in
        [("REPLACED", "to anybody", &always[..]), ("ENTERED", "to who has multiprocessors of its own", &parted[..])]
    {
        let rows: Vec<_> = cuda.iter().enumerate().filter(|(_, row)| decisions.contains(&row.decision)).collect();
        writeln!(out, "/// The CUDA names that must not be handed out {who} as they are: number and export.")?;
        writeln!(out, "pub static {name}: [(u16, Export); {}] = [", rows.len())?;
        for (number, row) in &rows {
            let module = if row.decision == Decision::Hook { "crate::hooks::" } else { "" };
            writeln!(out, "    ({number}, Export({module}{} as *const c_void)),", row.symbol)?;
        }
        writeln!(out, "];\n")?;
    }
    writeln!(
        out,
        "/// Base names of the calls that take memory: a variant of one of these that is not in the table is refused."
    )?;
    let mut guarded: Vec<_> = cuda
        .iter()
        .filter(|r| r.decision == Decision::Hook && r.reason.starts_with("charges"))
        .map(|r| base(r.symbol))
        .collect();
    guarded.dedup();
    writeln!(
        out,
        "#[rustfmt::skip]\npub static GUARDED: &[&[u8]] = &[{}];\n",
        guarded.iter().map(|n| format!("b\"{n}\"")).collect::<Vec<_>>().join(", ")
    )?;
    writeln!(out, "/// Parts of kernels' names, and their classes: the first that fits counts.\n#[rustfmt::skip]")?;
    writeln!(out, "pub static KERNELS: &[(&[u8], KernelClass)] = &[")?;
    for (part, class) in classes() {
        let (first, rest) = class.split_at(1);
        writeln!(out, "    (b\"{part}\", KernelClass::{}{rest}),", first.to_uppercase())?;
    }
    writeln!(out, "];\n")?;
    writeln!(out, "/// Address of an export.\n#[repr(transparent)]\npub struct Export(pub *const c_void);\n")?;
    writeln!(out, "// SAFETY: an address of code, never written through.\nunsafe impl Sync for Export {{}}\n")?;
    for (number, row) in all.iter().enumerate() {
        match row.decision {
            Decision::Pass => writeln!(out, "pass!({}, {number});", row.symbol)?,
            Decision::Enter => writeln!(out, "enter!({}, {number});", row.symbol)?,
            Decision::Refuse => {
                writeln!(out, "refuse!({}, {});", row.symbol, if number < cuda.len() { 800 } else { 4 })?
            }
            Decision::Hook | Decision::Omit => {}
        }
    }
    Ok(out)
}

fn base(symbol: &str) -> &str {
    let symbol = symbol.strip_suffix("_ptsz").or(symbol.strip_suffix("_ptds")).unwrap_or(symbol);
    match symbol.rsplit_once("_v") {
        Some((name, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => symbol,
    }
}
