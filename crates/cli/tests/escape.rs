//! Every path of the driver by which a program gets memory, in a slice of 8 GiB on a simulated H100: `tests/gpu/escape.c`.
//!
//! `tests/gpu/escape.py` asks the same of a real card. Here it is about the stand-in: that each door is guarded, and that
//! the charge is right and goes away.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Held, MIB, PATIENCE, Place, number, within};
use std::collections::BTreeSet;

const QUOTA_MIB: u64 = 8192;
const OUT_OF_MEMORY: u64 = 2;
const NOT_SUPPORTED: u64 = 801;

/// What a path must end with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Refused with error 2; what was got lies between half of the quota and the quota less the context.
    Refused,
    /// Likewise, but what the program counts is not what it costs: what the card and the ledger say is all that counts.
    RefusedByCost,
    /// Refused at once.
    RefusedWhole,
    /// The simulated driver has the call but no cost of it.
    NotSimulated,
    /// The simulated driver answers 801.
    Unsupported,
    /// Pinned host memory: without a limit of its own here.
    Host,
    /// Pinned host memory that is let go of in each step.
    HostAgain,
    /// Half of what is asked for, and a refusal.
    Half,
    /// Needs two processes or GPUs: has a test of its own.
    Pair,
}

/// Every path of escape.c.
const PATHS: [(&str, End); 50] = [
    ("alloc", End::Refused),
    ("pitch", End::Refused),
    ("managed", End::Refused),
    ("async", End::Refused),
    ("async-other", End::Refused),
    ("pool", End::Refused),
    ("pool-hoard", End::Refused),
    ("pool-host", End::Host),
    ("create", End::Refused),
    ("create-release", End::Refused),
    ("create-unmap", End::Refused),
    ("create-export", End::Refused),
    ("create-export-twice", End::Refused),
    ("create-reimport", End::Refused),
    ("array", End::Refused),
    ("array-compressed", End::Refused),
    ("array3d", End::Refused),
    ("mipmap", End::Refused),
    ("graph-node", End::Refused),
    ("capture", End::Refused),
    ("host", End::Host),
    ("hostalloc", End::Host),
    ("hostregister", End::Host),
    ("host-reset", End::HostAgain),
    ("v1-alloc", End::Unsupported),
    ("v1-pitch", End::Unsupported),
    ("v1-array", End::Unsupported),
    ("module", End::Refused),
    ("module-file", End::Refused),
    ("library", End::Refused),
    // The first KiB of each thread comes with the context, and is counted by the program once more.
    ("stack", End::RefusedByCost),
    ("heap", End::RefusedWhole),
    ("heap-beside", End::Refused),
    ("printf", End::NotSimulated),
    ("local", End::RefusedByCost),
    ("stack-again", End::Half),
    ("local-again", End::Half),
    ("graph-local", End::RefusedByCost),
    ("graph-context", End::Half),
    ("graph-set", End::RefusedByCost),
    ("graph-update", End::RefusedByCost),
    ("contexts", End::RefusedByCost),
    ("context-stacks", End::RefusedByCost),
    ("context-kernels", End::RefusedByCost),
    ("gpu-kernels", End::Pair),
    ("threads", End::Refused),
    ("ipc-export", End::Pair),
    ("ipc-import", End::Pair),
    ("vmm-export", End::Pair),
    ("vmm-import", End::Pair),
];

/// A place with escape.c and a slice `a` of 8 GiB; and the bytes of a context.
struct Card {
    place: Place,
    escape: String,
    context: u64,
}

impl Card {
    fn new() -> Self {
        let place = Place::new("1xH100");
        let escape = place.compile("escape.c").display().to_string();
        place.ok(&["slice", "create", "--memory", "8GiB", "--name", "a"]);
        let context = number(&place.json(&["gpus"])["items"][0]["context_bytes"]);
        assert!(context > 256 * MIB, "{context}");
        Self { place, escape, context }
    }

    fn start(&self, arguments: &[&str]) -> Held {
        self.place.start("a", &[&[self.escape.as_str()], arguments, &["--hold"]].concat())
    }

    /// That neither the card nor the ledger say more than the quota, and that the ledger has at least `got` and a context.
    fn is_within(&self, what: &str, got_mib: u64) {
        let quota = QUOTA_MIB * MIB;
        let (used, card) = (self.place.used("a").0, self.place.card_used());
        assert!(used <= quota && card <= quota, "{what}: {used} charged, {card} used of {quota}");
        assert!(used >= got_mib * MIB + self.context, "{what}: {used} charged for {got_mib} MiB and a context");
        let peak = number(&self.place.show("a")["devices"][0]["peak_bytes"]);
        assert!(peak <= quota, "{what}: {peak} charged at one time");
    }

    fn settles(&self, what: &str) {
        within(PATIENCE, what, || self.place.is_empty("a") && self.place.card_used() == 0);
    }

    /// Runs one program and sees that it is refused as it should be.
    fn is_refused(&self, arguments: &[&str]) {
        let mut program = self.start(arguments);
        let said = program.line();
        let (got, error) = (number(&said["got_mib"]), number(&said["error"]));
        assert_eq!(error, OUT_OF_MEMORY, "{said}");
        assert!(got + self.context / MIB <= QUOTA_MIB && got >= QUOTA_MIB / 2, "{said}");
        assert_eq!(number(&said["info_total_mib"]), QUOTA_MIB, "{said}");
        self.is_within(&said.to_string(), got);
        program.end();
        self.settles(&said.to_string());
    }
}

#[test]
fn every_path_of_the_table_is_known_here() {
    let source = include_str!("../../../tests/gpu/escape.c");
    let table = source.split_once("} PATHS[] = {").unwrap().1.split_once("};").unwrap().0;
    let there: BTreeSet<&str> = table.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!(there, PATHS.iter().map(|(name, _)| *name).collect());
}

#[test]
fn no_path_leads_past_the_quota() {
    let card = Card::new();
    for (path, end) in PATHS {
        match end {
            End::Pair => continue,
            End::Refused => card.is_refused(&[path]),
            _ => {
                let mut program = card.start(&[path]);
                let said = program.line();
                let (got, error) = (number(&said["got_mib"]), number(&said["error"]));
                let asked = number(&said["asked_mib"]);
                match end {
                    End::RefusedByCost => assert_eq!(error, OUT_OF_MEMORY, "{said}"),
                    End::Half => assert_eq!((error, got), (OUT_OF_MEMORY, asked / 2), "{said}"),
                    End::RefusedWhole => assert_eq!((error, got), (OUT_OF_MEMORY, 0), "{said}"),
                    End::Unsupported => assert_eq!((error, got), (NOT_SUPPORTED, 0), "{said}"),
                    _ => assert_eq!((error, got), (0, asked), "{said}"),
                }
                card.is_within(&said.to_string(), 0);
                program.end();
                card.settles(path);
            }
        }
    }
}

#[test]
fn no_door_leads_past_the_quota() {
    let card = Card::new();
    for path in ["alloc", "async", "pool", "create", "array", "graph-node", "capture"] {
        for door in ["dlsym", "getproc", "ptsz"] {
            card.is_refused(&[path, "--via", door]);
        }
    }
    card.is_refused(&["ptsz-names"]);
    card.is_refused(&["alloc", "--lib", "libcuda.so"]);
    card.is_refused(&["threads", "--via", "ptsz"]);
}

#[test]
fn four_processes_share_one_quota() {
    let card = Card::new();
    let mut programs: Vec<_> = (0..4).map(|_| card.start(&["alloc", "--step", "64"])).collect();
    let (mut got, mut contexts) = (0, 0);
    for program in &mut programs {
        let said = program.line();
        assert_eq!(number(&said["error"]), OUT_OF_MEMORY, "{said}");
        got += number(&said["got_mib"]);
        // Who comes when the others have taken everything gets no context either.
        contexts += u64::from(said["failed_at"] == "MemAlloc");
    }
    let held = got + contexts * card.context / MIB;
    assert!(contexts > 0 && held <= QUOTA_MIB, "{got} MiB beside {contexts} contexts");
    // What is left has no room for another piece, or not for a context.
    assert!(held + card.context / MIB + 64 >= QUOTA_MIB, "{got} MiB beside {contexts} contexts");
    card.is_within("four", got);
    programs.into_iter().for_each(Held::end);
    card.settles("four");
}

#[test]
fn a_forked_child_is_held_beside_its_parent() {
    let card = Card::new();
    let mut program = card.start(&["fork", "--step", "64"]);
    let said = [program.line(), program.line()];
    assert_ne!(said[0]["pid"], said[1]["pid"]);
    // Whoever came late may not have got a context: that is refused in the same way.
    assert!(said.iter().all(|said| said["error"] == OUT_OF_MEMORY), "{said:?}");
    let got = said.iter().map(|said| number(&said["got_mib"])).sum::<u64>();
    assert!(got + card.context / MIB <= QUOTA_MIB && got >= QUOTA_MIB / 2, "{said:?}");
    card.is_within("fork", got);
    program.end();
    card.settles("fork");
}

#[test]
fn a_kernel_that_is_known_on_one_gpu_is_held_on_the_next() {
    let place = Place::new("2xH100");
    let escape = place.compile("escape.c").display().to_string();
    place.ok(&["slice", "create", "--memory", "8GiB", "--gpu", "0,1", "--name", "a"]);
    let mut program = place.start("a", &[escape.as_str(), "gpu-kernels", "--hold"]);
    let said = program.line();
    assert_eq!((&said["failed_at"], number(&said["error"])), (&"LaunchKernel".into(), OUT_OF_MEMORY), "{said}");
    assert_eq!(number(&said["got_mib"]), 6144, "{said}");
    program.end();
    within(PATIENCE, "gpu-kernels", || place.is_empty("a"));
}

#[test]
fn a_forked_child_that_only_frees_is_no_member() {
    let card = Card::new();
    let mut program = card.start(&["fork-free", "--ask", "256"]);
    let said = program.line();
    assert_eq!((number(&said["error"]), number(&said["got_mib"])), (0, 256), "{said}");
    let processes = card.place.show("a")["processes"].clone();
    assert_eq!(processes.as_array().unwrap().len(), 1, "{processes}");
    program.end();
    card.settles("fork-free");
}

/// Pinned host memory is held where the slice has a limit for it.
#[test]
fn pinned_memory_is_held_to_its_own_limit() {
    let card = Card::new();
    card.place.ok(&["slice", "create", "--memory", "8GiB", "--host-memory", "1GiB", "--name", "h"]);
    for (path, _) in PATHS.into_iter().filter(|(_, end)| *end == End::Host) {
        let arguments = [card.escape.as_str(), path, "--ask", "2048", "--step", "64", "--hold"];
        let mut program = card.place.start("h", &arguments);
        let said = program.line();
        assert_eq!((number(&said["error"]), number(&said["got_mib"])), (OUT_OF_MEMORY, 1024), "{said}");
        assert_eq!(card.place.used("h").1, 1024 * MIB, "{said}");
        program.end();
        within(PATIENCE, path, || card.place.is_empty("h"));
    }
    let mut program =
        card.place.start("h", &[card.escape.as_str(), "host-reset", "--ask", "2048", "--step", "64", "--hold"]);
    let said = program.line();
    assert_eq!((number(&said["error"]), number(&said["got_mib"])), (0, 2048), "{said}");
    assert_eq!(card.place.used("h").1, 0, "{said}");
}

/// A program with a copy of the driver's library under another name is no member of its slice, and is killed where the
/// slice says so.
#[test]
fn who_brings_a_driver_of_its_own_is_killed_where_the_slice_says_so() {
    let card = Card::new();
    card.place.ok(&["slice", "create", "--memory", "4GiB", "--name", "k", "--on-bypass", "kill"]);
    let mut member = card.place.start("k", &[&card.escape, "alloc", "--ask", "256", "--hold"]);
    assert_eq!(number(&member.line()["got_mib"]), 256);
    // A copy in the simulated driver's own folder, where it finds its card, under a name that nobody covers.
    let dir = card.place.json(&["status"])["driver"]["library_dir"].as_str().map(std::path::PathBuf::from).unwrap();
    let own = dir.join("own.so");
    std::fs::copy(dir.join("libcuda.so.1"), &own).unwrap();
    let bypass = [card.escape.as_str(), "alloc", "--ask", "256", "--hold", "--lib", own.to_str().unwrap()];
    let mut warned = card.place.start("a", &bypass);
    let mut doomed = card.place.start("k", &bypass);
    let pids = [warned.line(), doomed.line()].map(|said| {
        assert_eq!((number(&said["error"]), number(&said["got_mib"])), (0, 256), "{said}");
        number(&said["pid"])
    });
    let mut status = None;
    within(PATIENCE, "it is killed", || {
        status = doomed.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)), Some(9));
    let events = card.place.json(&["events"])["items"].as_array().unwrap().clone();
    let said = |pid: u64, word: &str| {
        let names = |text: &str| text.contains(&format!("(pid {pid})")) && text.contains(word);
        events.iter().any(|event| event["kind"] == "bypass" && names(event["message"].as_str().unwrap()))
    };
    assert!(said(pids[1], "was killed") && said(pids[0], "bypasses") && !said(pids[0], "was killed"), "{events:?}");
    // Neither one that is only reported, nor one that keeps to the quota.
    assert!(warned.child.try_wait().unwrap().is_none() && member.child.try_wait().unwrap().is_none());
    warned.end();
    member.end();
}

/// What one process of a slice exports, another may import or not; together they are held to the quota.
#[test]
fn exported_memory_does_not_lift_the_quota() {
    let card = Card::new();
    for kind in ["ipc", "vmm"] {
        let file = card.place.dir.path().join(kind).display().to_string();
        for ask in ["2048", "12288"] {
            let mut exporter = card.start(&[&format!("{kind}-export"), "--file", &file, "--ask", ask, "--step", "256"]);
            let made = exporter.line();
            let mut importer = card.start(&[&format!("{kind}-import"), "--file", &file, "--ask", ask, "--step", "256"]);
            let taken = importer.line();
            let both = format!("{made} {taken}");
            assert_eq!(number(&made["error"]) == OUT_OF_MEMORY, ask == "12288", "{both}");
            assert!(taken["error"] == OUT_OF_MEMORY || taken["got_mib"] == made["got_mib"], "{both}");
            card.is_within(&both, number(&made["got_mib"]));
            importer.end();
            exporter.end();
            card.settles(&both);
        }
    }
}
