//! NVML's GPM: counters of a GPU, compared between two samples. GPUs have them from Hopper on.
use super::library::Library;
use super::nvml::{Device, Return, SUCCESS};
use std::ffi::{c_char, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// `NVML_GPM_METRIC_DRAM_BW_UTIL`: percent of what the GPU's memory can give and take.
const BANDWIDTH: c_uint = 10;
/// Of the structs that say theirs.
const VERSION: c_uint = 1;
/// Metrics that [`MetricsGet`] has room for: no fewer than any `nvml.h` declares.
const ROOM: usize = 512;
/// The least time between two samples of a GPU.
const LEAST: Duration = Duration::from_millis(50);
/// The longest time that a figure is the mean of.
const MOST: Duration = Duration::from_secs(60);

/// A `nvmlGpmSupport_t`.
#[repr(C)]
struct Support {
    version: c_uint,
    supported: c_uint,
}

/// A `nvmlGpmMetric_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Metric {
    id: c_uint,
    result: Return,
    value: f64,
    names: [*const c_char; 3],
}

/// A `nvmlGpmMetricsGet_t`.
#[repr(C)]
struct MetricsGet {
    version: c_uint,
    count: c_uint,
    samples: [*mut c_void; 2],
    metrics: [Metric; ROOM],
}

#[derive(Clone, Copy)]
struct Functions {
    support: unsafe extern "C" fn(Device, *mut Support) -> Return,
    alloc: unsafe extern "C" fn(*mut *mut c_void) -> Return,
    free: unsafe extern "C" fn(*mut c_void) -> Return,
    get: unsafe extern "C" fn(Device, *mut c_void) -> Return,
    metrics: unsafe extern "C" fn(*mut MetricsGet) -> Return,
}

impl Functions {
    fn load(library: &Library) -> Option<Self> {
        // SAFETY: every type is the one that nvml.h declares for the name.
        unsafe {
            Some(Self {
                support: library.function(c"nvmlGpmQueryDeviceSupport")?,
                alloc: library.function(c"nvmlGpmSampleAlloc")?,
                free: library.function(c"nvmlGpmSampleFree")?,
                get: library.function(c"nvmlGpmSampleGet")?,
                metrics: library.function(c"nvmlGpmMetricsGet")?,
            })
        }
    }
}

/// A GPU's counters at one moment.
struct Sample {
    functions: Functions,
    /// From `nvmlGpmSampleAlloc`, and nobody else's.
    memory: *mut c_void,
}

// SAFETY: NVML may be called from any thread, and what it allocated is bound to none.
unsafe impl Send for Sample {}

impl Sample {
    fn take(functions: Functions, device: Device) -> Option<Self> {
        let mut asked = Support { version: VERSION, supported: 0 };
        // SAFETY: reads and writes one struct of the version that it names.
        let code = unsafe { (functions.support)(device, &mut asked) };
        // Asked each time, as MIG comes and goes.
        if code != SUCCESS || asked.supported == 0 {
            return None;
        }
        let mut memory = null_mut();
        // SAFETY: writes one pointer.
        let code = unsafe { (functions.alloc)(&mut memory) };
        if code != SUCCESS || memory.is_null() {
            return None;
        }
        let sample = Self { functions, memory };
        // SAFETY: writes to what was allocated for that.
        (unsafe { (functions.get)(device, sample.memory) } == SUCCESS).then_some(sample)
    }

    /// Percent of the bandwidth of the GPU's memory that was used since a sample `before`.
    fn bandwidth_since(&self, before: &Self) -> Option<f64> {
        let metric = Metric { id: BANDWIDTH, result: SUCCESS, value: 0.0, names: [std::ptr::null(); 3] };
        let samples = [before.memory, self.memory];
        let mut asked = Box::new(MetricsGet { version: VERSION, count: 1, samples, metrics: [metric; ROOM] });
        // SAFETY: both samples were taken and not freed; writes at most the metrics that the struct declares.
        let code = unsafe { (self.functions.metrics)(&mut *asked) };
        let [metric, ..] = asked.metrics;
        let told = code == SUCCESS && metric.result == SUCCESS && metric.value.is_finite();
        // Hundredths are finer than the counters are.
        told.then(|| (metric.value.clamp(0.0, 100.0) * 100.0).round() / 100.0)
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed here only.
        let _ = unsafe { (self.functions.free)(self.memory) };
    }
}

/// What is told of one GPU, and what the next figure is compared with.
struct Meter<S> {
    /// When a sample was last wanted.
    at: Option<Instant>,
    last: Option<S>,
    told: Option<f64>,
}

impl<S> Default for Meter<S> {
    fn default() -> Self {
        Self { at: None, last: None, told: None }
    }
}

impl<S> Meter<S> {
    /// The figure at `now`: of the time since the sample before, whoever had it taken. Nobody has one taken too soon.
    fn ask(
        &mut self,
        now: Instant,
        take: impl FnOnce() -> Option<S>,
        compare: impl FnOnce(&S, &S) -> Option<f64>,
    ) -> Option<f64> {
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        if passed.is_some_and(|passed| passed < LEAST) {
            return self.told;
        }
        let before = self.last.take().filter(|_| passed.is_some_and(|passed| passed <= MOST));
        (self.at, self.last) = (Some(now), take());
        self.told = before.as_ref().zip(self.last.as_ref()).and_then(|(before, last)| compare(before, last));
        self.told
    }
}

/// All GPUs' counters.
pub(super) struct Gpm {
    functions: Functions,
    /// By place.
    meters: Vec<Mutex<Meter<Sample>>>,
}

impl Gpm {
    /// For so many GPUs; `None` where the driver is too old.
    pub(super) fn open(library: &Library, gpus: usize) -> Option<Self> {
        let functions = Functions::load(library)?;
        Some(Self { functions, meters: std::iter::repeat_with(Mutex::default).take(gpus).collect() })
    }

    /// See [`crate::gpu::Nvml::bandwidth`].
    pub(super) fn bandwidth(&self, gpu: usize, device: Device) -> Option<f64> {
        let mut meter = self.meters.get(gpu)?.lock().unwrap_or_else(PoisonError::into_inner);
        let take = || Sample::take(self.functions, device);
        meter.ask(Instant::now(), take, |before, last| last.bandwidth_since(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_of_the_time_since_the_sample_before_whoever_asked() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let mut ask = |ms: u64, sample: Option<f64>| {
            meter.ask(start + Duration::from_millis(ms), || sample, |before, last| Some(last - before))
        };
        assert_eq!(ask(0, Some(1.0)), None, "the first");
        assert_eq!(ask(49, Some(100.0)), None, "too soon, and not taken");
        assert_eq!(ask(50, Some(3.0)), Some(2.0));
        // Whoever asks more often hears the same until the next sample is due.
        assert_eq!([ask(60, Some(100.0)), ask(99, None)], [Some(2.0); 2]);
        assert_eq!(ask(1_050, Some(8.0)), Some(5.0));
        // One that fails is no zero, and neither is the one after it; it isn't tried again at once, either.
        assert_eq!([ask(1_100, None), ask(1_149, Some(8.0)), ask(1_150, Some(9.0))], [None; 3]);
        assert_eq!(ask(61_150, Some(11.0)), Some(2.0), "a minute");
        assert_eq!(ask(121_151, Some(20.0)), None, "nobody asked for longer");
        assert_eq!(ask(121_201, Some(21.0)), Some(1.0));
    }
}
