//! The configuration: parsed once, from the environment, all mistakes reported
//! together.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use linnet_mesh::{
    SpiffeId, TrustDomain,
    names::{self, CONTROL_PLANE_NAMESPACE, port},
};

use linnet_runtime::settings::{Settings, SettingsError};

use crate::{authority::rotation::Rules, limit::Limits};

/// The lifetime of roots that Linnet makes: 10 years by default.
pub const ROOT_LIFETIME: &str = "LINNET_ROOT_LIFETIME";
/// How long a new root is made known before it signs. Absent: until every
/// certificate that is valid was received with it.
pub const ROOT_DISTRIBUTION: &str = "LINNET_ROOT_DISTRIBUTION";
/// How long the root before is trusted after another signs. Absent: until every
/// certificate under it has expired.
pub const ROOT_RETIREMENT: &str = "LINNET_ROOT_RETIREMENT";
/// A directory with a file `<trust domain>.pem` for each trust domain that is
/// trusted besides the own.
pub const FEDERATION_DIR: &str = "LINNET_FEDERATION_DIR";
/// The lifetime of certificates: 24 h by default, `1m` at the least.
pub const CERTIFICATE_LIFETIME: &str = "LINNET_CERTIFICATE_LIFETIME";
/// Where certificates are asked for, `[::]:15443` by default.
pub const ADDRESS: &str = "LINNET_IDENTITY_ADDRESS";
/// Where health and metrics are, `[::]:15020` by default.
pub const HEALTH_ADDRESS: &str = "LINNET_HEALTH_ADDRESS";
/// The names that clients know the service by, comma-separated.
pub const SERVER_NAMES: &str = "LINNET_IDENTITY_NAMES";
/// A directory with the root and the token key: standalone, without Kubernetes.
pub const STANDALONE: &str = "LINNET_IDENTITY_STANDALONE";

const SHORTEST_LIFETIME: Duration = Duration::from_secs(60);
const LONGEST_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const SHORTEST_ROOT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const LONGEST_ROOT_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);
const DEFAULT_SERVICE_ACCOUNT: &str = "linnet-identity";

/// What the service needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// How long certificates live unless their callers ask for less.
    pub lifetime: Duration,
    /// Where certificates are asked for.
    pub address: SocketAddr,
    /// Where health and metrics are.
    pub health_address: SocketAddr,
    /// DNS names and addresses in the service's own certificate.
    pub server_names: Vec<String>,
    /// The service's own identity.
    pub identity: SpiffeId,
    /// How much callers may ask.
    pub limits: Limits,
    /// How roots follow one another.
    pub rotation: Rules,
    /// Other names of the trust domain.
    pub aliases: Vec<TrustDomain>,
    /// Where the roots of other trust domains are.
    pub federation: Option<PathBuf>,
}

/// What `main` needs besides: where the service runs.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The service.
    pub config: Config,
    /// Where it finds its root and whom it asks about tokens.
    pub platform: Platform,
    /// How long running requests may take after SIGTERM.
    pub drain: Duration,
}

/// Where the service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platform {
    /// In a cluster: the root in a Secret, tokens by TokenReview.
    Kubernetes {
        /// The service's namespace.
        namespace: String,
    },
    /// Alone: the root and the key of tokens in a directory.
    Standalone {
        /// The directory.
        directory: PathBuf,
    },
}

impl Config {
    /// For this process alone: loopback, free ports, and the names of both.
    pub fn loopback() -> Self {
        let trust_domain = TrustDomain::default();
        let identity = SpiffeId::new(
            &trust_domain,
            CONTROL_PLANE_NAMESPACE,
            DEFAULT_SERVICE_ACCOUNT,
        )
        .expect("the default names are Kubernetes names");
        Self {
            trust_domain,
            lifetime: DEFAULT_LIFETIME,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            health_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            server_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            identity,
            limits: Limits::default(),
            rotation: Rules::default(),
            aliases: Vec::new(),
            federation: None,
        }
    }

    /// How roots follow one another, with what else the configuration says.
    pub fn rules(&self) -> Rules {
        Rules {
            trust_domain: self.trust_domain.clone(),
            leaf_lifetime: time::Duration::try_from(self.lifetime).unwrap_or(time::Duration::DAY),
            ..self.rotation.clone()
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
        let namespace = settings.text_or(names::env::POD_NAMESPACE, CONTROL_PLANE_NAMESPACE);
        let service_account =
            settings.text_or(names::env::SERVICE_ACCOUNT, DEFAULT_SERVICE_ACCOUNT);
        let trust_domain: TrustDomain = settings
            .parsed(names::env::TRUST_DOMAIN)
            .unwrap_or_default();
        let identity = SpiffeId::new(&trust_domain, &namespace, &service_account)
            .map_err(|error| settings.mistake(names::env::POD_NAMESPACE, error))
            .ok();
        let lifetime = settings
            .duration(CERTIFICATE_LIFETIME, SHORTEST_LIFETIME..=LONGEST_LIFETIME)
            .unwrap_or(DEFAULT_LIFETIME);
        let rotation = rotation(settings);
        let aliases = settings.list(names::env::TRUST_DOMAIN_ALIASES);
        let federation = settings.text(FEDERATION_DIR).map(PathBuf::from);
        let address = settings.address(ADDRESS, port::IDENTITY);
        let health_address = settings.address(HEALTH_ADDRESS, port::METRICS);
        let server_names = server_names(settings, &namespace);
        let drain = settings
            .parsed(names::env::DRAIN_SECONDS)
            .map_or(DEFAULT_DRAIN, Duration::from_secs);
        let platform = match settings.text(STANDALONE) {
            Some(directory) => Platform::Standalone {
                directory: directory.into(),
            },
            None => Platform::Kubernetes { namespace },
        };
        let config = Config {
            trust_domain,
            lifetime,
            address,
            health_address,
            server_names,
            identity: identity?,
            limits: Limits::default(),
            rotation,
            aliases,
            federation,
        };
        Some(Self {
            config,
            platform,
            drain,
        })
    }
}

fn rotation(settings: &mut Settings<'_>) -> Rules {
    let span = |found: Option<Duration>| found.and_then(|found| found.try_into().ok());
    let rules = Rules::default();
    let of_roots = SHORTEST_ROOT_LIFETIME..=LONGEST_ROOT_LIFETIME;
    let wait = SHORTEST_WAIT..=LONGEST_LIFETIME;
    Rules {
        root_lifetime: span(settings.duration(ROOT_LIFETIME, of_roots))
            .unwrap_or(rules.root_lifetime),
        distribution: span(settings.duration(ROOT_DISTRIBUTION, wait.clone())),
        retirement: span(settings.duration(ROOT_RETIREMENT, wait)),
        ..rules
    }
}

fn server_names(settings: &Settings<'_>, namespace: &str) -> Vec<String> {
    if let Some(text) = settings.text(SERVER_NAMES) {
        return text.split(',').map(|name| name.trim().to_owned()).collect();
    }
    let service = "linnet-identity";
    vec![
        service.to_owned(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Environment, SettingsError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Environment::read(Settings::new(&variable))
    }

    #[test]
    fn nothing_set_is_a_cluster() {
        let environment = parse(&[]).unwrap();
        let config = environment.config;
        assert_eq!(
            environment.platform,
            Platform::Kubernetes {
                namespace: "linnet-system".to_owned()
            }
        );
        assert!(config.address.ip().is_unspecified() && config.address.port() == 15443);
        assert_eq!(config.health_address.port(), 15020);
        assert_eq!(config.lifetime, DEFAULT_LIFETIME);
        assert_eq!(
            config.identity.as_str(),
            "spiffe://cluster.local/ns/linnet-system/sa/linnet-identity"
        );
        assert_eq!(config.server_names[2], "linnet-identity.linnet-system.svc");
    }

    #[test]
    fn settings_are_taken() {
        let environment = parse(&[
            (CERTIFICATE_LIFETIME, "1m"),
            (ADDRESS, "127.0.0.1:0"),
            (SERVER_NAMES, "localhost, 127.0.0.1"),
            (STANDALONE, "/tmp/ca"),
            (ROOT_LIFETIME, "365d"),
            (ROOT_DISTRIBUTION, "90s"),
            ("LINNET_TRUST_DOMAIN_ALIASES", "old.example, older.example"),
            ("LINNET_TRUST_DOMAIN", "example.org"),
            ("LINNET_DRAIN_SECONDS", "3"),
        ])
        .unwrap();
        assert_eq!(environment.config.lifetime, Duration::from_secs(60));
        assert_eq!(environment.config.server_names, ["localhost", "127.0.0.1"]);
        assert_eq!(
            environment.platform,
            Platform::Standalone {
                directory: "/tmp/ca".into()
            }
        );
        assert_eq!(environment.config.identity.trust_domain(), "example.org");
        let rules = environment.config.rules();
        assert_eq!(rules.leaf_lifetime, time::Duration::MINUTE);
        assert_eq!(rules.root_lifetime, time::Duration::days(365));
        assert_eq!(rules.distribution, Some(time::Duration::seconds(90)));
        assert_eq!(rules.retirement, None);
        assert_eq!(rules.trust_domain.as_str(), "example.org");
        assert_eq!(environment.config.aliases[1].as_str(), "older.example");
        assert_eq!(environment.drain, Duration::from_secs(3));
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let error = parse(&[
            (CERTIFICATE_LIFETIME, "30s"),
            (ROOT_RETIREMENT, "1s"),
            ("LINNET_TRUST_DOMAIN_ALIASES", "good.example,No Domain"),
            (ADDRESS, "everywhere"),
            ("LINNET_TRUST_DOMAIN", "Example"),
            ("LINNET_POD_NAMESPACE", "No_Namespace"),
        ])
        .unwrap_err();
        assert_eq!(error.mistakes.len(), 6, "{error}");
        let text = error.to_string();
        for name in [
            CERTIFICATE_LIFETIME,
            ROOT_RETIREMENT,
            "No Domain",
            ADDRESS,
            "LINNET_TRUST_DOMAIN",
            "No_Namespace",
        ] {
            assert!(text.contains(name), "{text}");
        }
    }
}
