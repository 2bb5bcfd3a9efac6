//! `cleave fit` and `cleave capacity` from their command lines: no daemon, no GPU.
use std::process::{Command, Output};

fn cleave(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cleave")).args(arguments).output().unwrap()
}

fn fit(arguments: &[&str]) -> Output {
    cleave(&[&["fit"], arguments].concat())
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

/// B9, and B10: eight H100 are 32 slots in turns of four, and 8 of 4g, not 16.
#[test]
fn tiers_have_slots() {
    let tiers = ["--tier", "dev=temporal:4", "--tier", "prod=mig:4g.40gb", "--tier", "staging=spatial:25%"];
    let output = cleave(&[&["capacity", "--gpus", "8xH100+2xTesla K80", "-o", "json"][..], &tiers].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let slots: Vec<_> = json["items"].as_array().unwrap().iter().map(|tier| tier["slots"].as_u64().unwrap()).collect();
    let on = |tier: usize| json["items"][tier]["gpus"][0]["slots"].as_u64().unwrap();
    assert_eq!((slots, on(0), on(1)), (vec![40, 8, 32], 32, 8), "{json}");
    for (gpus, tier, word) in [
        ("8xH900", "a=temporal:4", "H900"),
        ("0xH100", "a=temporal:4", "1 to"),
        ("H100", "temporal:4", "NAME="),
        ("H100", "a=vgpu:4", "vgpu"),
    ] {
        let output = cleave(&["capacity", "--gpus", gpus, "--tier", tier]);
        assert!(output.status.code() == Some(1) && text(&output.stderr).contains(word), "{}", text(&output.stderr));
    }
}
