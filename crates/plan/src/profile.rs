//! What a program needs of a GPU, from readings of what it used while it ran.

/// Length of the windows over which device time is compared with the clock, in ns.
pub const WINDOW: u64 = 1_000_000_000;
/// Requests for memory are whole units of so many bytes.
pub const UNIT: u64 = 64 << 20;

/// Readings from the beginning of a program's work to its end that it takes to tell its part of the time.
const FEWEST: usize = 5;

/// What a program had used of one GPU at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Time since the program was started, in ns.
    pub at: u64,
    /// Memory in use, in bytes.
    pub used_bytes: u64,
    /// Device time used so far, in ns.
    pub device_ns: u64,
    /// Percent of the GPU's memory bandwidth that was used since the reading before; `None` where that was not read.
    pub bandwidth_percent: Option<f64>,
}

/// A stretch of time in which a program was at work.
struct Window {
    /// In ns since the program was started.
    from: u64,
    to: u64,
    /// Percent of the GPU's time that it took.
    part: f64,
}

/// Memory to ask for, in bytes: `peak` and `margin` percent of it, in whole [`UNIT`]s, but no more than the `card` that it
/// ran on has.
pub fn memory(peak: u64, margin: u64, card: u64) -> u64 {
    let wanted = u128::from(peak) * u128::from(100 + margin);
    let unit = u128::from(UNIT);
    let wanted = wanted.div_ceil(100 * unit) * unit;
    u64::try_from(wanted).unwrap_or(u64::MAX).min(card)
}

/// Percent of the GPU's time that a program takes while it is at work: device time in windows of [`WINDOW`], those left out
/// in which it had none; 95 % of the others have no more. `None` if it used no device time, or was read too seldom
/// meanwhile.
///
/// `readings` are in the order of time. Device time counts up late, once work is known to be done: what is more than a
/// window has room for is counted to the one before.
pub fn compute(readings: &[Reading]) -> Option<f64> {
    percentile(at_work(readings)?.iter().map(|window| window.part).collect(), 95)
}

/// Percent of the GPU's memory bandwidth that is used while a program is at work: in the windows of [`compute`], each with
/// the mean of what was read in it; 95 % of them have no more. `None` where [`compute`] is, and where nothing was read.
pub fn bandwidth(readings: &[Reading]) -> Option<f64> {
    let mean = |window: Window| {
        let during = readings.iter().filter(|reading| reading.at > window.from && reading.at <= window.to);
        let read: Vec<f64> = during.filter_map(|reading| reading.bandwidth_percent).collect();
        (!read.is_empty()).then(|| read.iter().sum::<f64>() / read.len() as f64)
    };
    percentile(at_work(readings)?.into_iter().filter_map(mean).collect(), 95)
}

/// The windows in which a program had device time.
fn at_work(readings: &[Reading]) -> Option<Vec<Window>> {
    let most = readings.last()?.device_ns;
    let end = readings.iter().find(|reading| reading.device_ns == most)?.at;
    let start = readings.iter().rev().find(|reading| reading.device_ns == 0).map_or(0, |reading| reading.at);
    let span = end.saturating_sub(start);
    let during = readings.iter().filter(|reading| (start..=end).contains(&reading.at)).count();
    if most == 0 || span == 0 || during <= FEWEST {
        return None;
    }
    // What is left of the last second belongs to the last window.
    let windows = (span / WINDOW).max(1);
    let bounds: Vec<u64> = (0..windows).map(|number| start + number * WINDOW).chain([end]).collect();
    let mut late = 0;
    let mut found = Vec::new();
    for pair in bounds.windows(2).rev() {
        let [from, to] = [pair[0], pair[1]];
        let used = device_ns(readings, to).saturating_sub(device_ns(readings, from)) + late;
        late = used.saturating_sub(to - from);
        found.push(Window { from, to, part: (used - late) as f64 * 100.0 / (to - from) as f64 });
    }
    found.retain(|window| window.part > 0.0);
    Some(found)
}

/// Device time used until `at`, as if it had been used evenly between two readings.
fn device_ns(readings: &[Reading], at: u64) -> u64 {
    let next = readings.partition_point(|reading| reading.at < at);
    let before = next.checked_sub(1).and_then(|before| readings.get(before)).copied().unwrap_or_default();
    let Some(after) = readings.get(next) else { return before.device_ns };
    let more = u128::from(after.device_ns.saturating_sub(before.device_ns));
    let part = more * u128::from(at - before.at) / u128::from((after.at - before.at).max(1));
    before.device_ns + part as u64
}

/// The least of `values` that `part` percent of them are not above; `None` if there are none.
pub fn percentile<T: PartialOrd + Copy>(mut values: Vec<T>, part: usize) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get((values.len() * part).div_ceil(100).saturating_sub(1)).copied()
}

/// The memory of `readings` in at most `points` of them: of each stretch the one with the most.
pub fn curve(readings: &[Reading], points: usize) -> Vec<Reading> {
    let stretch = readings.len().div_ceil(points.max(1)).max(1);
    let highest = |part: &[Reading]| part.iter().rev().max_by_key(|reading| reading.used_bytes).copied();
    readings.chunks(stretch).filter_map(highest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = WINDOW;
    const GIB: u64 = 1 << 30;

    /// Readings ten times a second of a program that had so many ns of device time after so many ns.
    fn readings(tenths: u64, device_ns: impl Fn(u64) -> u64) -> Vec<Reading> {
        (0..=tenths)
            .map(|tenth| tenth * SECOND / 10)
            .map(|at| Reading { at, device_ns: device_ns(at), ..Reading::default() })
            .collect()
    }

    #[test]
    fn memory_has_its_margin_in_whole_units_and_fits_the_card() {
        assert_eq!(memory(5 * GIB, 0, 80 * GIB), 5 * GIB);
        assert_eq!(memory(5 * GIB + 1, 0, 80 * GIB), 5 * GIB + UNIT);
        assert_eq!(memory(5 * GIB, 10, 80 * GIB), 5 * GIB + 8 * UNIT);
        assert_eq!(memory(79 * GIB, 10, 80 * GIB), 80 * GIB);
        assert_eq!(memory(1, 0, 80 * GIB), UNIT);
        assert_eq!(memory(u64::MAX, 100, u64::MAX), u64::MAX);
    }

    #[test]
    fn compute_is_what_it_takes_while_it_is_at_work() {
        let about = |found: Option<f64>, wanted: f64| {
            assert!(found.is_some_and(|f| (f - wanted).abs() < 0.01), "{found:?} is not {wanted}")
        };
        // A third all the time.
        about(compute(&readings(100, |at| at / 3)), 33.333);
        // Ten seconds of loading, then a half, then ten seconds of nothing: only the time at work counts.
        about(compute(&readings(300, |at| at.clamp(10 * SECOND, 20 * SECOND) / 2 - 5 * SECOND)), 50.0);
        // At work in every other second, and a whole one then.
        let every_other = |at: u64| at / (2 * SECOND) * SECOND + (at % (2 * SECOND)).min(SECOND);
        about(compute(&readings(100, every_other)), 100.0);
        // One second of 40 is whole, the others a tenth: below what 95 % of them have.
        about(compute(&readings(400, |at| at / 10 + (at.clamp(SECOND, 2 * SECOND) - SECOND) * 9 / 10)), 10.0);
        // Shorter than a window.
        about(compute(&readings(5, |at| at / 4)), 25.0);
    }

    #[test]
    fn device_time_that_is_counted_late_was_used_before() {
        // A kernel of 3 s, known when it has ended: a whole GPU, and not three.
        let spread = readings(100, |at| if at > 9 * SECOND { 3 * SECOND } else { (at > 0).into() });
        assert_eq!(compute(&spread), Some(100.0));
        // More than there was time (a clock of its own): the whole GPU.
        assert_eq!(compute(&readings(30, |at| at * 5)), Some(100.0));
    }

    #[test]
    fn of_no_device_time_or_too_few_readings_no_part_is_told() {
        assert_eq!(compute(&[]), None);
        assert_eq!(compute(&readings(20, |_| 0)), None);
        assert_eq!(compute(&readings(4, |at| at / 4)), None);
        // All of it came between two readings.
        assert_eq!(compute(&readings(80, |at| if at >= 5 * SECOND { SECOND / 20 } else { 0 })), None);
    }

    #[test]
    fn bandwidth_is_what_is_used_while_it_is_at_work() {
        // Ten seconds of loading, ten of work, ten of nothing; more is used before and after, by whomever.
        let mut all = readings(300, |at| at.clamp(10 * SECOND, 20 * SECOND) / 2 - 5 * SECOND);
        let all = &mut all[..];
        assert_eq!(bandwidth(all), None, "nothing was read");
        let during = |reading: &Reading| reading.at > 10 * SECOND && reading.at <= 20 * SECOND;
        let tell = |all: &mut [Reading], what: fn(u64) -> Option<f64>| {
            for reading in all {
                reading.bandwidth_percent = if during(reading) { what(reading.at / (SECOND / 10)) } else { Some(99.0) };
            }
        };
        // A second's mean, also where not all of it was read.
        tell(all, |tenth| (tenth % 2 == 1).then_some(if tenth % 4 == 1 { 20.0 } else { 60.0 }));
        let found = bandwidth(all);
        assert!(found.is_some_and(|found| (36.0..=44.0).contains(&found)), "{found:?}");
        // Of ten seconds 95 % are all.
        tell(all, |tenth| Some(if tenth > 190 { 70.0 } else { 30.0 }));
        assert_eq!(bandwidth(all), Some(70.0));
        // Work that was seen too seldom to be told has no bandwidth either.
        assert_eq!(bandwidth(&all[..1]), None);
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        assert_eq!(percentile::<u64>(vec![], 95), None);
        assert_eq!(percentile(vec![7], 95), Some(7));
        let values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!((percentile(values.clone(), 95), percentile(values, 100)), (Some(95), Some(100)));
    }

    #[test]
    fn a_curve_keeps_its_peaks() {
        let at = |at, used_bytes| Reading { at, used_bytes, ..Reading::default() };
        let all: Vec<Reading> = (0..1000).map(|n| at(n, if n == 777 { 9 } else { n % 2 })).collect();
        let curve = curve(&all, 60);
        assert!(curve.len() <= 60 && curve.contains(&at(777, 9)), "{curve:?}");
        assert!(curve.is_sorted_by_key(|reading| reading.at));
        assert_eq!(super::curve(&all[..3], 60), all[..3]);
        assert_eq!(super::curve(&[], 60), []);
    }
}
