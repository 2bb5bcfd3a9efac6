//! What GPUs and slices do, for Prometheus: tables of families, each with the number that it takes from an answer of the API.
use cleave_api::{Engine, Gpu, Slice, SliceDevice};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Result, TextEncoder};

/// The content type of [`page`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// A family: its name, how its numbers move, what it means, and its number of one thing, absent where that can't be told.
type Family<T> = (&'static str, MetricType, &'static str, fn(&T) -> Option<f64>);

/// Names and values.
type Labels = Vec<(&'static str, String)>;

use MetricType::{COUNTER, GAUGE};

const GPUS: [Family<Gpu>; 9] = [
    ("cleave_gpu_memory_bytes", GAUGE, "Memory that programs can have.", |gpu| amount(gpu.memory_bytes)),
    ("cleave_gpu_memory_used_bytes", GAUGE, "Memory in use by everyone.", |gpu| amount(gpu.used_bytes)),
    ("cleave_gpu_memory_untracked_bytes", GAUGE, "Memory in use by processes that are in no slice.", |gpu| {
        amount(gpu.untracked_bytes)
    }),
    (
        "cleave_gpu_memory_committed_ratio",
        GAUGE,
        "Sum of the slices' quotas over the memory; above 1 a program may be refused memory although its slice has some left.",
        |gpu| Some(gpu.reserved_bytes as f64 / gpu.memory_bytes as f64).filter(|ratio| ratio.is_finite()),
    ),
    ("cleave_gpu_overcommitted", GAUGE, "1 if the quotas sum up to more than the memory.", |gpu| {
        flag(gpu.overcommitted)
    }),
    ("cleave_gpu_compute_committed_ratio", GAUGE, "Sum of the slices' compute shares.", |gpu| {
        Some(gpu.reserved_compute_percent / 100.0)
    }),
    ("cleave_gpu_busy_ratio", GAUGE, "Part of the last second in which a kernel ran.", |gpu| {
        gpu.busy_percent.map(|percent| f64::from(percent) / 100.0)
    }),
    ("cleave_gpu_slices", GAUGE, "Slices on it.", |gpu| Some(gpu.slice_count as f64)),
    ("cleave_gpu_draining", GAUGE, "1 if nothing new goes there.", |gpu| flag(gpu.draining)),
];

const SLICES: [Family<Slice>; 6] = [
    ("cleave_slice_oom_denied_total", COUNTER, "Allocations refused because of the quota.", |slice| {
        amount(slice.denied_total)
    }),
    ("cleave_slice_launches_total", COUNTER, "Kernels and graphs launched.", |slice| amount(slice.launches_total)),
    ("cleave_slice_processes", GAUGE, "Processes that use a GPU.", |slice| Some(slice.processes.len() as f64)),
    (
        "cleave_slice_overcommitted",
        GAUGE,
        "1 if the quotas of a GPU that it is on sum up to more than that has: it may be refused memory below its quota.",
        |slice| flag(slice.overcommitted),
    ),
    ("cleave_slice_paused", GAUGE, "1 if its programs wait at their next kernel.", |slice| flag(slice.paused)),
    ("cleave_slice_suspended", GAUGE, "1 if its memory is in host memory.", |slice| flag(slice.suspended)),
];

const LIMIT: [Family<SliceDevice>; 1] =
    [("cleave_slice_memory_limit_bytes", GAUGE, "Memory quota.", |part| amount(part.limit_bytes))];

/// Of devices that are divided: of those that are given whole nobody measures this.
const PARTS: [Family<SliceDevice>; 8] = [
    ("cleave_slice_memory_used_bytes", GAUGE, "Memory in use, contexts and code included.", |part| {
        part.used_bytes.and_then(amount)
    }),
    ("cleave_slice_compute_share_ratio", GAUGE, "Part of the GPU's time that it is entitled to.", |part| {
        part.time.share_percent.map(|percent| percent / 100.0)
    }),
    ("cleave_slice_compute_given_ratio", GAUGE, "Part of the last second for which it had the GPU.", |part| {
        part.time.last_1s.map(|second| seconds(second.given_ns))
    }),
    (
        "cleave_slice_compute_owed_ratio",
        GAUGE,
        "What its share came to in the last second, while it wanted the GPU.",
        |part| part.time.last_1s.map(|second| seconds(second.owed_ns)),
    ),
    ("cleave_slice_sm_seconds_total", COUNTER, "Device time used.", |part| Some(seconds(part.time.device_ns))),
    ("cleave_slice_throttled_seconds_total", COUNTER, "Time that operations waited for a turn.", |part| {
        Some(seconds(part.time.throttled_ns))
    }),
    ("cleave_slice_throttle_events_total", COUNTER, "Operations that waited for a turn.", |part| {
        amount(part.time.throttled_total)
    }),
    ("cleave_slice_queue_depth", GAUGE, "Threads that wait for a turn now.", |part| amount(part.time.waiting)),
];

/// Beyond 2⁵³ the last digits go.
fn amount(number: u64) -> Option<f64> {
    Some(number as f64)
}

fn flag(set: bool) -> Option<f64> {
    Some(f64::from(u8::from(set)))
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Each family with a sample of each thing that has a number there; a family without any is left out.
fn families<T>(kinds: &[Family<T>], all: &[(Labels, &T)]) -> Vec<MetricFamily> {
    let pair = |(name, value): &(&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value(value.clone());
        pair
    };
    let of = |(name, kind, help, number): &Family<T>| {
        let samples = all.iter().filter_map(|(labels, one)| {
            let number = number(one)?;
            let mut sample = Metric::from_label(labels.iter().map(pair).collect());
            if *kind == COUNTER {
                let mut counter = prometheus::proto::Counter::default();
                counter.set_value(number);
                sample.set_counter(counter);
            } else {
                let mut gauge = prometheus::proto::Gauge::default();
                gauge.set_value(number);
                sample.set_gauge(gauge);
            }
            Some(sample)
        });
        let mut family = MetricFamily::default();
        family.set_name((*name).into());
        family.set_help((*help).into());
        family.set_field_type(*kind);
        family.set_metric(samples.collect());
        Some(family).filter(|family| !family.get_metric().is_empty())
    };
    kinds.iter().filter_map(of).collect()
}

/// GPUs and slices as a page of Prometheus's text format.
///
/// # Errors
/// None that is known.
pub fn page(gpus: &[Gpu], slices: &[Slice]) -> Result<String> {
    let number = |gpu: u32| vec![("gpu", gpu.to_string())];
    let named = |slice: &Slice| vec![("slice", slice.name.clone())];
    let (mut about, mut plain) = (Vec::new(), Vec::new());
    for gpu in gpus {
        let facts = vec![("uuid", gpu.uuid.clone()), ("model", gpu.name.clone()), ("pci_bus_id", gpu.pci.clone())];
        about.push(([number(gpu.index), facts].concat(), gpu));
        plain.push((number(gpu.index), gpu));
    }
    let mut all = families(&[("cleave_gpu_info", GAUGE, "What it is.", |_| Some(1.0))], &about);
    all.extend(families(&GPUS, &plain));
    let measured = |slice: &&Slice| slice.engine != Engine::Whole;
    let counted: Vec<_> = slices.iter().filter(measured).map(|slice| (named(slice), slice)).collect();
    let (mut about, mut limits, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for (slice, part) in slices.iter().flat_map(|slice| slice.devices.iter().map(move |part| (slice, part))) {
        let labels = [named(slice), number(part.gpu)].concat();
        let facts = vec![
            ("id", slice.id.clone()),
            ("owner", slice.owner.name.clone().unwrap_or_else(|| slice.owner.uid.to_string())),
            ("mode", slice.engine.to_string()),
            ("isolation", slice.mode.to_string()),
            ("priority", slice.priority.to_string()),
            ("profile", part.mig_profile.clone().unwrap_or_default()),
        ];
        about.push(([labels.clone(), facts].concat(), part));
        limits.push((labels.clone(), part));
        parts.extend(measured(&slice).then_some((labels, part)));
    }
    all.extend(families(&[("cleave_slice_info", GAUGE, "How it is set.", |_| Some(1.0))], &about));
    all.extend(families(&SLICES, &counted));
    all.extend(families(&LIMIT, &limits));
    all.extend(families(&PARTS, &parts));
    TextEncoder::new().encode_to_string(&all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Names are what Prometheus's own rules ask for, and no family is there twice.
    #[test]
    fn families_are_named_by_the_rules() {
        fn rows<T>(families: &[Family<T>]) -> Vec<(&'static str, MetricType, &'static str)> {
            families.iter().map(|one| (one.0, one.1, one.2)).collect()
        }
        let mut names = BTreeSet::new();
        for (name, kind, help) in [rows(&GPUS), rows(&SLICES), rows(&LIMIT), rows(&PARTS)].concat() {
            assert!(names.insert(name), "{name} is there twice");
            assert_eq!(name.ends_with("_total"), kind == COUNTER, "{name}");
            assert!(name.starts_with("cleave_") && help.ends_with('.'), "{name}: {help}");
            assert!(!name.contains("_ns") && !name.contains("percent") && !name.contains("_ms"), "{name}: base units");
        }
    }

    /// What can't be measured has no sample, not even a family.
    #[test]
    fn what_is_absent_is_not_zero() {
        let gpu = |index: u32, busy: &str| -> Gpu {
            let text = format!(
                r#"{{"index":{index},"uuid":"GPU-{index}","name":"a \"card\"","pci":"","memory_bytes":8,"used_bytes":0,"reserved_bytes":12,
                "reserved_compute_percent":0,"untracked_bytes":0,"slices":[],"draining":false,"simulated":true{busy}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let page_of = |gpus: &[Gpu]| page(gpus, &[]).unwrap();
        let text = page_of(&[gpu(0, ""), gpu(1, r#","busy_percent":50"#)]);
        assert!(text.contains("cleave_gpu_busy_ratio{gpu=\"1\"} 0.5\n"), "{text}");
        assert!(!text.contains("cleave_gpu_busy_ratio{gpu=\"0\"}"), "{text}");
        assert!(text.contains("cleave_gpu_memory_committed_ratio{gpu=\"0\"} 1.5\n"), "{text}");
        assert!(text.contains("model=\"a \\\"card\\\"\""), "{text}");
        assert!(!page_of(&[gpu(0, "")]).contains("busy"));
    }
}
