//! When an idle slice's memory leaves its GPUs.
use crate::watchdog::{milliseconds, time_text};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// `30s`: a slice that was idle for so long is suspended, also sooner if another one needs the room; `none`: never by itself.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct SuspendAfter(Option<u64>);

impl SuspendAfter {
    /// The time in ms.
    pub fn ms(self) -> Option<u64> {
        self.0
    }
}

impl FromStr for SuspendAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let ms = milliseconds(text)
            .ok_or_else(|| format!("\"{text}\" is no time from 1s to 1440m, in m, s or ms; as in 30s, or none"))?;
        Ok(Self(Some(ms)))
    }
}

impl fmt::Display for SuspendAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map_or("none".into(), time_text))
    }
}

impl TryFrom<String> for SuspendAfter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SuspendAfter> for String {
    fn from(after: SuspendAfter) -> String {
        after.to_string()
    }
}

impl JsonSchema for SuspendAfter {
    fn schema_name() -> Cow<'static, str> {
        "SuspendAfter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "after so much idleness the slice's memory leaves its GPUs, sooner if another slice needs the room; none: not by itself",
            "examples": ["30s", "5m", "none"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["none", "1s", "90s", "5m", "1500ms"] {
            let after: SuspendAfter = text.parse().unwrap();
            assert_eq!(after.to_string(), text);
        }
        for text in ["", "0s", "soon", "30", "2d", "500ms"] {
            assert!(text.parse::<SuspendAfter>().unwrap_err().contains("none"), "{text}");
        }
    }
}
