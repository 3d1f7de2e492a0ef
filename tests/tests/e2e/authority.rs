//! An authority of a test's own: certificates for servers and clients, as files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Signs certificates, and puts them into a folder of its own.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub file: String,
}

/// A certificate and its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(folder: PathBuf, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        let file = write(&folder, &format!("{name}.crt"), &own.pem());
        Authority { folder, issuer: Issuer::new(params, key), file }
    }

    /// For a host, or a client, of this name.
    pub fn sign(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: write(&self.folder, &format!("{name}.crt"), &signed.pem()),
            key: write(&self.folder, &format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// A folder as scripts/servers.sh wants it in TIDEMILL_TLS: a certificate for this host, and who comes in and how.
    pub fn folder_of_server(&self, host: &str, pg_hba: &str) -> PathBuf {
        let folder = self.folder.join(format!("server-{}", pg_hba.len()));
        std::fs::create_dir_all(&folder).unwrap();
        let identity = self.sign(host);
        for (from, to) in [(&identity.certificate, "server.crt"), (&identity.key, "server.key"), (&self.file, "ca.crt")]
        {
            std::fs::copy(from, folder.join(to)).unwrap();
        }
        write(&folder, "pg_hba.conf", pg_hba);
        folder
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
