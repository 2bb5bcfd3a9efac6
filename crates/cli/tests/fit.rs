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
        (&["lama-3.1-8b", "--gpu", "H100"][..], 4, ["\"lama-3.1-8b\"", "near it are llama-3.1-8b"]),
        (&["llama-3-8b", "--gpu", "H900"], 4, ["H900", "A100-40"]),
        (&["llama-3-8b", "--gpu", "H100", "--utilization", "1.5"], 2, ["1.5", "at most 1"]),
        (&["llama-3-8b", "--gpu", "H100", "--gpus", "0"], 2, ["0", "1..=64"]),
        (&["qwen2.5-7b", "--gpu", "H100", "--gpus", "3"], 1, ["--gpus: 3 GPUs", "nearest that can: 2 or 4"]),
        (&["llama-3-8b"], 2, ["--gpu", "required"]),
        (&["--check", "--gpu", "H100"], 2, ["--check", "cannot be used"]),
        (&["/nowhere/config.json", "--gpu", "H100"], 4, ["/nowhere/config.json", "No such file"]),
    ] {
        let output = fit(arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn a_config_json_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let sized = |what: &str| {
        std::fs::write(&path, what).unwrap();
        fit(&[path.to_str().unwrap(), "--gpu", "A100-40", "-o", "json"])
    };
    let shape = r#""hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 8192, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256"#;
    let output = sized(&format!(r#"{{"model_type": "llama", {shape}}}"#));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let known = fit(&["llama-3-8b", "--gpu", "A100-40", "-o", "json"]);
    let known: serde_json::Value = serde_json::from_slice(&known.stdout).unwrap();
    assert_eq!((&json["total_bytes"], &json["parameters"]), (&known["total_bytes"], &known["parameters"]));
    // As it is published: 4 bits.
    let quantization = r#""quantization_config": {"quant_method": "awq", "bits": 4}"#;
    let output = sized(&format!(r#"{{"model_type": "llama", {quantization}, {shape}}}"#));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["weight_bits"] == 4 && json["weights_bytes"].as_u64().unwrap() < 6_000_000_000, "{json}");
    let output = sized(&format!("{{{shape}}}"));
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("model_type") && output.stdout.is_empty(), "{said}");
}

/// Each line of `--check` is within 5 % or says why not.
#[test]
fn logs_are_listed_beside_what_is_said_here() {
    let output = fit(&["--check"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let lines: Vec<_> = said.lines().skip(1).collect();
    assert!(lines.len() >= 25 && lines.iter().all(|line| line.contains(" %") && line.contains('/')), "{said}");
    let output = fit(&["--check", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for one in json["items"].as_array().unwrap() {
        let off = one["found"].as_f64().unwrap() / one["value"].as_f64().unwrap() - 1.0;
        assert_eq!(off.abs() < 0.05, one["why"].is_null(), "{one}");
    }
    let output = fit(&["--models"]);
    assert!(output.status.success() && text(&output.stdout).contains("gpt-oss-120b"), "{}", text(&output.stdout));
}

/// B9: by the default policy, of GPUs that are written down and of those of a saved inventory.
#[test]
fn slots_are_counted_by_tier() {
    let dir = tempfile::tempdir().unwrap();
    let (file, tiers) = (dir.path().join("node.yaml"), dir.path().join("tiers.yaml"));
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let save = ["--run-dir", run.to_str().unwrap(), "--sim", "8xH100", "gpus", "--save", file.to_str().unwrap()];
    let output = cleave(&save);
    assert!(output.status.success(), "{}", text(&output.stderr));
    cleave(&["--run-dir", run.to_str().unwrap(), "shutdown"]);
    let slots = |of: &[&str]| -> Vec<(String, u64)> {
        let output = cleave(&[&["capacity", "--by", "tier", "-o", "json"], of].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let tiers = json["items"].as_array().unwrap().iter();
        tiers.map(|tier| (tier["tier"].as_str().unwrap().to_owned(), tier["slots"].as_u64().unwrap())).collect()
    };
    let named =
        |all: &[(&str, u64)]| -> Vec<(String, u64)> { all.iter().map(|(name, n)| (name.to_string(), *n)).collect() };
    let quarters = named(&[("dev", 32), ("prod", 32), ("staging", 32)]);
    assert_eq!(slots(&["--gpus", "8xH100"]), quarters);
    let file = file.to_str().unwrap();
    assert_eq!(slots(&["--inventory", file]), quarters);
    assert_eq!(slots(&["--inventory", file, "--parts", "2"]), named(&[("dev", 16), ("prod", 16), ("staging", 16)]));
    assert_eq!(slots(&["--inventory", file, "--tier", "prod=mig:4g.40gb"]), named(&[("prod", 8)]));
    std::fs::write(&tiers, "tiers:\n  gold: { engines: [mig] }\n  tin: { engines: [spatial, temporal] }\n").unwrap();
    let tiers = tiers.to_str().unwrap();
    assert_eq!(slots(&["--gpus", "2xH100+T4+Tesla K80", "--tiers", tiers]), named(&[("gold", 8), ("tin", 16)]));
    let output = cleave(&["capacity", "--gpus", "T4", "--tiers", file]);
    assert!(
        output.status.code() == Some(1) && text(&output.stderr).contains("unknown field"),
        "{}",
        text(&output.stderr)
    );
    let output = cleave(&["capacity", "--gpus", "T4", "--inventory", file]);
    assert_eq!(output.status.code(), Some(2));
    let table = text(&cleave(&["capacity", "--gpus", "8xH100"]).stdout);
    assert!(table.contains("dev 32, prod 32, staging 32") && table.contains("mig:1g.20gb"), "{table}");
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
