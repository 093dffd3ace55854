//! Connections to PostgreSQL, encrypted as their address asks, in libpq's terms.
//!
//! `sslmode` is `disable`, `prefer` (the default: TLS where the server has it, its certificate not
//! looked at), `require` (TLS or nothing), `verify-ca` (a certificate that an authority of
//! `sslrootcert` signed) or `verify-full` (and made out to the host's name). `sslrootcert` is a file
//! of certificates, `system` for those that browsers trust, or else `~/.postgresql/root.crt` where
//! there is one; with a file, `require` is `verify-ca`. `PGSSLMODE`, `PGSSLROOTCERT` and `PGPASSWORD`
//! stand in for what the address leaves out. A Unix socket has no TLS, whatever the mode.

use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use postgres::config::{Host, SslMode};
use postgres::{Client, Config, NoTls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore};
use rustls::{Error as TlsError, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::Error;

/// Connects to a `postgres://` address; notices go to standard error.
///
/// # Errors
/// [`Error::Database`] for what server and handshake say, the others for an address or a file of
/// certificates that cannot be used.
pub fn connect(address: &str, application: &str) -> Result<Client, Error> {
    let (address, mode) = take_parameter(address, "sslmode");
    let (address, roots) = take_parameter(&address, "sslrootcert");
    let mut config: Config = address.parse()?;
    if let (None, Ok(password)) = (config.get_password(), std::env::var("PGPASSWORD")) {
        config.password(password);
    }
    config.application_name(application);
    config.notice_callback(|notice| eprintln!("{}: {}", notice.severity(), notice.message()));
    let mode = Mode::parse(mode.or_else(|| std::env::var("PGSSLMODE").ok()).as_deref())?;
    let on_socket = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    if mode == Mode::Disable || on_socket {
        config.ssl_mode(SslMode::Disable);
        return Ok(config.connect(NoTls)?);
    }
    let roots = Roots::find(roots.or_else(|| std::env::var("PGSSLROOTCERT").ok()), mode)?;
    config.ssl_mode(if mode == Mode::Prefer { SslMode::Prefer } else { SslMode::Require });
    Ok(config.connect(MakeRustlsConnect::new(client_config(mode, roots)?))?)
}

/// An address without one of its parameters, and that parameter's value.
fn take_parameter(address: &str, name: &str) -> (String, Option<String>) {
    let Some((base, parameters)) = address.split_once('?') else {
        return (address.to_owned(), None);
    };
    let mut value = None;
    let mut kept = Vec::new();
    for parameter in parameters.split('&') {
        match parameter.split_once('=') {
            Some((key, text)) if key == name => {
                value = Some(percent_decode_str(text).decode_utf8_lossy().into_owned());
            }
            _ => kept.push(parameter),
        }
    }
    let mark = if kept.is_empty() { "" } else { "?" };
    (format!("{base}{mark}{}", kept.join("&")), value)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    fn parse(text: Option<&str>) -> Result<Mode, Error> {
        match text {
            None | Some("prefer" | "allow") => Ok(Mode::Prefer),
            Some("disable") => Ok(Mode::Disable),
            Some("require") => Ok(Mode::Require),
            Some("verify-ca") => Ok(Mode::VerifyCa),
            Some("verify-full") => Ok(Mode::VerifyFull),
            Some(other) => Err(Error::Address {
                parameter: "sslmode",
                expected: "disable, prefer, require, verify-ca or verify-full",
                got: other.to_owned(),
            }),
        }
    }
}

/// The authorities that are trusted.
enum Roots {
    /// Nobody was named.
    None,
    System,
    Certificates(Vec<CertificateDer<'static>>),
}

impl Roots {
    fn find(named: Option<String>, mode: Mode) -> Result<Roots, Error> {
        let file = match named.as_deref() {
            Some("system") => return Ok(Roots::System),
            Some(file) => PathBuf::from(file),
            None => {
                let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
                let file = home.join(".postgresql/root.crt");
                if !file.exists() && matches!(mode, Mode::Prefer | Mode::Require) {
                    return Ok(Roots::None);
                }
                file
            }
        };
        let expected = "certificates in PEM form (sslrootcert names another file, or system)";
        let unreadable = |_| Error::missing(&file, expected);
        let certificates: Vec<_> = CertificateDer::pem_file_iter(&file)
            .map_err(unreadable)?
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        if certificates.is_empty() {
            return Err(Error::missing(&file, expected));
        }
        Ok(Roots::Certificates(certificates))
    }
}

fn client_config(mode: Mode, roots: Roots) -> Result<ClientConfig, Error> {
    let refused = |error: &dyn std::fmt::Display| Error::Address {
        parameter: "sslrootcert",
        expected: "certificates of authorities",
        got: error.to_string(),
    };
    let provider = Arc::new(ring::default_provider());
    let mut store = RootCertStore::empty();
    let mut pinned = Vec::new();
    match roots {
        Roots::None => {}
        Roots::System => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Roots::Certificates(certificates) => {
            for certificate in &certificates {
                store.add(certificate.clone()).map_err(|error| refused(&error))?;
            }
            pinned = certificates;
        }
    }
    let check = match mode {
        Mode::VerifyFull => Check::ChainAndName,
        Mode::VerifyCa => Check::Chain,
        Mode::Require if !store.is_empty() => Check::Chain,
        Mode::Disable | Mode::Prefer | Mode::Require => Check::Nothing,
    };
    let chains = if store.is_empty() {
        None
    } else {
        let built = WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone());
        Some(built.build().map_err(|error| refused(&error))?)
    };
    let verifier = Arc::new(Verifier { check, chains, pinned, provider: provider.clone() });
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of TLS 1.2 and 1.3");
    Ok(versions.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    chains: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of the file, of which one may be the server's own.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(chains) = self.chains.as_ref().filter(|_| self.check != Check::Nothing) else {
            return Ok(ServerCertVerified::assertion());
        };
        // A self-made certificate is its own authority, which the chain's rules do not allow.
        if self.pinned.contains(end_entity) {
            if self.check == Check::ChainAndName {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified =
            chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last, after the chain.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Chain => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Error {
    /// The same with the place of a source of training data, where it is the server's.
    pub fn at(self, place: String, what: &'static str) -> Error {
        match self {
            Error::Database(source) => Error::Query { place, what, source },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_out_of_an_address() {
        let address = "postgres://u@h:1/d?sslmode=verify-full&host=%2Ftmp&sslrootcert=%2Fa%20b";
        let (rest, mode) = take_parameter(address, "sslmode");
        let (rest, roots) = take_parameter(&rest, "sslrootcert");
        assert_eq!(rest, "postgres://u@h:1/d?host=%2Ftmp");
        assert_eq!((mode.as_deref(), roots.as_deref()), (Some("verify-full"), Some("/a b")));
        let bare = take_parameter("postgres://u@h/d?sslmode=require", "sslmode").0;
        assert_eq!(bare, "postgres://u@h/d");
        assert!(Mode::parse(Some("verify-all")).is_err());
    }
}
