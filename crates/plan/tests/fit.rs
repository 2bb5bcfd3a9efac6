//! Sizes against what vLLM printed, in logs that people made public, and against what is known of the models.
use cleave_plan::fit::{Ask, blocks, fit, kv_bytes_per_token, models, named, offers};

const GIB: f64 = (1u64 << 30) as f64;

fn near(found: f64, logged: f64) {
    assert!((found / logged - 1.0).abs() < 0.05, "{found} is not {logged}");
}

fn ask() -> Ask {
    Ask { weight_bits: 16, kv_bits: 16, context: 8192, concurrency: 8, gpus: 1, utilization: 0.9, gpu_bytes: 40 << 30 }
}

/// vLLM's issues 10517 (Llama-3.1-8B: 14.9888 GiB of weights; on an RTX 3090 3.81 GiB of cache are 1952 blocks), 21348 (Qwen3-235B-A22B-FP8
/// on four H100: 8.11 GiB of cache are 178 880 tokens).
#[test]
fn sizes_are_those_that_were_logged() {
    let (llama, qwen) = (named("meta-llama/Llama-3.1-8B").unwrap(), named("Qwen3-235B-A22B").unwrap());
    near(fit(llama, &ask()).weights_bytes as f64 / GIB, 14.9888);
    near(blocks(llama, 16, 1, (3.81 * GIB) as u64) as f64, 1952.0);
    near(8.11 * GIB / kv_bytes_per_token(qwen, 16, 4) as f64, 178_880.0);
}

/// C14: between 20 and 30 GB, of which the weights are 15 to 16.
#[test]
fn llama_3_8b_on_an_a100_of_40_gb() {
    let fit = fit(named("Llama-3-8B").unwrap(), &ask());
    assert!(fit.fits && (14.9..16.1).contains(&(fit.weights_bytes as f64 / 1e9)), "{fit:?}");
    assert!((20e9..30e9).contains(&(fit.total_bytes as f64)), "{fit:?}");
    assert_eq!(fit.kv_bytes, 8 << 30);
    // A request of one token has a block of its own.
    let short = cleave_plan::fit::fit(named("Llama-3-8B").unwrap(), &Ask { context: 1, ..ask() });
    assert_eq!(short.most_requests, short.kv_blocks);
}

#[test]
fn the_table_is_whole() {
    assert!(models().len() >= 20);
    for model in models() {
        assert!(model.latent.is_some() != (model.kv_heads > 0 && model.head_dim > 0), "{}", model.name);
        assert!(model.parameters > 1 << 30 && model.layers > 20 && model.context >= 4096, "{}", model.name);
        assert!(named(&model.name).is_some_and(|found| found.name == model.name) && named(&model.source).is_some());
    }
    // Latent attention keeps a fiftieth of what as many heads would.
    assert_eq!(kv_bytes_per_token(named("deepseek-r1").unwrap(), 16, 8), 61 * 576 * 2);
}

#[test]
fn what_is_offered_fits() {
    let large = Ask { concurrency: 64, context: 32_768, ..ask() };
    let model = named("qwen2.5-32b").unwrap();
    assert!(!fit(model, &large).fits);
    assert!(offers(model, &large).is_empty(), "512 GiB of keys and values, in eight heads");
    let small = Ask { concurrency: 1, context: 4096, ..ask() };
    assert_eq!(offers(model, &small), ["weights in fp8", "2 such GPUs"]);
    assert!(fit(model, &Ask { weight_bits: 8, ..small }).fits && fit(model, &Ask { gpus: 2, ..small }).fits);
    let many = Ask { concurrency: 64, ..ask() };
    let llama = named("llama-3-8b").unwrap();
    let most = fit(llama, &many).most_requests;
    assert!(
        offers(llama, &many)[0] == format!("{most} requests at a time")
            && fit(llama, &Ask { concurrency: most, ..many }).fits
    );
}
