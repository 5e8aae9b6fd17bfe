//! The key of address validation tokens (RFC 9000 8.1) from a file, so that tokens outlive the
//! process and count at every gateway behind one address.

use std::path::Path;

use super::error::{Kind, TlsError};
use super::files::read_secret;

/// Reads the key from a file: its first 64 bytes, which are random, in binary or in hexadecimal
/// form. It is open to nobody else, as the file of a private key is.
pub(crate) fn token_key(path: &Path) -> Result<[u8; 64], TlsError> {
    let secret = read_secret(path)?;
    match secret.first_chunk() {
        Some(key) => Ok(*key),
        None => Err(TlsError::of(path, Kind::TokenKeyTooShort { len: secret.len() })),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_key_is_long_enough_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        let read = |bytes: &[u8], mode| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            token_key(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[7; 64], 0o600), Ok([7; 64]));
        assert_eq!(read(&[7; 100], 0o400), Ok([7; 64]));
        let short = read(&[7; 63], 0o600).unwrap_err();
        assert!(short.contains("63 bytes") && short.contains("head -c 64"), "{short}");
        assert!(read(&[7; 64], 0o644).unwrap_err().contains("0644"));
        fs::remove_file(&path).unwrap();
        assert!(token_key(&path).unwrap_err().to_string().contains("cannot be read"));
    }
}
