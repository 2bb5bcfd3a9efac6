//! `cleave fit` from its command line: no daemon, no GPU.
use std::process::{Command, Output};

fn fit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cleave")).arg("fit").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// C14.
#[test]
fn a_model_that_fits_and_one_that_does_not() {
    let output = fit(&["llama-3-8b", "--gpu", "A100-40", "-o", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let gb = |what: &str| json[what].as_f64().unwrap() / 1e9;
    assert!((15.0..16.1).contains(&gb("weights_bytes")) && (20.0..30.0).contains(&gb("total_bytes")), "{json}");
    assert_eq!(json["fits"], true);
    let output = fit(&["llama-3-8b", "--gpu", "T4"]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stdout);
    assert!(said.contains("does not fit; what would:") && said.contains("such GPUs"), "{said}");
    let output = fit(&["Qwen/Qwen3-235B-A22B", "--gpu", "H100", "--gpus", "8", "--dtype", "fp8", "--concurrency", "4"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn what_is_not_known_is_said() {
    for (arguments, code, words) in [
        (&["gpt-9", "--gpu", "H100"][..], 4, ["gpt-9", "llama-3-8b"]),
        (&["llama-3-8b", "--gpu", "H900"], 4, ["H900", "A100-40"]),
        (&["llama-3-8b", "--gpu", "H100", "--utilization", "1.5"], 2, ["1.5", "at most 1"]),
        (&["llama-3-8b", "--gpu", "H100", "--gpus", "0"], 2, ["0", "1..=64"]),
    ] {
        let output = fit(arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && words.iter().all(|word| said.contains(word)), "{said}");
    }
}
