//! Errors: each names the value, the rule that it breaks, and what to do.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of error it is; decides the HTTP status and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is malformed: 400, exit code 1.
    Invalid,
    /// The request is understood and refused by a rule: 422, exit code 3.
    Refused,
    /// The caller may not do this: 403, exit code 3.
    Forbidden,
    /// There is no such thing: 404, exit code 4.
    NotFound,
    /// It is there already, or in use: 409, exit code 5.
    Conflict,
    /// The machine can't: no driver, no room, no answer: 503, exit code 1.
    Unavailable,
    /// A fault of the daemon: 500, exit code 1.
    Internal,
}

impl ErrorCode {
    /// HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Refused => 422,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// Exit code of the command line.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Invalid | Self::Unavailable | Self::Internal => 1,
            Self::Refused | Self::Forbidden => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
        }
    }
}

/// Body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}{}", hint.as_deref().map(|h| format!("\n  {h}")).unwrap_or_default())]
pub struct ErrorBody {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// The value and the rule it breaks.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ErrorBody {
    /// An error of kind `code`: the value and the rule in `message`, the way out in `hint`.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        Self { code, message: message.into(), hint: (!hint.is_empty()).then_some(hint) }
    }
}
