//! TLS of the applications' own kind (`tls.mode: SIMPLE` and `MUTUAL`): which
//! roots, which names, which certificate of ours.
//!
//! Files are read when the first connection needs them and again once they are
//! a minute old, so that what is rotated on disk gets into use.

use linnet_mesh::{
    destination::{ClientTls, Origination},
    protocol::MeshProtocol,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    fmt::Display,
    fs::File,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

mod verifier;

/// How long what was read is taken for what is there.
const FRESH: Duration = Duration::from_secs(60);

/// The longest file that is read, bytes: systems' own roots are a quarter of it.
const LONGEST_FILE: u64 = 1 << 20;

/// What a connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// Makes and keeps TLS configurations of one plan.
#[derive(Debug, Default)]
pub(crate) struct Originator(Mutex<Option<Kept>>);

/// When it was made, and what came of it.
type Kept = (Instant, Result<Made, String>);

/// One for each protocol.
#[derive(Clone, Debug)]
struct Made {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    opaque: Arc<ClientConfig>,
}

impl Originator {
    /// What a connection to a host needs.
    ///
    /// # Errors
    /// Which field can't be followed, and why.
    pub(crate) fn hello(
        &self,
        tls: &ClientTls,
        hostname: &str,
        protocol: MeshProtocol,
    ) -> Result<Hello, String> {
        let server = match tls {
            ClientTls::Simple(server) | ClientTls::Mutual { server, .. } => server,
            ClientTls::Auto | ClientTls::Disable | ClientTls::IstioMutual => {
                return Err("this mode makes no TLS of the application's kind".to_owned());
            }
        };
        let host = server.sni.as_deref().unwrap_or(hostname);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("sni: {host:?} is not a host name"))?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let made = match &*kept {
            Some((since, made)) if now.saturating_duration_since(*since) < FRESH => made.clone(),
            _ => {
                let made = make(tls, server);
                *kept = Some((now, made.clone()));
                made
            }
        }?;
        let config = match protocol {
            MeshProtocol::Shared | MeshProtocol::Http1 => made.http1,
            MeshProtocol::Http2 => made.http2,
            MeshProtocol::Opaque => made.opaque,
        };
        Ok(Hello { config, name })
    }
}

fn make(tls: &ClientTls, server: &Origination) -> Result<Made, String> {
    let provider = linnet_runtime::tls::provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = if server.insecure_skip_verify {
        verifier::any(provider)
    } else {
        verifier::names(roots(server)?, &server.subject_alt_names, provider)?
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match tls {
        ClientTls::Mutual {
            certificate,
            private_key,
            ..
        } => {
            let chain = certificates("clientCertificate", certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&read("privateKey", private_key)?)
                .map_err(|error| format!("privateKey: {private_key}: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("clientCertificate: {certificate}: {error}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    let speaking = |alpn: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    };
    Ok(Made {
        http1: speaking(&[b"http/1.1"]),
        // A server that speaks no HTTP/2 says so by its choice, not by a failure.
        http2: speaking(&[b"h2", b"http/1.1"]),
        opaque: speaking(&[]),
    })
}

fn certificates(field: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: rustls::pki_types::pem::Error| format!("{field}: {path}: {error}");
    let all: Vec<_> = CertificateDer::pem_slice_iter(&read(field, path)?)
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    if all.is_empty() {
        return Err(format!("{field}: {path}: holds no certificate"));
    }
    Ok(all)
}

/// Reads a file that a DestinationRule names. Whoever may write one may name anything, and a
/// data thread reads it: so it is a file with an end, and none that lets its reader wait.
fn read(field: &str, path: &str) -> Result<Vec<u8>, String> {
    let wrong = |reason: &dyn Display| format!("{field}: {path}: {reason}");
    // `O_NONBLOCK` of open(2), under the name that the enabled part of rustix has for it.
    let waits_for_nobody = rustix::pipe::PipeFlags::NONBLOCK.bits();
    let file = File::options()
        .read(true)
        .custom_flags(waits_for_nobody.cast_signed())
        .open(path)
        .map_err(|error| wrong(&error))?;
    let metadata = file.metadata().map_err(|error| wrong(&error))?;
    if !metadata.is_file() {
        return Err(wrong(&"is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(&error))?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(wrong(&format_args!("has more than {LONGEST_FILE} bytes")));
    }
    Ok(bytes)
}

/// Files that systems keep their roots in: Debian and Alpine, Red Hat, SUSE.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

fn roots(server: &Origination) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let path = match &server.ca_certificates {
        Some(path) => path.as_str(),
        None => SYSTEM_ROOTS
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .ok_or(
                "caCertificates: is not set, and the proxy's container has no roots of its own; \
                 mount a bundle and name it",
            )?,
    };
    let (_, refused) = roots.add_parsable_certificates(certificates("caCertificates", path)?);
    if roots.is_empty() {
        return Err(format!(
            "caCertificates: {path}: none of its {refused} certificates can be used"
        ));
    }
    Ok(roots)
}
