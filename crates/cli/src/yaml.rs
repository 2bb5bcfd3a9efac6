//! YAML that people write.
use cleave_api::{ErrorBody, ErrorCode};
use serde::de::DeserializeOwned;

/// Reads a document; `name` is the file's.
pub(crate) fn read<T: DeserializeOwned>(name: &str, text: &str, hint: &str) -> Result<T, ErrorBody> {
    cleave_plan::yaml::read(text).map_err(|why| ErrorBody::new(ErrorCode::Invalid, format!("{name}: {why}"), hint))
}
