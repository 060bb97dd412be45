//! What a registry takes as proof of who asks.

/// One way to log in at a registry.
///
/// It has no `Debug`, so that it cannot reach a log, and lives in memory only.
///
/// ```compile_fail
/// println!("{:?}", drop_oci::Credential::Anonymous);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// No proof: the registry gives what it gives to everybody.
    Anonymous,
    /// Name and password, as Basic authentication and the token endpoints take them.
    Basic {
        /// Who asks.
        username: String,
        /// The secret.
        password: String,
    },
    /// An OAuth 2 refresh token (`identitytoken` in a docker configuration), exchanged for a bearer token by POST.
    IdentityToken(String),
    /// A bearer token that the registry takes as it is (`registrytoken` in a docker configuration).
    RegistryToken(String),
}
