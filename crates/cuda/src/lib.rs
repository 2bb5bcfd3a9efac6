//! The CUDA driver's and NVML's ABI as data.
//!
//! `table/cuda.tsv` and `table/nvml.tsv` hold one row for every name that the real libraries export: the decision
//! ([`Decision`]) and its reason. Everything that must agree about these names is made from the two files: the
//! stand-in library's exports, the simulated driver's exports, and the check that no name is undecided.
//! `table/classes.tsv` tells by its name what a kernel does.
//!
//! This crate uses nothing, not even `std`, so that the injected library can use it.
#![no_std]

pub mod types;

/// What the stand-in library does with a call of an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Runs code of ours around the real entry point.
    Hook,
    /// Jumps to the real entry point with every register and the stack as the caller left them.
    Pass,
    /// As [`Pass`](Self::Pass), but where the process has multiprocessors of its own, in the context of those: what it asks
    /// for is done where the calling thread's context says.
    Enter,
    /// Returns the library's own "not permitted" error.
    Refuse,
    /// Is not exported: the name is no part of the API that programs use.
    Omit,
}

/// One row of a table: an exported name, what is done with it, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The exported symbol, ABI suffixes (`_v2`, `_ptsz`, `_ptds`) included.
    pub symbol: &'a str,
    /// What the stand-in does with it.
    pub decision: Decision,
    /// Why, in a few words.
    pub reason: &'a str,
}

/// The CUDA driver's rows, as shipped.
pub const CUDA_TABLE: &str = include_str!("../table/cuda.tsv");
/// NVML's rows, as shipped.
pub const NVML_TABLE: &str = include_str!("../table/nvml.tsv");

/// Classes of kernels, as shipped.
pub const CLASSES: &str = include_str!("../table/classes.tsv");

/// The rows of [`CLASSES`] in their order: a part of a kernel's name, mangled or not, and the class of a kernel that has it.
pub fn classes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = CLASSES.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.filter_map(|line| {
        let mut columns = line.split('\t');
        Some((columns.next()?, columns.next()?))
    })
}

/// The class of the first of `rows` that is a part of `name`.
pub fn class_of<'a, T>(name: &[u8], rows: impl IntoIterator<Item = (&'a [u8], T)>) -> Option<T> {
    let has = |part: &[u8]| {
        let starts = |rest: &[u8]| rest.first() == part.first() && rest.starts_with(part);
        (0..name.len()).any(|at| name.get(at..).is_some_and(starts))
    };
    rows.into_iter().find_map(|(part, class)| has(part).then_some(class))
}

/// Reads a table: comments start with `#`, the first other line is the header, columns are separated by one tab.
/// A row that is malformed or undecided comes back as `Err` with its text.
pub fn rows(table: &str) -> impl Iterator<Item = Result<Entry<'_>, &str>> {
    table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).skip(1).map(|line| {
        let mut columns = line.split('\t');
        let (Some(symbol), Some(decision), Some(reason), None) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        else {
            return Err(line);
        };
        let decision = match decision {
            "hook" => Decision::Hook,
            "pass" => Decision::Pass,
            "enter" => Decision::Enter,
            "refuse" => Decision::Refuse,
            "omit" => Decision::Omit,
            _ => return Err(line),
        };
        if symbol.is_empty() || reason.is_empty() {
            return Err(line);
        }
        Ok(Entry { symbol, decision, reason })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_decided_and_sorted_and_there_once() {
        for table in [CUDA_TABLE, NVML_TABLE] {
            let mut last = "";
            for row in rows(table) {
                let row = row.unwrap_or_else(|line| panic!("undecided or malformed row: {line:?}"));
                assert!(row.symbol > last, "{} must come once, after {last}", row.symbol);
                last = row.symbol;
            }
        }
    }

    fn class(name: &str) -> &'static str {
        class_of(name.as_bytes(), classes().map(|(part, class)| (part.as_bytes(), class))).unwrap_or("other")
    }

    #[test]
    fn a28_kernels_are_classed_by_their_names() {
        let corpus = || include_str!("../tests/kernels.tsv").lines().skip(2).filter_map(|line| line.split_once('\t'));
        for (name, expected) in corpus() {
            assert_eq!(class(name), expected, "{name}");
        }
        assert!(corpus().count() >= 60);
        for (number, (part, _)) in classes().enumerate() {
            let first = |name: &str| classes().position(|(part, _)| name.contains(part));
            assert!(corpus().any(|(name, _)| first(name) == Some(number)), "no name in the corpus is told by {part}");
        }
    }

    #[test]
    fn every_class_of_a_kernel_has_a_reason_and_a_source() {
        for line in CLASSES.lines().filter(|line| !line.starts_with('#')).skip(1) {
            let columns = line.split('\t');
            assert!(columns.clone().count() == 4 && columns.clone().all(|column| !column.is_empty()), "{line:?}");
            let class = columns.clone().nth(1);
            assert!(matches!(class, Some("collective" | "latency" | "throughput" | "copy")), "{line:?}");
        }
    }

    #[test]
    fn a_row_without_decision_or_reason_is_an_error() {
        for bad in ["cuFoo\t\twhy", "cuFoo\thook\t", "cuFoo\thook", "cuFoo\tmaybe\twhy", "cuFoo\thook\twhy\tmore"] {
            let table = ["symbol\tdecision\treason", bad].join("\n");
            assert_eq!(rows(&table).next(), Some(Err(bad)));
        }
    }
}
