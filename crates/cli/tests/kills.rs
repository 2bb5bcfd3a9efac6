//! Programs killed at any moment leave nothing behind: `tests/gpu/churn.c` on a simulated H100.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{MIB, PATIENCE, Place, number, within};
use std::io::Read;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const QUOTA_MIB: u64 = 16 << 10;
const AT_ONCE: usize = 8;

/// A number from a number, as random as this needs (splitmix64).
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `CLEAVE_TEST_KILLS` (100) says how many, `CLEAVE_TEST_SEED` (1) which moments.
#[test]
fn killed_programs_leave_nothing_behind() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = setting("CLEAVE_TEST_KILLS").unwrap_or(100) as usize;
    let seed = setting("CLEAVE_TEST_SEED").unwrap_or(1) << 32;
    let place = Place::new("1xH100");
    let churn = place.compile("churn.c").display().to_string();
    let escape = place.compile("escape.c").display().to_string();
    place.ok(&["slice", "create", "--memory", "16GiB", "--name", "a"]);

    let next = AtomicUsize::new(0);
    let ran = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if number >= kills as u64 {
                        return;
                    }
                    let dice = random(seed + number);
                    // The shell's process becomes the program's, so that the program is killed and no launcher; `cleave
                    // exec` ends as it did.
                    let script = "echo $$; exec \"$@\"";
                    let arguments =
                        ["exec", "a", "--", "sh", "-c", script, "sh", &churn, "wild", &number.to_string(), "1024"];
                    let mut command = place.cleave(&arguments);
                    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
                    let mut said = child.stdout.take().unwrap();
                    // Its number, an S when it begins, an R when it allocates and frees. Half of them are killed on the
                    // way there, the others some time after.
                    let mut text = String::new();
                    let until = [b'\n', b'S', b'R', b'R'][dice as usize % 4];
                    let mut byte = [0];
                    while said.read(&mut byte).unwrap() == 1 {
                        text.push(byte[0].into());
                        if byte[0] == until {
                            break;
                        }
                    }
                    assert!(text.as_bytes().contains(&until), "it ended alone after {text:?}");
                    ran.fetch_add(usize::from(until == b'R'), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(random(dice) % 50_000));
                    let pid = text.lines().next().and_then(|pid| pid.parse::<i32>().ok()).unwrap();
                    let pid = rustix::process::Pid::from_raw(pid).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                    let status = child.wait().unwrap();
                    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
                }
            });
        }
    });
    assert!(ran.load(Ordering::Relaxed) > 0 || kills < 20, "none came as far as allocating");

    within(PATIENCE, "the slice is empty", || place.is_empty("a") && place.card_used() == 0);
    assert!(place.json(&["ps", "a"])["items"].as_array().unwrap().is_empty());
    let peak = number(&place.show("a")["devices"][0]["peak_bytes"]);
    assert!(peak <= QUOTA_MIB * MIB, "{peak} at one time");
    // All of it can be had again, to the last piece.
    let mut program = place.start("a", &[&escape, "alloc", "--step", "4", "--ask", "20480", "--hold"]);
    let said = program.line();
    let context = number(&place.json(&["gpus"])["items"][0]["context_bytes"]);
    let room = (QUOTA_MIB * MIB - context) / MIB;
    assert_eq!(said["error"], 2, "{said}");
    let got = number(&said["got_mib"]);
    assert!(got <= room && got + 8 >= room, "{said}: {room} MiB of room");
    program.end();
    within(PATIENCE, "the slice is empty again", || place.is_empty("a"));
}

/// `cleave run` itself, killed at any moment of its way to the program: no slice stays.
#[test]
fn killed_launchers_leave_no_slice() {
    let place = Place::new("1xH100");
    // Keeps the daemon, and gives every run the same way to go.
    place.ok(&["slice", "create", "--memory", "1GiB", "--name", "keeper"]);
    let made = || {
        let events = place.json(&["events"])["items"].as_array().unwrap().clone();
        events.iter().filter(|event| event["kind"] == "slice-created").count()
    };
    for number in 0..40 {
        let before = made();
        let mut run = place.cleave(&["run", "--memory", "1GiB", "--", "sleep", "1"]).spawn().unwrap();
        if number % 4 == 0 {
            within(PATIENCE, "it has its slice", || made() > before);
        } else {
            std::thread::sleep(Duration::from_micros(random(number) % 20_000));
        }
        run.kill().unwrap();
        run.wait().unwrap();
    }
    within(PATIENCE, "only the first is left", || place.slices().len() == 1);
    within(PATIENCE, "nothing of the launchers is left", || !any_process(&place, "internal-first"));
}

/// Whether a process of this place runs that has `word` as an argument.
fn any_process(place: &Place, word: &str) -> bool {
    let holds = |file: std::path::PathBuf, part: &str| {
        let bytes = std::fs::read(file).unwrap_or_default();
        bytes.split(|byte| *byte == 0).any(|entry| String::from_utf8_lossy(entry).contains(part))
    };
    let run_dir = place.run_dir().display().to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .any(|process| holds(process.path().join("cmdline"), word) && holds(process.path().join("environ"), &run_dir))
}
