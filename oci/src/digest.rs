//! Digests of bytes, as registries write them: `sha256:` and lower-case hexadecimal digits.

use std::fmt::Write;

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

use crate::reference::grammar;

/// The sha256 digest of `bytes`, which is what a registry names a manifest by.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    with("sha256", &SHA256, bytes)
}

/// Whether `expected` is the digest of `bytes` under its own algorithm. What is no digest fits nothing.
#[must_use]
pub fn fits(expected: &str, bytes: &[u8]) -> bool {
    let computed = match expected.split_once(':') {
        Some(("sha256", _)) => with("sha256", &SHA256, bytes),
        Some(("sha384", _)) => with("sha384", &SHA384, bytes),
        Some(("sha512", _)) => with("sha512", &SHA512, bytes),
        _ => return false,
    };
    computed == expected
}

/// Whether `text` is a whole digest of a known algorithm.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    grammar::is_digest(text)
}

fn with(name: &str, algorithm: &'static Algorithm, bytes: &[u8]) -> String {
    let mut text = format!("{name}:");
    for byte in digest(algorithm, bytes).as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_sha256sum_says() {
        let drop = "sha256:d90ee9ccf6bea1d2942a7b21319338198dec2a746f8a0d0771621f00da2e0864";
        assert_eq!(of(b"drop"), drop);
        assert!(fits(drop, b"drop"));
        assert!(!fits(drop, b"Drop"));
    }

    #[test]
    fn each_algorithm_is_checked_as_itself_and_an_unknown_one_fits_nothing() {
        let sha512 = with("sha512", &SHA512, b"drop");
        assert!(is_digest(&sha512) && fits(&sha512, b"drop"));
        assert!(!fits("md5:d41d8cd98f00b204e9800998ecf8427e", b""));
        assert!(!fits("", b""));
    }
}
