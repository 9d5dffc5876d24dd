//! What the commands of a recipe may take: how long each, how much of the disk together.
//!
//! A bound decides whether there is an image, never what is in it: digests of recipes leave bounds out.

use std::time::Duration;

use insula_model::Bytes;

use super::parse::RecipeValueError;

/// Time for a command that does not say: downloads and compilers of images keep within.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// Most bytes that commands write when a recipe does not say.
const LAYER_SIZE_DEFAULT: Bytes = Bytes::mib(10 << 10);

/// Longest time of a command.
pub(super) fn timeout(given_ms: Option<u64>) -> Result<Duration, RecipeValueError> {
    match given_ms {
        Some(0) => Err(RecipeValueError::Zero),
        given => Ok(given.map_or(TIMEOUT_DEFAULT, Duration::from_millis)),
    }
}

/// Most bytes that the commands may write.
pub(super) fn layer_size(given: Option<Bytes>) -> Result<Bytes, RecipeValueError> {
    match given {
        Some(Bytes(0)) => Err(RecipeValueError::Zero),
        given => Ok(given.unwrap_or(LAYER_SIZE_DEFAULT)),
    }
}
