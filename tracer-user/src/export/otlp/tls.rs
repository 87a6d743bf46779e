//! Whom to trust: the certificates of a file, else the system's.
//!
//! The same policy for both transports, which each have a type of their own for it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig};

/// A file of certificates; a bundle of all public authorities has 0.2 MB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

pub(super) fn for_grpc(certificate: Option<&Path>) -> anyhow::Result<ClientTlsConfig> {
    Ok(match certificate {
        None => ClientTlsConfig::new().with_native_roots(),
        Some(path) => {
            let pem = read(path)?;
            // tonic takes a file without a certificate for one that trusts nobody.
            certificates(&pem, path)?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
    })
}

pub(super) fn for_http(certificate: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match certificate {
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                bail!(
                    "no certificates to trust were found on this system: name a file in OTEL_EXPORTER_OTLP_CERTIFICATE"
                );
            }
        }
        Some(path) => {
            for certificate in certificates(&read(path)?, path)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("use the certificate in {}", path.display()))?;
            }
        }
    }
    client(roots)
}

/// For a connector that will make plain connections only.
pub(super) fn unused() -> anyhow::Result<ClientConfig> {
    client(RootCertStore::empty())
}

fn client(roots: RootCertStore) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("read the certificate {}", path.display());
    let size = std::fs::metadata(path).with_context(context)?.len();
    if size > MAX_FILE_BYTES {
        bail!("{} is no certificate file: it has {size} bytes", path.display());
    }
    std::fs::read(path).with_context(context)
}

fn certificates(pem: &[u8], path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("read the certificate {}", path.display()))?;
    if certificates.is_empty() {
        bail!("{} contains no PEM certificate", path.display());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let expected = format!("{} contains no PEM certificate", path.display());
        assert_eq!(for_http(Some(path)).unwrap_err().to_string(), expected);
        assert_eq!(for_grpc(Some(path)).unwrap_err().to_string(), expected);
        let error = for_http(Some(Path::new("/nowhere.pem"))).unwrap_err();
        assert_eq!(error.to_string(), "read the certificate /nowhere.pem");
    }
}
