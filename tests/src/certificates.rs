//! The cluster's own certificate authority: a server certificate for 127.0.0.1 and client certificates for any user.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// A certificate authority whose certificate stands in a file.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    /// Makes a new one; all its files go to `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "drop-test-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self {
            issuer,
            folder: folder.to_owned(),
        };
        write(&authority.certificate(), &authority.issuer.pem())?;
        Ok(authority)
    }

    /// The file with its own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Its own certificate and key as PEM, for a kube-controller-manager that signs.
    pub fn key(&self) -> Result<PathBuf> {
        let path = self.folder.join("ca.key");
        write(&path, &self.issuer.key().serialize_pem())?;
        Ok(path)
    }

    /// A certificate for servers on loopback: `<name>.crt` and `<name>.key`.
    pub fn serve(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let names = [
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        self.serve_names(name, &names)
    }

    /// A certificate for a server of these names: `<file>.crt` and `<file>.key`.
    pub fn serve_names(&self, name: &str, names: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        self.issue(name, &params)
    }

    /// A client certificate for a Kubernetes user and its groups: `<name>.crt` and `<name>.key`.
    pub fn identify(&self, name: &str, user: &str, groups: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::default();
        // A distinguished name holds one value of a kind here; Kubernetes reads one group from each organisation, so
        // further groups need a certificate with more than rcgen can express.
        anyhow::ensure!(
            groups.len() <= 1,
            "a client certificate of the testbed has at most one group"
        );
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *group);
        }
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        self.issue(name, &params)
    }

    fn issue(&self, name: &str, params: &CertificateParams) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (certificate_file, key_file) = self.pair(name);
        write(&certificate_file, &certificate.pem())?;
        write(&key_file, &key.serialize_pem())?;
        Ok((certificate_file, key_file))
    }

    /// A bare key pair, as service account tokens are signed with: public and private file.
    pub fn signing_key(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let public = self.folder.join(format!("{name}.pub"));
        let private = self.folder.join(format!("{name}.key"));
        write(&public, &key.public_key_pem())?;
        write(&private, &key.serialize_pem())?;
        Ok((public, private))
    }

    fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        (
            self.folder.join(format!("{name}.crt")),
            self.folder.join(format!("{name}.key")),
        )
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
