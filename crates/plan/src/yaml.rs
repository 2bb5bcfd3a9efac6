//! YAML that people write: what is wrong with it is said with its line and its key.
use serde::de::DeserializeOwned;

/// Reads a document. An error is one line: which line and key, and the rule.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let said = error.to_string();
        let place = error.location().map(|location| usize::try_from(location.line()).unwrap_or(0));
        let rule = said.rsplit_once(" at line").map_or(said.as_str(), |(rule, _)| rule);
        match place.filter(|line| *line > 0) {
            Some(line) => format!("line {line}, `{}`: {rule}", shown(text, line)),
            None => rule.to_owned(),
        }
    })
}

/// A line as it stands there, cut where it is long; after the key that it belongs to, if it sets none.
fn shown(text: &str, line: usize) -> String {
    let line = line.saturating_sub(1);
    let own: String = text.lines().nth(line).unwrap_or_default().trim().chars().take(80).collect();
    let key = |line: &str| Some(line.split_once(':')?.0.trim_start_matches([' ', '-']).to_owned());
    let above = || text.lines().take(line).filter_map(key).last();
    match own.contains(':') {
        true => own,
        false => above().map_or(own.clone(), |key| format!("{key}: … {own}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Thing {
        size: u32,
        parts: BTreeMap<String, u32>,
    }

    #[test]
    fn what_is_wrong_is_said_with_line_key_and_rule() {
        for (text, words) in [
            ("size: many\nparts: {}\n", ["line 1", "`size: many`", "invalid u32"]),
            ("size: 1\nparts:\n  a: 2\n  b: x\n", ["line 4", "`b: x`", "invalid u32"]),
            ("size: 1\nparts: {}\ncolour: red\n", ["line 3", "`colour: red`", "unknown field"]),
            ("size: 1\n", ["missing field", "parts", ""]),
            ("size: [1\n", ["line", "size", ""]),
            ("parts:\n  - a\nsize: 1\n", ["line 2", "`parts: … - a`", "map"]),
        ] {
            let error = read::<Thing>(text).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{text:?}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
        assert_eq!(read::<Thing>("size: 1\nparts: {a: 2}").unwrap().parts["a"], 2);
    }
}
