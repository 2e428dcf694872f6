//! The configuration: parsed once, from the environment, all mistakes reported
//! together.

use crate::keys;
use linnet_mesh::{
    TrustDomain,
    authorization::PathNormalization,
    names::{self, port},
};
use linnet_workload::{BundleSource, TokenSource};
use std::{env, fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// Where discovery is served, `[::]:15010` by default.
pub const LISTEN: &str = "LINNET_DISCOVERY_LISTEN";
/// Where health, metrics and status are, `[::]:15020` by default.
pub const HEALTH_LISTEN: &str = "LINNET_HEALTH_ADDRESS";
/// Where the validating webhook listens, `[::]:9443` by default.
pub const WEBHOOK_LISTEN: &str = "LINNET_WEBHOOK_ADDRESS";
/// The DNS domain of services, `cluster.local` by default.
pub const CLUSTER_DOMAIN: &str = "LINNET_CLUSTER_DOMAIN";
/// A directory of manifests: standalone, without Kubernetes.
pub const DIRECTORY: &str = "LINNET_CONFIG_DIRECTORY";
/// Where the token for identity is, the injected path by default.
pub const TOKEN_FILE: &str = "LINNET_TOKEN_FILE";
/// Where the trust bundle is, the injected path by default.
pub const TRUST_BUNDLE_FILE: &str = "LINNET_TRUST_BUNDLE_FILE";

/// A PEM file with further roots for servers of issuers' keys.
pub const JWKS_CA_FILE: &str = "LINNET_JWKS_CA_FILE";
/// Whether keys may be fetched from loopback and link-local addresses too.
pub const JWKS_ALLOW_LOCAL: &str = "LINNET_JWKS_ALLOW_LOCAL";

/// The pod's name, which Kubernetes sets.
const REPLICA: &str = "HOSTNAME";
const DEFAULT_IDENTITY: &str = "https://linnet-identity.linnet-system.svc:15443";
const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// What the controller needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Its other names, which policies may use.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Which readings of a path AuthorizationPolicies are asked about.
    pub path_normalization: PathNormalization,
    /// The DNS domain of services.
    pub cluster_domain: String,
    /// Where discovery is served.
    pub address: SocketAddr,
    /// Where health, metrics and status are.
    pub health_address: SocketAddr,
    /// Where the validating webhook listens; there is none without Kubernetes.
    pub webhook_address: SocketAddr,
    /// How issuers' keys are fetched.
    pub keys: keys::Settings,
}

/// What `main` needs besides: where the controller runs.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The controller.
    pub config: Config,
    /// Where its objects come from.
    pub platform: Platform,
    /// This replica's name among others: its pod's.
    pub replica: String,
    /// Where its certificate comes from.
    pub certificate: linnet_workload::Source,
    /// How long streams may take to end after SIGTERM.
    pub drain: Duration,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platform {
    /// The cluster that the controller runs in.
    Kubernetes,
    /// A directory.
    Directory(PathBuf),
}

/// Settings that cannot be used, all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad settings: {}", self.0.join("; "))
    }
}

impl Config {
    /// For this process alone: loopback and free ports.
    pub fn loopback() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            path_normalization: PathNormalization::default(),
            cluster_domain: DEFAULT_CLUSTER_DOMAIN.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            health_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            webhook_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            keys: keys::Settings {
                local: true,
                ..keys::Settings::default()
            },
        }
    }
}

impl Environment {
    /// From the process's environment.
    ///
    /// # Errors
    /// All settings that cannot be used.
    pub fn from_process() -> Result<Self, ConfigError> {
        Self::parse(|name| env::var(name).ok())
    }

    fn parse(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut mistakes = Vec::new();
        let text = |name: &str| variable(name).filter(|text| !text.is_empty());
        let any = |port: u16| SocketAddr::from(([0_u16; 8], port));
        let trust_domain: TrustDomain =
            read(text, &mut mistakes, names::env::TRUST_DOMAIN).unwrap_or_default();
        let aliases = names::env::TRUST_DOMAIN_ALIASES;
        let mut trust_domain_aliases = Vec::new();
        for alias in text(aliases).unwrap_or_default().split(',').map(str::trim) {
            match alias.parse() {
                Ok(alias) => trust_domain_aliases.push(alias),
                Err(_) if alias.is_empty() => {}
                Err(error) => mistakes.push(format!("{aliases}: {error}")),
            }
        }
        let path_normalization = read(text, &mut mistakes, names::env::PATH_NORMALIZATION);
        let address = read(text, &mut mistakes, LISTEN);
        let health_address = read(text, &mut mistakes, HEALTH_LISTEN);
        let webhook_address = read(text, &mut mistakes, WEBHOOK_LISTEN);
        let jwks_local = read(text, &mut mistakes, JWKS_ALLOW_LOCAL);
        let drain = read(text, &mut mistakes, names::env::DRAIN_SECONDS);
        let cluster_domain =
            text(CLUSTER_DOMAIN).unwrap_or_else(|| DEFAULT_CLUSTER_DOMAIN.to_owned());
        if cluster_domain.starts_with('.') || cluster_domain.contains(['/', ':', ' ']) {
            mistakes.push(format!(
                "{CLUSTER_DOMAIN}={cluster_domain}: not a DNS domain"
            ));
        }
        let identity = names::env::IDENTITY_URL;
        let url = text(identity).unwrap_or_else(|| DEFAULT_IDENTITY.to_owned());
        let identity_url = url
            .parse()
            .map_err(|error| mistakes.push(format!("{identity}={url}: {error}")));
        let (Ok(identity_url), true) = (identity_url, mistakes.is_empty()) else {
            return Err(ConfigError(mistakes));
        };
        let path = |name, default: &str| text(name).unwrap_or_else(|| default.to_owned()).into();
        Ok(Self {
            certificate: linnet_workload::Source {
                identity_url,
                token: TokenSource::File(path(TOKEN_FILE, names::TOKEN_PATH)),
                trust_bundle: BundleSource::File(path(TRUST_BUNDLE_FILE, names::TRUST_BUNDLE_PATH)),
                trust_domain: trust_domain.clone(),
            },
            config: Config {
                trust_domain,
                trust_domain_aliases,
                path_normalization: path_normalization.unwrap_or_default(),
                cluster_domain,
                address: address.unwrap_or_else(|| any(port::DISCOVERY)),
                health_address: health_address.unwrap_or_else(|| any(port::METRICS)),
                webhook_address: webhook_address.unwrap_or_else(|| any(port::WEBHOOK)),
                keys: keys::Settings {
                    roots: text(JWKS_CA_FILE).map(PathBuf::from),
                    local: jwks_local.unwrap_or_default(),
                    ..keys::Settings::default()
                },
            },
            platform: match text(DIRECTORY) {
                Some(directory) => Platform::Directory(directory.into()),
                None => Platform::Kubernetes,
            },
            replica: text(REPLICA).unwrap_or_else(|| format!("process {}", std::process::id())),
            drain: drain.map_or(DEFAULT_DRAIN, Duration::from_secs),
        })
    }
}

fn read<T: std::str::FromStr<Err: fmt::Display>>(
    text: impl Fn(&str) -> Option<String>,
    mistakes: &mut Vec<String>,
    name: &str,
) -> Option<T> {
    let text = text(name)?;
    text.parse()
        .map_err(|error| mistakes.push(format!("{name}={text}: {error}")))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_is_a_cluster() {
        let environment = Environment::parse(|_| None).unwrap();
        assert_eq!(environment.platform, Platform::Kubernetes);
        assert_eq!(environment.config.address.port(), port::DISCOVERY);
        assert_eq!(environment.config.trust_domain.as_str(), "cluster.local");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let error = Environment::parse(|name| match name {
            LISTEN => Some("here".to_owned()),
            name if name == names::env::PATH_NORMALIZATION => Some("base".to_owned()),
            CLUSTER_DOMAIN => Some("http://x".to_owned()),
            name if name == names::env::TRUST_DOMAIN => Some("Not A Domain".to_owned()),
            name if name == names::env::IDENTITY_URL => Some("http://identity".to_owned()),
            _ => None,
        })
        .unwrap_err()
        .to_string();
        for name in [
            LISTEN,
            CLUSTER_DOMAIN,
            names::env::PATH_NORMALIZATION,
            names::env::TRUST_DOMAIN,
            names::env::IDENTITY_URL,
        ] {
            assert!(error.contains(name), "{name} in {error}");
        }
    }

    #[test]
    fn a_directory_takes_the_place_of_the_cluster() {
        let set = |name: &str| (name == DIRECTORY).then(|| "/etc/mesh".to_owned());
        let environment = Environment::parse(set).unwrap();
        assert_eq!(
            environment.platform,
            Platform::Directory("/etc/mesh".into())
        );
    }
}
