//! Credentials cannot reach a log: what would print them prints their kind alone.

use std::fmt;

use crate::Credential;

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Grant;

    #[test]
    fn a_printed_grant_shows_no_secret() {
        let secret = || "hunter2".to_owned();
        let credential = Credential {
            username: "me".to_owned(),
            password: secret(),
            identity_token: secret(),
            registry_token: secret(),
        };
        let grant = Grant {
            reference: "r.example/a:1".to_owned(),
            credentials: vec![credential],
            ..Grant::default()
        };
        let printed = format!("{grant:?}");
        assert!(printed.contains("r.example/a:1"), "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
