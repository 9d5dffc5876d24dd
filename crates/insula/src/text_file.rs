//! Text files that the user names: read whole, and bounded, since a device or a pipe has no length to ask for.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::failure::Failure;

/// The text of the file at `path`, of `bytes_max` bytes at most.
///
/// # Errors
///
/// It cannot be read, is no UTF-8, or is longer.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<String, Failure> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_string(&mut text))
        .map_err(|source| Failure::File { action: "read", path: path.to_owned(), source })?;
    if text.len() as u64 > bytes_max {
        let reason = format!("it has more than {bytes_max} bytes, which is all that is read of such a file");
        return Err(Failure::argument(path.display().to_string(), reason));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_waited_for() {
        let failure = read(Path::new("/dev/zero"), 1 << 10).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.chain().starts_with("/dev/zero: it has more than 1024 bytes"), "{}", failure.chain());
        assert_eq!(read(Path::new("/dev/null"), 1 << 10).unwrap(), "");
    }
}
