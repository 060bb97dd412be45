//! Certificate authorities of the coordinator's own, and the certificates that they sign.
//!
//! An authority is known by when it was made and when it ends: everything else in its certificate follows from that.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// Certificates begin this long before they are made: clocks of nodes differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A certificate authority with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// When it was made.
    pub created: Timestamp,
    /// When it and all that it signed ends.
    pub expires: Timestamp,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM (PKCS #8).
    pub key: String,
}

/// The key stays out of every log.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("created", &self.created)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes one. Its key is random, everything else follows from the arguments.
    pub fn generate(now: Timestamp, lifetime: Duration) -> Result<Self, rcgen::Error> {
        let expires = now.checked_add(lifetime).unwrap_or(Timestamp::MAX);
        let key = KeyPair::generate()?;
        Ok(Self {
            created: now,
            expires,
            certificate: params(now, expires).self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A certificate for a server of these DNS names, and its key, which only this process knows. It ends with the authority.
    pub fn sign(
        &self,
        names: &[String],
        now: Timestamp,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let issuer_params = params(self.created, self.expires);
        let issuer = Issuer::from_params(&issuer_params, KeyPair::from_pem(&self.key)?);
        let mut leaf = CertificateParams::new(names)?;
        if let Some(name) = names.first() {
            leaf.distinguished_name.push(DnType::CommonName, name);
        }
        set_term(&mut leaf, now, self.expires);
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((certificate.der().clone(), key))
    }
}

fn params(created: Timestamp, expires: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Authorities that overlap need names of their own.
    params.distinguished_name.push(
        DnType::CommonName,
        format!("drop-coordinator {}", created.as_millisecond()),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_term(&mut params, created, expires);
    params
}

fn set_term(params: &mut CertificateParams, begins: Timestamp, ends: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch =
        |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    params.not_before = epoch + since_epoch(begins).saturating_sub(BACKDATE);
    params.not_after = epoch + since_epoch(ends);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_says_nothing_of_its_key() {
        let authority =
            Authority::generate(Timestamp::UNIX_EPOCH, Duration::from_secs(60)).unwrap();
        let shown = format!("{authority:?}");
        assert!(
            shown.contains("created") && !shown.contains("PRIVATE"),
            "{shown}"
        );
        assert!(
            authority.key.contains("PRIVATE KEY"),
            "the key is kept, though"
        );
    }

    #[test]
    fn a_clock_before_1970_makes_no_panic() {
        let before = Timestamp::from_second(-1).unwrap();
        let authority = Authority::generate(before, Duration::MAX).unwrap();
        assert!(authority.sign(&["a.svc".to_owned()], before).is_ok());
    }
}
