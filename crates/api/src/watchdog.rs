//! What is done about a process whose work on a GPU does not end.
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The steps, the mildest first.
const STEPS: [&str; 4] = ["warn", "lower", "pause", "kill"];
/// Units of time and their ms, the largest first.
const UNITS: [(&str, u64); 3] = [("m", 60_000), ("s", 1000), ("ms", 1)];
/// Shortest and longest time of a step, in ns.
const SHORTEST_MS: u64 = 1000;
const LONGEST_MS: u64 = 24 * 3_600_000;

/// `warn:2s,lower:5s,pause:10s,kill:30s`: what is done when work is so long over its expected time; each step may be left
/// out. `none` does nothing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Watchdog([Option<u64>; 4]);

impl Watchdog {
    /// After how many ms each step is taken, in the order warn, lower, pause, kill.
    pub fn after_ms(self) -> [Option<u64>; 4] {
        self.0
    }

    /// Nothing is ever done.
    pub fn is_none(self) -> bool {
        self.0 == [None; 4]
    }
}

/// A time from 1 s to a day, in ms.
pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(scale).filter(|ms| (SHORTEST_MS..=LONGEST_MS).contains(ms))
}

/// As [`milliseconds`] reads it.
pub(crate) fn time_text(ms: u64) -> String {
    let (unit, scale) = UNITS.into_iter().find(|(_, scale)| ms.is_multiple_of(*scale)).unwrap_or(("ms", 1));
    format!("{}{unit}", ms / scale)
}

impl FromStr for Watchdog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("\"{text}\" is no watchdog: {why}; as in warn:2s,kill:30s, or none");
        let mut steps = [None; 4];
        if text == "none" {
            return Ok(Self(steps));
        }
        for part in text.split(',') {
            let (name, time) = part.split_once(':').unwrap_or((part, ""));
            let step = STEPS.iter().position(|step| *step == name).and_then(|at| steps.get_mut(at));
            let step = step.ok_or_else(|| wrong(format!("\"{name}\" is not warn, lower, pause or kill")))?;
            let ms = milliseconds(time)
                .ok_or_else(|| wrong(format!("\"{time}\" is no time from 1s to 1440m, in m, s or ms")))?;
            if step.replace(ms).is_some() {
                return Err(wrong(format!("{name} is there twice")));
            }
        }
        if !steps.iter().flatten().is_sorted() {
            return Err(wrong("a harder step must not come before a milder one".into()));
        }
        Ok(Self(steps))
    }
}

impl fmt::Display for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        let steps = STEPS.iter().zip(self.0).filter_map(|(name, ms)| Some((name, ms?)));
        for (at, (name, ms)) in steps.enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{name}:{}", time_text(ms))?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Watchdog {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Watchdog> for String {
    fn from(watchdog: Watchdog) -> String {
        watchdog.to_string()
    }
}

impl JsonSchema for Watchdog {
    fn schema_name() -> Cow<'static, str> {
        "Watchdog".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "what is done when work is so long over its expected time, each step at most once: warn, lower (to the lowest class, until it ends), pause, kill (the process); none does nothing",
            "examples": ["warn:2s,lower:5s,pause:10s,kill:30s", "none"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["none", "kill:5s", "warn:2s,lower:5s,pause:10s,kill:30s", "warn:1500ms,kill:2m"] {
            let watchdog: Watchdog = text.parse().unwrap();
            assert_eq!(watchdog.to_string(), text);
            assert_eq!(serde_json::from_value::<Watchdog>(text.into()).unwrap(), watchdog);
        }
        let read: Watchdog = "kill:90s,warn:1000ms".parse().unwrap();
        assert_eq!(read.after_ms(), [Some(1000), None, None, Some(90_000)]);
        assert_eq!(Watchdog::default().to_string(), "none");
    }

    #[test]
    fn what_is_no_watchdog_is_refused_with_its_text() {
        for text in [
            "",
            "kill",
            "kill:",
            "kill:5",
            "kill:0s",
            "kill:999ms",
            "kill:-5s",
            "kill:1441m",
            "kill:é",
            "end:5s",
            "kill:5s,",
            "kill:5s,kill:6s",
            "warn:6s,kill:5s",
            "kill:99999999999999999999s",
            "none,kill:5s",
        ] {
            assert!(text.parse::<Watchdog>().expect_err(text).contains(&format!("\"{text}\"")));
        }
    }
}
