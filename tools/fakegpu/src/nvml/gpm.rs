//! NVML's GPM calls: counters of a device, compared between two samples. Of its metrics there is one, the bandwidth of the
//! device's memory, to which copies and fills count.
use super::*;
use crate::clock::Nanos;

/// `NVML_GPM_METRIC_DRAM_BW_UTIL`
const BANDWIDTH: c_uint = 10;
/// The compute capability from which devices have the counters.
const FIRST: i32 = 9;
const VERSION: c_uint = 1;
const NO_DATA: nvmlReturn_t = 21;

/// A `nvmlGpmSample_t` points to one.
#[derive(Clone, Copy, Default)]
pub struct Sample {
    /// One more than the index of its device; 0 before it is taken.
    device: usize,
    at: Nanos,
    moved: u64,
}

/// A `nvmlGpmSupport_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Support {
    version: c_uint,
    supported: c_uint,
}

/// A `nvmlGpmMetric_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Metric {
    id: c_uint,
    result: nvmlReturn_t,
    value: f64,
    names: [*const c_char; 3],
}

/// The beginning of a `nvmlGpmMetricsGet_t`; so many [`Metric`]s follow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Asked {
    version: c_uint,
    count: c_uint,
    samples: [*const Sample; 2],
}

impl Device {
    fn counts(&self) -> bool {
        self.model().compute_capability[0] >= FIRST && !self.state().mode(self.model()).0
    }
}

/// Percent of the bandwidth that was used from one sample to the other.
fn percent(nvml: &Nvml, one: Sample, other: Sample) -> Outcome<f64> {
    let model = nvml.inventory.devices.get(one.device.wrapping_sub(1)).ok_or(error::INVALID_ARGUMENT)?;
    if one.device != other.device || other.at < one.at {
        return Err(error::INVALID_ARGUMENT);
    }
    match model.bandwidth(other.at - one.at) {
        0 => Err(NO_DATA),
        most => Ok(((other.moved - one.moved) as f64 * 100.0 / most as f64).min(100.0)),
    }
}

nvml! {
    fn nvmlGpmQueryDeviceSupport(device: nvmlDevice_t, to: *mut Support) {
        let supported = c_uint::from(Device::whole(device)?.counts());
        let Support { version, .. } = argument(get(to))?;
        if version != VERSION {
            return Err(error::ARGUMENT_VERSION_MISMATCH);
        }
        write(to, Support { version, supported })
    }
    fn nvmlGpmSampleAlloc(to: *mut *mut Sample) {
        started()?;
        write(to, std::ptr::null_mut())?;
        write(to, Box::into_raw(Box::default()))
    }
    fn nvmlGpmSampleFree(sample: *mut Sample) {
        if sample.is_null() {
            return Err(error::INVALID_ARGUMENT);
        }
        // SAFETY: the caller passes what `nvmlGpmSampleAlloc` gave, once.
        drop(unsafe { Box::from_raw(sample) });
        Ok(())
    }
    fn nvmlGpmSampleGet(device: nvmlDevice_t, sample: *mut Sample) {
        let device = Device::whole(device)?;
        if !device.counts() {
            return Err(error::NOT_SUPPORTED);
        }
        let (at, moved) = device.nvml.shared.lock().traffic(device.index);
        write(sample, Sample { device: device.index + 1, at, moved })
    }
    fn nvmlGpmMetricsGet(asked: *mut Asked) {
        let nvml = started()?;
        let Asked { version, count, samples: [one, other] } = argument(get(asked))?;
        if version != VERSION {
            return Err(error::ARGUMENT_VERSION_MISMATCH);
        }
        let (one, other) = (argument(get(one))?, argument(get(other))?);
        for index in 0..count as usize {
            let at = asked.wrapping_add(1).cast::<Metric>().wrapping_add(index);
            let Metric { id, .. } = argument(get(at))?;
            let found = if id == BANDWIDTH { percent(&nvml, one, other) } else { Err(error::NOT_SUPPORTED) };
            let (value, result) = found.map_or_else(|code| (0.0, code), |value| (value, error::SUCCESS));
            write(at, Metric { id, result, value, names: [std::ptr::null(); 3] })?;
        }
        Ok(())
    }
}
