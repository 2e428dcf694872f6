//! Where the root is kept: a Secret, a directory, or nowhere.
//!
//! Whoever comes first makes it, and everybody else takes what is there. A root
//! that is there and damaged is reported and never replaced: certificates that
//! hang on it may be in use.

use std::{collections::BTreeMap, io, path::Path, path::PathBuf, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use linnet_mesh::{
    TrustDomain,
    names::{ROOT_SECRET, label},
};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{Root, RootError};

const CA_CERTIFICATE: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the root.
#[derive(Clone)]
pub enum RootStore {
    /// This process's memory: a root that ends with it.
    Memory,
    /// Files `ca.crt`, `tls.crt` and `tls.key` in a directory.
    Directory(PathBuf),
    /// The Secret `linnet-root` in a namespace.
    Secret {
        /// May get and create Secrets there.
        client: Client,
        /// The namespace.
        namespace: String,
    },
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is kept is not a root.
    #[error(
        "{place}: {source}; restore it, or delete it to have a new root made (all workloads then need new certificates)"
    )]
    Root {
        /// The Secret or directory.
        place: String,
        /// What is wrong with it.
        source: RootError,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The Kubernetes API refused.
    #[error(
        "cannot {verb} Secret {namespace}/{ROOT_SECRET}: {source}; may this service account get and create Secrets there?"
    )]
    Api {
        /// Get or create.
        verb: &'static str,
        /// The Secret's.
        namespace: String,
        /// What the API said.
        source: Box<kube::Error>,
    },
    /// The Kubernetes API did not answer.
    #[error("the Kubernetes API did not answer about Secret {0}/{ROOT_SECRET}")]
    Timeout(String),
}

impl StoreError {
    /// Whether the same may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Root { .. } | Self::File { .. } => false,
            Self::Timeout(_) => true,
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => status.code >= 500 || status.code == 429,
                _ => true,
            },
        }
    }
}

impl RootStore {
    /// The root that is kept, or a new one that is from now on.
    ///
    /// # Errors
    /// A root that is damaged, or a place that cannot be used.
    pub async fn load_or_create(&self, trust_domain: &TrustDomain) -> Result<Root, StoreError> {
        match self {
            Self::Memory => generate("memory", trust_domain),
            Self::Directory(directory) => in_directory(directory, trust_domain),
            Self::Secret { client, namespace } => {
                in_secret(client.clone(), namespace, trust_domain).await
            }
        }
    }
}

fn generate(place: &str, trust_domain: &TrustDomain) -> Result<Root, StoreError> {
    Root::generate(trust_domain, OffsetDateTime::now_utc()).map_err(|source| StoreError::Root {
        place: place.to_owned(),
        source,
    })
}

async fn in_secret(
    client: Client,
    namespace: &str,
    trust_domain: &TrustDomain,
) -> Result<Root, StoreError> {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let place = format!("Secret {namespace}/{ROOT_SECRET}");
    if let Some(secret) = get(&api, namespace).await? {
        return from_secret(&place, &secret);
    }
    let root = generate(&place, trust_domain)?;
    let created = timeout(
        TIMEOUT,
        api.create(&PostParams::default(), &to_secret(&root)),
    )
    .await
    .map_err(|_| StoreError::Timeout(namespace.to_owned()))?;
    match created {
        Ok(_) => {
            tracing::info!(secret = %place, "made a new root");
            Ok(root)
        }
        // Another replica was faster, and its root is the root.
        Err(kube::Error::Api(status)) if status.code == 409 => match get(&api, namespace).await? {
            Some(secret) => from_secret(&place, &secret),
            None => Err(StoreError::Timeout(namespace.to_owned())),
        },
        Err(source) => Err(api_error("create", namespace, source)),
    }
}

async fn get(api: &Api<Secret>, namespace: &str) -> Result<Option<Secret>, StoreError> {
    timeout(TIMEOUT, api.get_opt(ROOT_SECRET))
        .await
        .map_err(|_| StoreError::Timeout(namespace.to_owned()))?
        .map_err(|source| api_error("get", namespace, source))
}

fn api_error(verb: &'static str, namespace: &str, source: kube::Error) -> StoreError {
    StoreError::Api {
        verb,
        namespace: namespace.to_owned(),
        source: Box::new(source),
    }
}

fn from_secret(place: &str, secret: &Secret) -> Result<Root, StoreError> {
    let field = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        bytes.map_or(Ok(""), |bytes| std::str::from_utf8(&bytes.0))
    };
    let root = match (field(CERTIFICATE), field(KEY), field(CA_CERTIFICATE)) {
        (Ok(certificate), Ok(key), Ok(bundle)) => Root::from_pem(certificate, key, bundle),
        _ => Err(RootError::Certificate {
            field: "data",
            reason: "not UTF-8".to_owned(),
        }),
    };
    root.map_err(|source| StoreError::Root {
        place: place.to_owned(),
        source,
    })
}

fn to_secret(root: &Root) -> Secret {
    let field = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(ROOT_SECRET.to_owned()),
            labels: Some(BTreeMap::from([(
                label::PART_OF.to_owned(),
                label::PART_OF_LINNET.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            field(CA_CERTIFICATE, root.bundle_pem()),
            field(CERTIFICATE, root.certificate_pem()),
            field(KEY, &root.key_pem()),
        ])),
        ..Secret::default()
    }
}

fn in_directory(directory: &Path, trust_domain: &TrustDomain) -> Result<Root, StoreError> {
    let place = directory.display().to_string();
    let path = |name: &str| directory.join(name);
    if [CERTIFICATE, KEY, CA_CERTIFICATE]
        .iter()
        .any(|name| path(name).exists())
    {
        let read = |name: &str| {
            std::fs::read_to_string(path(name)).map_err(|source| StoreError::File {
                path: path(name),
                source,
            })
        };
        let (certificate, key, bundle) = (read(CERTIFICATE)?, read(KEY)?, read(CA_CERTIFICATE)?);
        return Root::from_pem(&certificate, &key, &bundle)
            .map_err(|source| StoreError::Root { place, source });
    }
    let root = generate(&place, trust_domain)?;
    std::fs::create_dir_all(directory).map_err(|source| StoreError::File {
        path: directory.to_owned(),
        source,
    })?;
    let files = [
        (KEY, root.key_pem()),
        (CERTIFICATE, root.certificate_pem().to_owned()),
        (CA_CERTIFICATE, root.bundle_pem().to_owned()),
    ];
    for (name, text) in files {
        private_file(&path(name), &text).map_err(|source| StoreError::File {
            path: path(name),
            source,
        })?;
    }
    tracing::info!(directory = %place, "made a new root");
    Ok(root)
}

/// Writes a file that only its owner may read, and never over another.
pub(crate) fn private_file(path: &Path, text: &str) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
