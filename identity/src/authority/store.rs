//! Where the root is kept: a Secret, a directory, or nowhere.
//!
//! Reads are of the whole, and so are writes, which fail when somebody else has
//! written in between: the Secret's `resourceVersion` guards them. A directory
//! has one writer.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use linnet_mesh::names::{ROOT_SECRET, annotation, label};
use tokio::time::timeout;

use super::{
    RootError,
    rotation::{CA_CERTIFICATE, CERTIFICATE, KEY, Kept, STATE},
};

const FIELDS: [&str; 4] = [CA_CERTIFICATE, CERTIFICATE, KEY, STATE];
/// What is about to be written to a directory, so that a write is whole or not.
const JOURNAL: &str = "next.json";
/// An operator's request, in a directory.
const REQUEST: &str = "rotate-root";
/// cert-manager's mark on the Secrets that it keeps.
const CERT_MANAGER: &str = "cert-manager.io/certificate-name";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the root.
#[derive(Clone)]
pub enum RootStore {
    /// This process's memory: a root that ends with it.
    Memory(Arc<Mutex<Option<Kept>>>),
    /// Files `ca.crt`, `tls.crt`, `tls.key` and `state.json` in a directory.
    Directory(PathBuf),
    /// The Secret `linnet-root` in a namespace.
    Secret {
        /// May get, create and update that Secret.
        client: Client,
        /// The namespace.
        namespace: String,
    },
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is kept is not a root.
    #[error("{place}: {source}")]
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
        "cannot {verb} Secret {namespace}/{ROOT_SECRET}: {source}; may this service account get, create and update it?"
    )]
    Api {
        /// Get, create or update.
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

impl fmt::Debug for RootStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

impl RootStore {
    /// In memory, and nothing there yet.
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// The place, for people.
    pub fn place(&self) -> String {
        match self {
            Self::Memory(_) => "memory".to_owned(),
            Self::Directory(directory) => directory.display().to_string(),
            Self::Secret { namespace, .. } => format!("Secret {namespace}/{ROOT_SECRET}"),
        }
    }

    /// What is there.
    ///
    /// # Errors
    /// A place that cannot be read.
    pub async fn read(&self) -> Result<Option<Kept>, StoreError> {
        match self {
            Self::Memory(kept) => Ok(kept.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Self::Directory(directory) => read_directory(directory),
            Self::Secret { client, namespace } => {
                let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
                let found = answer("get", namespace, api.get_opt(ROOT_SECRET)).await?;
                Ok(found.map(|secret| kept_in_secret(&secret)))
            }
        }
    }

    /// Writes it, if nobody else has since it was read; whether it was written.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub async fn write(&self, kept: &Kept) -> Result<bool, StoreError> {
        match self {
            Self::Memory(place) => {
                let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
                let request = place.take().and_then(|before| before.request);
                *place = Some(Kept {
                    request,
                    ..kept.clone()
                });
                Ok(true)
            }
            Self::Directory(directory) => write_directory(directory, kept).map(|()| true),
            Self::Secret { client, namespace } => {
                let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
                let parameters = PostParams::default();
                let written = if kept.version.is_some() {
                    // Read again for what is not ours in it; the version that
                    // was judged stays the guard.
                    let found = answer("get", namespace, api.get_opt(ROOT_SECRET)).await?;
                    let Some(mut secret) = found else {
                        return Ok(false);
                    };
                    fill(&mut secret, kept);
                    answer(
                        "update",
                        namespace,
                        api.replace(ROOT_SECRET, &parameters, &secret),
                    )
                    .await
                    .map(|_| ())
                } else {
                    let mut secret = empty_secret();
                    fill(&mut secret, kept);
                    answer("create", namespace, api.create(&parameters, &secret))
                        .await
                        .map(|_| ())
                };
                match written {
                    Ok(()) => Ok(true),
                    Err(error) if error.is_conflict() => Ok(false),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Asks for a rotation where there is no `linnet identity rotate-root`.
    ///
    /// # Errors
    /// A place that cannot be written, or a Secret: annotate that.
    pub fn request_rotation(&self, request: &str) -> Result<(), StoreError> {
        match self {
            Self::Memory(place) => {
                let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(kept) = &mut *place {
                    kept.request = Some(request.to_owned());
                }
                Ok(())
            }
            Self::Directory(directory) => replace_file(&directory.join(REQUEST), request),
            Self::Secret { .. } => Err(StoreError::File {
                path: self.place().into(),
                source: io::ErrorKind::Unsupported.into(),
            }),
        }
    }
}

impl StoreError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. }
            if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }
}

async fn answer<T>(
    verb: &'static str,
    namespace: &str,
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, StoreError> {
    timeout(TIMEOUT, asked)
        .await
        .map_err(|_| StoreError::Timeout(namespace.to_owned()))?
        .map_err(|source| StoreError::Api {
            verb,
            namespace: namespace.to_owned(),
            source: Box::new(source),
        })
}

/// What a Secret keeps.
pub fn kept_in_secret(secret: &Secret) -> Kept {
    let fields = secret.data.iter().flatten().filter_map(|(name, bytes)| {
        // What is not UTF-8 is no PEM: it is missed, and then named.
        let text = String::from_utf8(bytes.0.clone()).ok()?;
        FIELDS
            .contains(&name.as_str())
            .then(|| (name.clone(), text))
    });
    let annotations = secret.metadata.annotations.as_ref();
    let annotated = |name: &str| annotations.and_then(|all| all.get(name)).cloned();
    Kept {
        fields: fields.collect(),
        request: annotated(annotation::ROTATE_ROOT),
        managed_by: annotated(CERT_MANAGER)
            .map(|certificate| format!("cert-manager's Certificate {certificate}")),
        version: Some(secret.metadata.resource_version.clone().unwrap_or_default()),
    }
}

fn empty_secret() -> Secret {
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
        ..Secret::default()
    }
}

fn fill(secret: &mut Secret, kept: &Kept) {
    secret.metadata.resource_version.clone_from(&kept.version);
    let data = secret.data.get_or_insert_default();
    for (name, text) in &kept.fields {
        data.insert(name.clone(), ByteString(text.clone().into_bytes()));
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File {
        path: path.clone(),
        source,
    }
}

fn read_directory(directory: &Path) -> Result<Option<Kept>, StoreError> {
    let read = |name: &str| {
        let path = directory.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path)(error)),
        }
    };
    if let Some(journal) = read(JOURNAL)? {
        // Somebody died while writing: it was whole before it was begun.
        if let Ok(fields) = serde_json::from_str(&journal) {
            apply(directory, &fields)?;
        }
    }
    let mut kept = Kept::default();
    for name in FIELDS {
        if let Some(text) = read(name)? {
            kept.fields.insert(name.to_owned(), text);
        }
    }
    kept.request = read(REQUEST)?;
    kept.version = Some(String::new());
    Ok((!kept.fields.is_empty()).then_some(kept))
}

fn write_directory(directory: &Path, kept: &Kept) -> Result<(), StoreError> {
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    let journal = serde_json::to_string(&kept.fields).map_err(io::Error::other);
    let path = directory.join(JOURNAL);
    replace_file(&path, &journal.map_err(failed(&path))?)?;
    apply(directory, &kept.fields)
}

fn apply(directory: &Path, fields: &BTreeMap<String, String>) -> Result<(), StoreError> {
    for (name, text) in fields {
        replace_file(&directory.join(name), text)?;
    }
    let journal = directory.join(JOURNAL);
    std::fs::remove_file(&journal).map_err(failed(&journal))
}

/// Replaces a file as a whole; only its owner may read it.
fn replace_file(path: &Path, text: &str) -> Result<(), StoreError> {
    let next = path.with_extension("new");
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&next)(error)),
        _ => {}
    }
    private_file(&next, text).map_err(failed(&next))?;
    std::fs::rename(&next, path).map_err(failed(path))
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
