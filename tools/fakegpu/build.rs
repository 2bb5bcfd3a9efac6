//! Makes what the tables of `cleave-cuda` and `data/procs.tsv` determine: a stub for every exported name that
//! `src/` does not implement, and the table from names and versions to exported symbols that `cuGetProcAddress` uses.
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use cleave_cuda::{CUDA_TABLE, Decision, NVML_TABLE, rows};

fn main() {
    // The loader must know the file under the driver's own name, and our own references must never be captured by a
    // stand-in that is preloaded in front of us.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=data");
    println!("cargo:rerun-if-changed=fixtures");
    println!("cargo:rerun-if-changed=build.rs");

    let mut implemented = BTreeSet::new();
    scan(Path::new("src"), &mut implemented);

    let mut stubs = String::new();
    let mut declarations = String::new();
    let mut symbols = String::new();
    let mut exported = BTreeSet::new();
    for (table, library) in [(CUDA_TABLE, "cuda"), (NVML_TABLE, "nvml")] {
        for row in rows(table) {
            let row = row.unwrap_or_else(|line| panic!("malformed row in the {library} table: {line:?}"));
            if row.decision == Decision::Omit {
                continue;
            }
            let symbol = row.symbol;
            exported.insert(symbol.to_owned());
            if !implemented.contains(symbol) {
                writeln!(
                    stubs,
                    "/// `{symbol}`: not simulated.\n#[unsafe(no_mangle)]\npub extern \"C\" fn {symbol}() -> i32 {{\n    \
                     {library}(\"{symbol}\")\n}}"
                )
                .expect("writing to a string");
            }
            if library == "cuda" {
                writeln!(declarations, "    fn {symbol}();").expect("writing to a string");
                writeln!(symbols, "    (\"{symbol}\", {symbol}),").expect("writing to a string");
            }
        }
    }
    for name in &implemented {
        assert!(exported.contains(name), "{name} is implemented but is no row of the tables, or its row says omit");
    }

    let data = fs::read_to_string("data/procs.tsv").expect("data/procs.tsv");
    let mut procs = String::new();
    for line in data.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, version, flags, symbol] = columns[..] else { panic!("malformed row of data/procs.tsv: {line:?}") };
        assert!(exported.contains(symbol), "data/procs.tsv names {symbol}, which is not exported");
        writeln!(procs, "    (\"{name}\", {version}, {flags}, \"{symbol}\"),").expect("writing to a string");
    }

    let mut models = String::new();
    let mut fixtures: Vec<PathBuf> =
        fs::read_dir("fixtures").expect("fixtures").map(|entry| entry.expect("fixtures").path()).collect();
    fixtures.sort();
    for path in fixtures.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let path = fs::canonicalize(path).expect("fixtures");
        writeln!(models, "    include_str!({:?}),", path.to_str().expect("path is UTF-8"))
            .expect("writing to a string");
    }

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("stubs.rs"), stubs).expect("writing stubs.rs");
    fs::write(
        out.join("procs.rs"),
        format!(
            "unsafe extern \"C\" {{\n{declarations}}}\n/// Every exported symbol of the driver with its address, sorted by name.\n\
             pub static SYMBOLS: &[(&str, unsafe extern \"C\" fn())] = &[\n{symbols}];\n\
             /// Base name, first version, flags, symbol; sorted.\n\
             pub static PROCS: &[(&str, i32, u64, &str)] = &[\n{procs}];\n"
        ),
    )
    .expect("writing procs.rs");
    fs::write(
        out.join("models.rs"),
        format!("/// The fixtures, as shipped.\nstatic FIXTURES: &[&str] = &[\n{models}];\n"),
    )
    .expect("writing models.rs");
}

/// Collects the names of entry points that the sources define: `fn cuName` or `fn cuName | cuOther | …` before `(`.
fn scan(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("src") {
        let path = entry.expect("src").path();
        if path.is_dir() {
            scan(&path, names);
            continue;
        }
        let text = fs::read_to_string(&path).expect("source file");
        for (at, _) in text.match_indices("fn ") {
            let head = text[at + 3..].split('(').next().unwrap_or_default();
            if !(head.starts_with("cu") || head.starts_with("nvml")) {
                continue;
            }
            for name in head.split('|').map(str::trim) {
                let entry_point = name.strip_prefix("cu").or_else(|| name.strip_prefix("nvml"));
                if entry_point.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase())) {
                    assert!(names.insert(name.to_owned()), "{name} is defined twice");
                }
            }
        }
    }
}
