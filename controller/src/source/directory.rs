//! A directory of manifests, watched for edits.
//!
//! An edit counts when its file is closed or moved into place, so a file is
//! never read while it is being written; nothing waits for a quiet moment. A
//! file with an error changes nothing: its last good objects stay.

mod manifests;

use super::{Change, Closed, Sink};
use manifests::Manifests;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Why a directory can't be a source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("configuration directory {path}: {source}")]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It can't be watched.
    #[error("configuration directory {path} can't be watched: {source}")]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

/// A directory as a source.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Stops watching when dropped.
    _watcher: RecommendedWatcher,
    edits: mpsc::UnboundedReceiver<Edit>,
}

#[derive(Debug)]
enum Edit {
    Files(Vec<PathBuf>),
    /// Something else than a manifest changed: look at everything.
    Everything,
}

impl Directory {
    /// Starts watching; edits from here on are seen.
    ///
    /// # Errors
    /// A directory that is not there or can't be watched.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        std::fs::read_dir(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        let (sender, edits) = mpsc::unbounded_channel();
        let root = path.clone();
        let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Some(edit) = edit(&root, event) {
                // Nobody listens: the source has ended.
                let _ = sender.send(edit);
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(&path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => Ok(Self {
                path,
                _watcher: watcher,
                edits,
            }),
            Err(source) => Err(Error::Watch { path, source }),
        }
    }

    /// Tells what is there, then every edit, until nobody listens.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub async fn run(mut self, sink: Sink) -> Result<(), Closed> {
        let mut manifests = Manifests::default();
        for change in manifests.read_all(&self.path) {
            sink.send(change).await?;
        }
        sink.send(Change::Synced).await?;
        while let Some(edit) = self.edits.recv().await {
            let changes = match edit {
                Edit::Files(paths) => manifests.read(&paths),
                Edit::Everything => manifests.read_all(&self.path),
            };
            for change in changes {
                sink.send(change).await?;
            }
        }
        Ok(())
    }
}

/// What an event of the file system means for manifests.
fn edit(root: &Path, event: notify::Result<notify::Event>) -> Option<Edit> {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(%error, "a change in the configuration directory was missed: reading all of it");
            return Some(Edit::Everything);
        }
    };
    if event.need_rescan() {
        return Some(Edit::Everything);
    }
    let manifests: Vec<_> = event
        .paths
        .iter()
        .filter(|path| manifests::is_manifest(path))
        .cloned()
        .collect();
    if manifests.is_empty() {
        // A mounted ConfigMap changes all its files by one link, `..data`.
        let all = |path: &PathBuf| path == root || name(path).starts_with("..");
        let read = !event.kind.is_access() && event.paths.iter().any(all);
        return read.then_some(Edit::Everything);
    }
    // Linux tells when a writer has closed the file; what it tells earlier
    // would be half a file.
    let complete = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_)) => true,
        // A link is complete as soon as it is there.
        EventKind::Create(_) if manifests.iter().any(|path| path.is_symlink()) => true,
        EventKind::Modify(_) | EventKind::Create(_) => !cfg!(target_os = "linux"),
        _ => false,
    };
    complete.then_some(Edit::Files(manifests))
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

#[cfg(test)]
mod tests;
