//! The configuration: parsed once, from the environment, all mistakes reported
//! together.

use crate::keys;
use linnet_mesh::{
    TrustDomain,
    authorization::PathNormalization,
    names::{self, port},
};
use linnet_runtime::settings::{Settings, SettingsError};
use linnet_workload::{BundleSource, TokenSource};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

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
    /// Reads the settings.
    ///
    /// # Errors
    /// All settings that cannot be used.
    pub fn read(mut settings: Settings<'_>) -> Result<Self, SettingsError> {
        let environment = Self::of(&mut settings);
        settings.finish(environment)
    }

    fn of(settings: &mut Settings<'_>) -> Option<Self> {
        let trust_domain: TrustDomain = settings
            .parsed(names::env::TRUST_DOMAIN)
            .unwrap_or_default();
        let trust_domain_aliases = settings.list(names::env::TRUST_DOMAIN_ALIASES);
        let path_normalization = settings.parsed(names::env::PATH_NORMALIZATION);
        let address = settings.address(LISTEN, port::DISCOVERY);
        let health_address = settings.address(HEALTH_LISTEN, port::METRICS);
        let webhook_address = settings.address(WEBHOOK_LISTEN, port::WEBHOOK);
        let jwks_local = settings.parsed(JWKS_ALLOW_LOCAL);
        let drain = settings.parsed(names::env::DRAIN_SECONDS);
        let cluster_domain = settings.text_or(CLUSTER_DOMAIN, DEFAULT_CLUSTER_DOMAIN);
        if cluster_domain.starts_with('.') || cluster_domain.contains(['/', ':', ' ']) {
            let reason = format_args!("{cluster_domain:?}: not a DNS domain");
            settings.mistake(CLUSTER_DOMAIN, reason);
        }
        let identity = names::env::IDENTITY_URL;
        let url = settings.text_or(identity, DEFAULT_IDENTITY);
        let identity_url = settings.read_text(identity, &url, str::parse);
        let path = |name, default: &str| settings.text_or(name, default).into();
        let keys = keys::Settings {
            roots: settings.text(JWKS_CA_FILE).map(PathBuf::from),
            local: jwks_local.unwrap_or_default(),
            ..keys::Settings::default()
        };
        Some(Self {
            certificate: linnet_workload::Source {
                identity_url: identity_url?,
                token: TokenSource::File(path(TOKEN_FILE, names::TOKEN_PATH)),
                trust_bundle: BundleSource::File(path(TRUST_BUNDLE_FILE, names::TRUST_BUNDLE_PATH)),
                trust_domain: trust_domain.clone(),
            },
            config: Config {
                trust_domain,
                trust_domain_aliases,
                path_normalization: path_normalization.unwrap_or_default(),
                cluster_domain,
                address,
                health_address,
                webhook_address,
                keys,
            },
            platform: match settings.text(DIRECTORY) {
                Some(directory) => Platform::Directory(directory.into()),
                None => Platform::Kubernetes,
            },
            replica: settings.text_or(REPLICA, &format!("process {}", std::process::id())),
            drain: drain.map_or(DEFAULT_DRAIN, Duration::from_secs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_is_a_cluster() {
        let environment = Environment::read(Settings::new(&|_| None)).unwrap();
        assert_eq!(environment.platform, Platform::Kubernetes);
        assert_eq!(environment.config.address.port(), port::DISCOVERY);
        assert_eq!(environment.config.trust_domain.as_str(), "cluster.local");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let variable = |name: &str| match name {
            LISTEN => Some("here".to_owned()),
            name if name == names::env::PATH_NORMALIZATION => Some("base".to_owned()),
            CLUSTER_DOMAIN => Some("http://x".to_owned()),
            name if name == names::env::TRUST_DOMAIN => Some("Not A Domain".to_owned()),
            name if name == names::env::IDENTITY_URL => Some("http://identity".to_owned()),
            _ => None,
        };
        let error = Environment::read(Settings::new(&variable)).unwrap_err();
        let error = error.to_string();
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
        let environment = Environment::read(Settings::new(&set)).unwrap();
        assert_eq!(
            environment.platform,
            Platform::Directory("/etc/mesh".into())
        );
    }
}
