//! Amounts as people write them.
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Memory: bytes (`10GiB`, `512MiB`, `8GB`, `1073741824`), or a part of the card (`25%`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MemoryAmount {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the card.
    Percent(Percent),
}

/// A part in percent, above 0 and at most 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(f64);

/// A part as a fraction: `1/8`, `1/4`, `1/2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fraction {
    part: u32,
    whole: u32,
}

/// How many times over a GPU's memory may be promised, from 1 to 100: a number, as in `1.5`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(with = "f64")]
pub struct Factor(f64);

const MIB: u64 = 1 << 20;
const UNITS: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", MIB),
    ("KiB", 1 << 10),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", MIB),
    ("Ki", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

impl MemoryAmount {
    /// Bytes of a card of `card_bytes`; parts are rounded down to whole MiB.
    pub fn of(self, card_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => percent.of(card_bytes),
        }
    }
}

impl Percent {
    /// A part of `value` percent, if it is above 0 and at most 100.
    pub fn new(value: f64) -> Option<Self> {
        (value > 0.0 && value <= 100.0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Bytes of a card of `card_bytes`, rounded down to whole MiB.
    pub fn of(self, card_bytes: u64) -> u64 {
        // In thousandths of a percent, so that 25 % of a card is exact.
        let thousandths = (self.0 * 1000.0).round() as u128;
        ((u128::from(card_bytes) * thousandths / 100_000) as u64) / MIB * MIB
    }
}

impl Fraction {
    /// Bytes of a card of `card_bytes`, rounded down to whole MiB.
    pub fn of(self, card_bytes: u64) -> u64 {
        ((u128::from(card_bytes) * u128::from(self.part) / u128::from(self.whole)) as u64) / MIB * MIB
    }

    /// In percent.
    pub fn percent(self) -> Percent {
        Percent(f64::from(self.part) * 100.0 / f64::from(self.whole))
    }
}

impl Factor {
    /// Not more than there is.
    pub const ONE: Self = Self(1.0);

    /// Bytes that may be promised of a card of `card_bytes`, to thousandths of the card.
    pub fn of(self, card_bytes: u64) -> u64 {
        (u128::from(card_bytes) * (self.0 * 1000.0).round() as u128 / 1000) as u64
    }
}

impl TryFrom<f64> for Factor {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        let fits = (1.0..=100.0).contains(&value);
        fits.then_some(Self(value)).ok_or_else(|| format!("{value} is no factor: it must be from 1 to 100, as in 1.5"))
    }
}

impl From<Factor> for f64 {
    fn from(factor: Factor) -> f64 {
        factor.0
    }
}

impl FromStr for Factor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number = plain.then(|| text.parse::<f64>().ok()).flatten();
        let number = number.and_then(|number| Self::try_from(number).ok());
        number.ok_or_else(|| format!("\"{text}\" is no factor: it must be from 1 to 100, as in 1.5"))
    }
}

impl FromStr for MemoryAmount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.ends_with('%') {
            return text.parse().map(Self::Percent);
        }
        let bad = || {
            format!(
                "memory \"{text}\" is not an amount: write bytes with a unit (10GiB, 512MiB, 8GB) or a part of the card (25%)"
            )
        };
        let (number, scale) = UNITS
            .iter()
            .find_map(|(unit, scale)| text.strip_suffix(unit).map(|n| (n.trim_end(), *scale)))
            .unwrap_or((text, 1));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(bad());
        }
        let value: f64 = number.parse().map_err(|_| bad())?;
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(scale).ok_or_else(bad)?,
            Err(_) => {
                let bytes = value * scale as f64;
                if bytes >= u64::MAX as f64 {
                    return Err(bad());
                }
                bytes as u64
            }
        };
        if bytes == 0 {
            return Err(format!("memory \"{text}\" is nothing: it must be above 0"));
        }
        Ok(Self::Bytes(bytes))
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').unwrap_or(text.trim());
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        plain
            .then(|| number.parse().ok())
            .flatten()
            .and_then(Self::new)
            .ok_or_else(|| format!("\"{text}\" is not a percentage: it must be above 0 and at most 100, as in 30%"))
    }
}

impl FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.trim().split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parsed {
            Some((part, whole)) if part > 0 && part <= whole => Ok(Self { part, whole }),
            _ => Err(format!("fraction \"{text}\" is not a part of one: write it as 1/8, 1/4 or 1/2")),
        }
    }
}

impl fmt::Display for MemoryAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => match UNITS.iter().take(4).find(|(_, scale)| bytes.is_multiple_of(*scale)) {
                Some((unit, scale)) => write!(f, "{}{unit}", bytes / scale),
                None => write!(f, "{bytes}"),
            },
            Self::Percent(percent) => percent.fmt(f),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.whole)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes for people: `9.77 GiB`, `512 MiB`, `0 B`.
pub fn format_bytes(bytes: u64) -> String {
    match UNITS.iter().take(4).find(|(_, scale)| bytes >= *scale) {
        Some((unit, scale)) if bytes.is_multiple_of(*scale) => format!("{} {unit}", bytes / scale),
        Some((unit, scale)) => format!("{:.2} {unit}", bytes as f64 / *scale as f64),
        None => format!("{bytes} B"),
    }
}

macro_rules! as_text {
    ($($name:ident: $example:literal),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "examples": [$example] })
            }
        }
    )*};
}
as_text!(MemoryAmount: "10GiB", Percent: "30%", Fraction: "1/4");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        let cases = [
            ("10GiB", 10 << 30),
            ("1.5GiB", 3 << 29),
            ("512 MiB", 512 << 20),
            ("8GB", 8_000_000_000),
            ("2Gi", 2 << 30),
            ("1073741824", 1 << 30),
            ("1073741824B", 1 << 30),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(MemoryAmount::Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_its_text() {
        for text in [
            "",
            "GiB",
            "-1GiB",
            "10GiBs",
            "ten",
            "1e9",
            "inf",
            "NaN",
            "0",
            "0GiB",
            "99999999999TiB",
            "0%",
            "101%",
            "-5%",
            "%",
        ] {
            let error = text.parse::<MemoryAmount>().expect_err(text);
            assert!(error.contains(text), "{error}");
        }
        for text in ["1/0", "0/4", "5/4", "1", "a/b", "-1/2", "1/-2"] {
            assert!(text.parse::<Fraction>().expect_err(text).contains(text));
        }
    }

    /// A9: `1/8`, `1/4` and `1/2` give whole MiB, rounded down, and the percentage.
    #[test]
    fn fractions_give_exact_mib_and_percent() {
        let card = 85_017_493_504;
        for (text, mib, percent) in [("1/8", 10_134, 12.5), ("1/4", 20_269, 25.0), ("1/2", 40_539, 50.0)] {
            let fraction: Fraction = text.parse().unwrap();
            assert_eq!(fraction.of(card), mib << 20, "{text}");
            assert_eq!(fraction.percent().get(), percent);
            assert_eq!(fraction.to_string(), text);
        }
    }

    #[test]
    fn a_factor_is_from_1_to_100() {
        let factor: Factor = "1.5".parse().unwrap();
        assert_eq!((factor.of(80 << 30), factor.to_string().as_str()), (120 << 30, "1.5"));
        assert_eq!(Factor::ONE.of(85_017_493_504), 85_017_493_504);
        assert_eq!(serde_json::to_string(&factor).unwrap(), "1.5");
        assert_eq!(serde_json::from_str::<Factor>("2").unwrap(), "2".parse().unwrap());
        for text in ["", "0.99", "101", "-2", "1.5x", "inf", "NaN", "true"] {
            assert!(text.parse::<Factor>().expect_err(text).contains(text));
        }
        assert!(serde_json::from_str::<Factor>("0.5").unwrap_err().to_string().contains("0.5"));
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["10GiB", "512MiB", "25%", "12.5%", "1000000001"] {
            let amount: MemoryAmount = text.parse().unwrap();
            assert_eq!(amount.to_string().parse(), Ok(amount));
        }
        assert_eq!(format_bytes(0), "0 B");
        assert_eq!(format_bytes(10 << 30), "10 GiB");
        assert_eq!(format_bytes(543_162_368), "518 MiB");
    }
}
