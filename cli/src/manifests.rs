//! What is deployed: the YAML under `manifests/`, carried inside this program.
//!
//! `kubectl apply -k` reads the same files. Only that part of kustomize which
//! [`kustomize`] understands may be used there, so that both render the same;
//! golden files made by kubectl hold us to it.

mod kustomize;
mod settings;

pub(crate) use settings::{Error as SettingsError, Settings, describe_keys};

use crate::object::Object;

/// Everything under `manifests/`.
#[derive(rust_embed::Embed)]
#[folder = "../manifests"]
struct Files;

/// Which control plane is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// As little as works: one replica of each service, small
    Minimal,
    /// Production: two replicas of each service, spread over nodes
    #[default]
    Default,
    /// To try things out: one replica, more in the logs, certificates of an hour
    Demo,
}

impl Profile {
    /// Its name, which is its folder's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Default => "default",
            Self::Demo => "demo",
        }
    }
}

/// Why there is nothing to apply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Kustomize(#[from] kustomize::Error),
    #[error(transparent)]
    Settings(#[from] settings::Error),
}

/// The objects of a profile with settings applied, in the files' order.
///
/// # Errors
/// A manifest that can't be rendered, or that a setting does not fit.
pub(crate) fn render(profile: Profile, settings: &Settings) -> Result<Vec<Object>, Error> {
    let mut objects = kustomize::build(&embedded, &format!("profiles/{}", profile.name()))?;
    settings.apply(&mut objects)?;
    Ok(objects)
}

fn embedded(path: &str) -> Option<String> {
    let file = Files::get(path)?;
    String::from_utf8(file.data.into_owned()).ok()
}

#[cfg(test)]
mod tests;
