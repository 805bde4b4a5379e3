//! How this agent says what went wrong: what was being done, why it failed, and the next step.

use std::error::Error;
use std::fmt::Write;

use rotation::{Fault, FaultCode};

use crate::durable::DurableError;

/// A fault that trying again does not cure. The node is filled in where the report leaves.
pub(crate) fn fault(code: FaultCode, message: impl Into<String>, next_step: impl Into<String>) -> Fault {
    Fault { code, node: None, message: message.into(), next_step: next_step.into(), retryable: false }
}

/// A fault that may be gone the next time.
pub(crate) fn retryable(code: FaultCode, message: impl Into<String>, next_step: impl Into<String>) -> Fault {
    Fault { retryable: true, ..fault(code, message, next_step) }
}

/// The agent's own files cannot be read or written.
pub(crate) fn durable(error: &DurableError) -> Fault {
    retryable(
        FaultCode::Internal,
        chain("keeping the agent's own state", error),
        "see that state_dir of the agent's configuration is writable, and make room if its disk is full; it is tried again",
    )
}

/// What was being done, then the error and all its sources, each once.
pub(crate) fn chain(doing: &str, error: &dyn Error) -> String {
    let mut text = format!("{doing}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
