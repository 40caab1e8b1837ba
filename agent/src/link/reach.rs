//! Whether the server is there for this host: one small call with its certificate that asks for nothing and
//! changes nothing.

use std::time::Duration;

use refit_proto::trust::{Role, metadata::limits};

use super::CallError;
use crate::trusted::Source;

/// Longer than a slow link takes to connect and answer.
const LONGEST: Duration = Duration::from_secs(60);

/// Asks the server for the newest timestamp.
///
/// # Errors
/// If it does not give it.
pub async fn reach(server: &impl Source) -> Result<(), CallError> {
    let asked = server.metadata(&Role::Timestamp, None, limits::TIMESTAMP);
    match tokio::time::timeout(LONGEST, asked).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(CallError::weather(format!(
            "the server did not answer within {} s",
            LONGEST.as_secs()
        ))),
    }
}
