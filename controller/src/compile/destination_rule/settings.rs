//! What a traffic policy says, read part by part: a part that is left out is
//! left to others.

use super::balance::{self, Balancing};
use crate::{
    compile::{Note, virtual_service::duration},
    resource::{
        ClientTlsSettings, ConnectionPoolSettings, HttpSettings, LoadBalancerSettings,
        OutlierDetectionSettings, TcpKeepaliveSettings, TcpSettings, TrafficPolicy,
    },
};
use linnet_mesh::destination::{
    Balance, ClientTls, ConnectionPool, LocalityPolicy, Origination, OutlierDetection, TcpKeepalive,
};
use std::{
    collections::BTreeMap,
    path::{Component, Path},
    time::Duration,
};

/// A traffic policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layer {
    pub(super) own: Settings,
    /// Instead of all that, by port.
    pub(super) ports: BTreeMap<u16, Settings>,
}

/// Its parts; `None`: not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(super) pool: Option<ConnectionPool>,
    pub(super) outlier: Option<OutlierDetection>,
    pub(super) balancing: Option<Balancing>,
    pub(super) tls: Option<ClientTls>,
}

impl Settings {
    /// Bytes of the hash table that it asks for; `None`: it says nothing of balancing.
    pub(super) fn table(&self) -> Option<usize> {
        let balancing = self.balancing.as_ref()?;
        Some(match &balancing.balance {
            Balance::ConsistentHash(hash) => hash.algorithm.size(),
            _ => 0,
        })
    }
}

/// What is said of places.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Locality {
    #[default]
    Unsaid,
    Off,
    Policy(LocalityPolicy),
}

/// Reads fields below a path and gathers what there is to say about them.
pub(super) struct Reader<'a> {
    pub(super) notes: &'a mut Vec<Note>,
    pub(super) errors: &'a mut Vec<Note>,
}

impl Reader<'_> {
    pub(super) fn error(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.errors.push(Note::new(field, text));
    }

    pub(super) fn note(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.notes.push(Note::new(field, text));
    }

    /// A number from 0 to 2³²−1.
    pub(super) fn number(&mut self, field: &str, value: Option<i64>) -> Option<u32> {
        let value = value?;
        u32::try_from(value)
            .inspect_err(|_| self.error(field, format!("{value} is not from 0 to 4294967295")))
            .ok()
    }

    /// A limit; 0 and 2³²−1 are how the API writes that there is none.
    fn limit(&mut self, field: &str, value: Option<i64>) -> Option<u32> {
        self.number(field, value)
            .filter(|limit| *limit != 0 && *limit != u32::MAX)
    }

    pub(super) fn percent(&mut self, field: &str, value: Option<i64>) -> Option<u32> {
        let number = self.number(field, value)?;
        if number > 100 {
            self.error(field, format!("{number} is not a percentage"));
            return None;
        }
        Some(number)
    }

    pub(super) fn duration(&mut self, field: &str, text: Option<&String>) -> Option<Duration> {
        match duration::parse(text?) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.error(field, error);
                None
            }
        }
    }

    /// A duration of at least a millisecond.
    pub(super) fn positive(&mut self, field: &str, text: Option<&String>) -> Option<Duration> {
        let duration = self.duration(field, text)?;
        if duration < Duration::from_millis(1) {
            self.error(field, "must be at least 1ms");
            return None;
        }
        Some(duration)
    }

    /// `Some(None)`: 0, which means never.
    fn idle(&mut self, field: &str, text: Option<&String>) -> Option<Duration> {
        let told = self.duration(field, text);
        let idle = told.unwrap_or(ConnectionPool::IDLE_TIMEOUT);
        (!idle.is_zero()).then_some(idle)
    }
}

/// The parts of a policy or of a port's.
type Parts<'a> = (
    &'a Option<ConnectionPoolSettings>,
    &'a Option<OutlierDetectionSettings>,
    &'a Option<LoadBalancerSettings>,
    &'a Option<ClientTlsSettings>,
);

impl Layer {
    /// Bytes of its hash tables in a sidecar that calls all ports, and so many where it says
    /// nothing of its own.
    pub(super) fn tables(&self, inherited: usize) -> usize {
        let ports = self.ports.values().filter_map(Settings::table);
        self.own.table().unwrap_or(inherited) + ports.sum::<usize>()
    }

    pub(super) fn read(
        field: &str,
        policy: &TrafficPolicy,
        inherits: Inherits,
        notes: &mut Vec<Note>,
        errors: &mut Vec<Note>,
    ) -> Self {
        let mut reader = Reader { notes, errors };
        let parts = (
            &policy.connection_pool,
            &policy.outlier_detection,
            &policy.load_balancer,
            &policy.tls,
        );
        let own = settings(&mut reader, field, parts, inherits);
        let mut ports = BTreeMap::new();
        for (position, entry) in policy.port_level_settings.iter().enumerate() {
            let field = format!("{field}.portLevelSettings[{position}]");
            let parts = (
                &entry.connection_pool,
                &entry.outlier_detection,
                &entry.load_balancer,
                &entry.tls,
            );
            // It stands alone.
            let settings = settings(&mut reader, &field, parts, Inherits::Nothing);
            let number = entry.port.as_ref().map_or(0, |port| port.number);
            match u16::try_from(number) {
                Ok(port) if port != 0 => {
                    ports.entry(port).or_insert(settings);
                }
                _ => reader.error(
                    format!("{field}.port.number"),
                    "names no port; ports go from 1 to 65535",
                ),
            }
        }
        Self { own, ports }
    }
}

/// Whether a policy takes from the rule's own what it does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inherits {
    Nothing,
    OutlierDetection,
    NoOutlierDetection,
}

fn settings(
    reader: &mut Reader<'_>,
    field: &str,
    parts: Parts<'_>,
    inherits: Inherits,
) -> Settings {
    let (pool, outlier, balancer, tls) = parts;
    let balancing = balancer.as_ref().map(|settings| {
        let field = format!("{field}.loadBalancer");
        let inherits = match outlier {
            Some(_) => Inherits::OutlierDetection,
            None => inherits,
        };
        balance::read(reader, &field, settings, inherits)
    });
    Settings {
        pool: pool
            .as_ref()
            .map(|settings| self::pool(reader, &format!("{field}.connectionPool"), settings)),
        outlier: outlier
            .as_ref()
            .map(|settings| detection(reader, &format!("{field}.outlierDetection"), settings)),
        balancing,
        tls: tls
            .as_ref()
            .map(|settings| self::tls(reader, &format!("{field}.tls"), settings)),
    }
}

fn pool(reader: &mut Reader<'_>, field: &str, settings: &ConnectionPoolSettings) -> ConnectionPool {
    let mut pool = ConnectionPool::DEFAULT;
    if let Some(settings) = &settings.tcp {
        tcp(reader, &format!("{field}.tcp"), settings, &mut pool);
    }
    if let Some(settings) = &settings.http {
        http(reader, &format!("{field}.http"), settings, &mut pool);
    }
    pool
}

fn tcp(reader: &mut Reader<'_>, field: &str, settings: &TcpSettings, pool: &mut ConnectionPool) {
    let TcpSettings {
        max_connections,
        connect_timeout,
        tcp_keepalive,
        max_connection_duration,
        idle_timeout,
    } = settings;
    let at = |name: &str| format!("{field}.{name}");
    pool.max_connections = reader.limit(&at("maxConnections"), *max_connections);
    let timeout = reader.positive(&at("connectTimeout"), connect_timeout.as_ref());
    pool.connect_timeout = timeout.unwrap_or(ConnectionPool::CONNECT_TIMEOUT);
    pool.max_connection_duration = reader.positive(
        &at("maxConnectionDuration"),
        max_connection_duration.as_ref(),
    );
    pool.tcp_idle_timeout = reader.idle(&at("idleTimeout"), idle_timeout.as_ref());
    pool.keepalive = tcp_keepalive.as_ref().map(|settings| {
        let TcpKeepaliveSettings {
            probes,
            time,
            interval,
        } = settings;
        let at = |name: &str| format!("{field}.tcpKeepalive.{name}");
        TcpKeepalive {
            probes: reader.limit(&at("probes"), *probes),
            time: reader.positive(&at("time"), time.as_ref()),
            interval: reader.positive(&at("interval"), interval.as_ref()),
        }
    });
}

fn http(reader: &mut Reader<'_>, field: &str, settings: &HttpSettings, pool: &mut ConnectionPool) {
    let HttpSettings {
        http1_max_pending_requests,
        http2_max_requests,
        max_requests_per_connection,
        max_retries,
        idle_timeout,
        h2_upgrade_policy,
        // Sidecars speak what the client spoke, whatever this says.
        use_client_protocol,
        max_concurrent_streams,
    } = settings;
    let at = |name: &str| format!("{field}.{name}");
    let mut limit = |name: &str, value: Option<i64>| reader.limit(&at(name), value);
    pool.max_pending_requests = limit("http1MaxPendingRequests", *http1_max_pending_requests);
    pool.max_requests = limit("http2MaxRequests", *http2_max_requests);
    pool.max_requests_per_connection =
        limit("maxRequestsPerConnection", *max_requests_per_connection);
    pool.max_retries = limit("maxRetries", *max_retries);
    pool.max_concurrent_streams = limit("maxConcurrentStreams", *max_concurrent_streams);
    pool.http_idle_timeout = reader.idle(&at("idleTimeout"), idle_timeout.as_ref());
    match h2_upgrade_policy.as_deref() {
        None | Some("DEFAULT" | "DO_NOT_UPGRADE") => {}
        Some("UPGRADE") => reader.note(
            at("h2UpgradePolicy"),
            "UPGRADE is not honoured: sidecars speak to each other what the client spoke",
        ),
        Some(other) => reader.error(
            at("h2UpgradePolicy"),
            format!("{other:?} is not a policy; use DEFAULT, DO_NOT_UPGRADE or UPGRADE"),
        ),
    }
    if *use_client_protocol == Some(false) && h2_upgrade_policy.as_deref() == Some("UPGRADE") {
        reader.note(
            at("useClientProtocol"),
            "false is not honoured: the client's protocol is kept",
        );
    }
}

fn detection(
    reader: &mut Reader<'_>,
    field: &str,
    settings: &OutlierDetectionSettings,
) -> OutlierDetection {
    const DEFAULT: OutlierDetection = OutlierDetection::DEFAULT;
    let at = |name: &str| format!("{field}.{name}");
    let counted = |number: u32| (number > 0).then_some(number);
    let mut count = |name: &str, value: Option<i64>, default: Option<u32>| match reader
        .number(&at(name), value)
    {
        None => default,
        Some(number) => counted(number),
    };
    let older = count("consecutiveErrors", settings.consecutive_errors, None);
    let gateway = settings.consecutive_gateway_errors;
    let mut outlier = OutlierDetection {
        consecutive_5xx: count(
            "consecutive5xxErrors",
            settings.consecutive_5xx_errors,
            DEFAULT.consecutive_5xx,
        ),
        consecutive_gateway_errors: count("consecutiveGatewayErrors", gateway, older),
        split_local_origin: settings.split_external_local_origin_errors == Some(true),
        consecutive_local_origin_failures: count(
            "consecutiveLocalOriginFailures",
            settings.consecutive_local_origin_failures,
            DEFAULT.consecutive_local_origin_failures,
        ),
        ..DEFAULT
    };
    let interval = reader.positive(&at("interval"), settings.interval.as_ref());
    outlier.interval = interval.unwrap_or(DEFAULT.interval);
    let base = reader.positive(
        &at("baseEjectionTime"),
        settings.base_ejection_time.as_ref(),
    );
    outlier.base_ejection_time = base.unwrap_or(DEFAULT.base_ejection_time);
    let most = reader.percent(&at("maxEjectionPercent"), settings.max_ejection_percent);
    // Like all numbers of the API, 0 is not told from what is left out.
    let most = most.filter(|percent| *percent > 0);
    outlier.max_ejection_percent = most.unwrap_or(DEFAULT.max_ejection_percent);
    let least = reader.percent(&at("minHealthPercent"), settings.min_health_percent);
    outlier.min_health_percent = least.unwrap_or(DEFAULT.min_health_percent);
    if !outlier.split_local_origin && settings.consecutive_local_origin_failures.is_some() {
        reader.note(
            at("consecutiveLocalOriginFailures"),
            "has no effect without splitExternalLocalOriginErrors: true",
        );
    }
    outlier
}

/// Refuses the files that no sidecar reads.
fn files(reader: &mut Reader<'_>, field: &str, settings: &ClientTlsSettings) {
    for (name, path) in [
        ("caCertificates", &settings.ca_certificates),
        ("clientCertificate", &settings.client_certificate),
        ("privateKey", &settings.private_key),
    ] {
        if let Some(reason) = path.as_deref().and_then(misleads) {
            reader.error(format!("{field}.{name}"), reason);
        }
    }
}

/// Why callers' sidecars read no file at a path that somebody else has written.
fn misleads(path: &str) -> Option<&'static str> {
    let path = Path::new(path);
    if path.as_os_str().is_empty() {
        return None;
    }
    if !path.is_absolute() {
        return Some("is not absolute; name a file by its whole path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Some("contains \"..\"; name a file by its whole path");
    }
    let below = |directory: &&str| path.starts_with(directory);
    ["/dev", "/proc", "/sys"]
        .iter()
        .any(below)
        .then_some("lies below /dev, /proc or /sys, where no certificates are")
}

fn tls(reader: &mut Reader<'_>, field: &str, settings: &ClientTlsSettings) -> ClientTls {
    let at = |name: &str| format!("{field}.{name}");
    if settings.ca_crl.is_some() {
        reader.error(
            at("caCrl"),
            "is not honoured; the rule is refused rather than revoked certificates taken",
        );
    }
    if settings.credential_name.is_some() {
        reader.error(
            at("credentialName"),
            "is not honoured: sidecars read no Secrets; mount the files into the sidecar and name them by caCertificates, clientCertificate and privateKey",
        );
    }
    files(reader, field, settings);
    let server = Origination {
        sni: settings.sni.clone().filter(|name| !name.is_empty()),
        ca_certificates: settings.ca_certificates.clone(),
        subject_alt_names: settings.subject_alt_names.clone(),
        insecure_skip_verify: settings.insecure_skip_verify == Some(true),
    };
    let mut unused = |mode: &str| {
        if server != Origination::default()
            || settings.client_certificate.is_some()
            || settings.private_key.is_some()
        {
            let text = format!("mode is {mode}: what else stands here has no effect");
            reader.note(field, text);
        }
    };
    match settings.mode.as_deref() {
        None | Some("") => {
            reader.note(at("mode"), "is not set, which the API takes for DISABLE");
            ClientTls::Disable
        }
        Some("DISABLE") => {
            unused("DISABLE");
            ClientTls::Disable
        }
        Some("ISTIO_MUTUAL") => {
            unused("ISTIO_MUTUAL");
            ClientTls::IstioMutual
        }
        Some("SIMPLE") => ClientTls::Simple(server),
        Some("MUTUAL") => {
            let (certificate, key) = (&settings.client_certificate, &settings.private_key);
            for (name, value) in [("clientCertificate", certificate), ("privateKey", key)] {
                if value.is_none() {
                    reader.error(
                        at(name),
                        "is missing; MUTUAL shows a certificate of its own",
                    );
                }
            }
            ClientTls::Mutual {
                server,
                certificate: certificate.clone().unwrap_or_default(),
                private_key: key.clone().unwrap_or_default(),
            }
        }
        Some(other) => {
            let text =
                format!("{other:?} is not a mode; use DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL");
            reader.error(at("mode"), text);
            ClientTls::Auto
        }
    }
}
