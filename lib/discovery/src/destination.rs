//! How endpoints are called, in both directions of the conversion.

use crate::{
    DecodeError,
    decode::{Result, optional, parse, required},
    proto,
};
use linnet_mesh::destination::{
    Balance, ClientTls, ConnectionPool, ConsistentHash, Destination, DestinationPolicy,
    Distribution, Failover, HashAlgorithm, HashKey, Locality, LocalityPattern, LocalityPolicy,
    Origination, OutlierDetection, PriorityLabel, Sources, TcpKeepalive, Warmup,
};
use std::{sync::Arc, time::Duration};

#[cfg(test)]
mod tests;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn bad<T>(field: &'static str, reason: impl Into<String>) -> Result<T> {
    let reason = reason.into();
    Err(DecodeError { field, reason })
}

pub(super) fn encode_locality(locality: &Locality) -> Option<proto::Locality> {
    let Locality {
        region,
        zone,
        subzone,
    } = locality.clone();
    (!locality.is_unknown()).then_some(proto::Locality {
        region,
        zone,
        subzone,
    })
}

impl From<proto::Locality> for Locality {
    fn from(message: proto::Locality) -> Self {
        let proto::Locality {
            region,
            zone,
            subzone,
        } = message;
        Self {
            region,
            zone,
            subzone,
        }
    }
}

impl From<&Destination> for proto::Destination {
    fn from(destination: &Destination) -> Self {
        let subsets = destination.subsets.iter();
        Self {
            policy: Some(destination.policy.as_ref().into()),
            subsets: subsets
                .map(|(name, policy)| (name.clone(), policy.as_ref().into()))
                .collect(),
        }
    }
}

impl TryFrom<proto::Destination> for Destination {
    type Error = DecodeError;

    fn try_from(message: proto::Destination) -> Result<Self> {
        let policy: Option<DestinationPolicy> = optional(message.policy)?;
        Ok(Self {
            policy: Arc::new(policy.unwrap_or_default()),
            subsets: message
                .subsets
                .into_iter()
                .map(|(name, policy)| Ok((name, Arc::new(policy.try_into()?))))
                .collect::<Result<_>>()?,
        })
    }
}

impl From<&DestinationPolicy> for proto::DestinationPolicy {
    fn from(policy: &DestinationPolicy) -> Self {
        let Sources {
            pool,
            outlier,
            balance,
            tls,
        } = &policy.sources;
        Self {
            pool: (policy.pool != ConnectionPool::DEFAULT).then(|| (&policy.pool).into()),
            outlier: policy.outlier.as_ref().map(Into::into),
            balance: (policy.balance != Balance::default()).then(|| (&policy.balance).into()),
            locality: policy.locality.as_ref().map(Into::into),
            warmup: policy.warmup.as_ref().map(|warmup| proto::Warmup {
                duration_micros: micros(warmup.duration),
                minimum_percent: warmup.minimum_percent,
                aggression: warmup.aggression,
            }),
            tls: (policy.tls != ClientTls::Auto).then(|| (&policy.tls).into()),
            pool_source: pool.as_ref().map(Into::into),
            outlier_source: outlier.as_ref().map(Into::into),
            balance_source: balance.as_ref().map(Into::into),
            tls_source: tls.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::DestinationPolicy> for DestinationPolicy {
    type Error = DecodeError;

    fn try_from(message: proto::DestinationPolicy) -> Result<Self> {
        Ok(Self {
            pool: message.pool.map(Into::into).unwrap_or_default(),
            outlier: optional(message.outlier)?,
            balance: optional(message.balance)?.unwrap_or_default(),
            locality: optional(message.locality)?,
            warmup: optional(message.warmup)?,
            tls: optional(message.tls)?.unwrap_or_default(),
            sources: Sources {
                pool: message.pool_source.map(Into::into),
                outlier: message.outlier_source.map(Into::into),
                balance: message.balance_source.map(Into::into),
                tls: message.tls_source.map(Into::into),
            },
        })
    }
}

impl From<&ConnectionPool> for proto::ConnectionPool {
    fn from(pool: &ConnectionPool) -> Self {
        let keepalive = pool.keepalive.as_ref();
        Self {
            max_connections: pool.max_connections,
            connect_timeout_micros: micros(pool.connect_timeout),
            keepalive: keepalive.map(|keepalive| proto::TcpKeepalive {
                probes: keepalive.probes,
                time_micros: keepalive.time.map(micros),
                interval_micros: keepalive.interval.map(micros),
            }),
            max_connection_duration_micros: pool.max_connection_duration.map(micros),
            tcp_idle_timeout_micros: pool.tcp_idle_timeout.map_or(0, micros),
            max_pending_requests: pool.max_pending_requests,
            max_requests: pool.max_requests,
            max_requests_per_connection: pool.max_requests_per_connection,
            max_retries: pool.max_retries,
            http_idle_timeout_micros: pool.http_idle_timeout.map_or(0, micros),
            max_concurrent_streams: pool.max_concurrent_streams,
        }
    }
}

impl From<proto::ConnectionPool> for ConnectionPool {
    fn from(message: proto::ConnectionPool) -> Self {
        let never = |micros: u64| (micros > 0).then(|| Duration::from_micros(micros));
        Self {
            max_connections: message.max_connections,
            connect_timeout: Duration::from_micros(message.connect_timeout_micros),
            keepalive: message.keepalive.map(|keepalive| TcpKeepalive {
                probes: keepalive.probes,
                time: keepalive.time_micros.map(Duration::from_micros),
                interval: keepalive.interval_micros.map(Duration::from_micros),
            }),
            max_connection_duration: message
                .max_connection_duration_micros
                .map(Duration::from_micros),
            tcp_idle_timeout: never(message.tcp_idle_timeout_micros),
            max_pending_requests: message.max_pending_requests,
            max_requests: message.max_requests,
            max_requests_per_connection: message.max_requests_per_connection,
            max_retries: message.max_retries,
            http_idle_timeout: never(message.http_idle_timeout_micros),
            max_concurrent_streams: message.max_concurrent_streams,
        }
    }
}

impl From<&OutlierDetection> for proto::OutlierDetection {
    fn from(outlier: &OutlierDetection) -> Self {
        Self {
            consecutive_5xx: outlier.consecutive_5xx,
            consecutive_gateway_errors: outlier.consecutive_gateway_errors,
            split_local_origin: outlier.split_local_origin,
            consecutive_local_origin_failures: outlier.consecutive_local_origin_failures,
            interval_micros: micros(outlier.interval),
            base_ejection_time_micros: micros(outlier.base_ejection_time),
            max_ejection_percent: outlier.max_ejection_percent,
            min_health_percent: outlier.min_health_percent,
        }
    }
}

impl TryFrom<proto::OutlierDetection> for OutlierDetection {
    type Error = DecodeError;

    fn try_from(message: proto::OutlierDetection) -> Result<Self> {
        for (field, percent) in [
            ("outlier.max_ejection_percent", message.max_ejection_percent),
            ("outlier.min_health_percent", message.min_health_percent),
        ] {
            if percent > 100 {
                return bad(field, format!("{percent} is not a percentage"));
            }
        }
        if message.interval_micros == 0 {
            return bad("outlier.interval", "is zero");
        }
        Ok(Self {
            consecutive_5xx: message.consecutive_5xx,
            consecutive_gateway_errors: message.consecutive_gateway_errors,
            split_local_origin: message.split_local_origin,
            consecutive_local_origin_failures: message.consecutive_local_origin_failures,
            interval: Duration::from_micros(message.interval_micros),
            base_ejection_time: Duration::from_micros(message.base_ejection_time_micros),
            max_ejection_percent: message.max_ejection_percent,
            min_health_percent: message.min_health_percent,
        })
    }
}

impl From<&Balance> for proto::Balance {
    fn from(balance: &Balance) -> Self {
        use proto::{BalanceAlgorithm as Simple, balance::Kind};
        let simple = |algorithm: Simple| Kind::Simple(algorithm.into());
        Self {
            kind: Some(match balance {
                Balance::PeakEwma => simple(Simple::PeakEwma),
                Balance::LeastRequest => simple(Simple::LeastRequest),
                Balance::RoundRobin => simple(Simple::RoundRobin),
                Balance::Random => simple(Simple::Random),
                Balance::Passthrough => simple(Simple::Passthrough),
                Balance::ConsistentHash(hash) => Kind::ConsistentHash(hash.into()),
            }),
        }
    }
}

impl TryFrom<proto::Balance> for Balance {
    type Error = DecodeError;

    fn try_from(message: proto::Balance) -> Result<Self> {
        use proto::{BalanceAlgorithm as Simple, balance::Kind};
        let number = match required("balance", message.kind)? {
            Kind::Simple(number) => number,
            Kind::ConsistentHash(hash) => return Ok(Self::ConsistentHash(hash.try_into()?)),
        };
        match Simple::try_from(number) {
            Ok(Simple::PeakEwma) => Ok(Self::PeakEwma),
            Ok(Simple::LeastRequest) => Ok(Self::LeastRequest),
            Ok(Simple::RoundRobin) => Ok(Self::RoundRobin),
            Ok(Simple::Random) => Ok(Self::Random),
            Ok(Simple::Passthrough) => Ok(Self::Passthrough),
            Err(error) => bad("balance.simple", error.to_string()),
        }
    }
}

impl From<&ConsistentHash> for proto::ConsistentHash {
    fn from(hash: &ConsistentHash) -> Self {
        use proto::consistent_hash::{Algorithm, Key};
        Self {
            key: Some(match &hash.key {
                HashKey::Header(name) => Key::Header(name.to_string()),
                HashKey::Cookie { name, path, ttl } => Key::Cookie(proto::HashCookie {
                    name: name.clone(),
                    path: path.clone(),
                    ttl_micros: ttl.map(micros),
                }),
                HashKey::SourceIp => Key::SourceIp(true),
                HashKey::QueryParameter(name) => Key::QueryParameter(name.clone()),
            }),
            algorithm: Some(match hash.algorithm {
                HashAlgorithm::Ring { minimum_size } => Algorithm::MinimumRingSize(minimum_size),
                HashAlgorithm::Maglev { table_size } => Algorithm::MaglevTableSize(table_size),
            }),
        }
    }
}

impl TryFrom<proto::ConsistentHash> for ConsistentHash {
    type Error = DecodeError;

    fn try_from(message: proto::ConsistentHash) -> Result<Self> {
        use proto::consistent_hash::{Algorithm, Key};
        Ok(Self {
            key: match required("balance.consistent_hash.key", message.key)? {
                Key::Header(name) => {
                    HashKey::Header(parse("balance.consistent_hash.header", &name)?)
                }
                Key::Cookie(cookie) => HashKey::Cookie {
                    name: cookie.name,
                    path: cookie.path,
                    ttl: cookie.ttl_micros.map(Duration::from_micros),
                },
                Key::SourceIp(_) => HashKey::SourceIp,
                Key::QueryParameter(name) => HashKey::QueryParameter(name),
            },
            algorithm: match message.algorithm {
                None => HashAlgorithm::default(),
                // A size is memory: what no controller sends is refused.
                Some(Algorithm::MinimumRingSize(size)) if size > HashAlgorithm::MAX_RING_SIZE => {
                    return bad("balance.minimum_ring_size", format!("{size} is too many"));
                }
                Some(Algorithm::MinimumRingSize(minimum_size)) => {
                    HashAlgorithm::Ring { minimum_size }
                }
                Some(Algorithm::MaglevTableSize(size))
                    if !(2..=HashAlgorithm::MAX_TABLE_SIZE).contains(&size) =>
                {
                    return bad("balance.maglev_table_size", format!("{size}"));
                }
                Some(Algorithm::MaglevTableSize(table_size)) => {
                    HashAlgorithm::Maglev { table_size }
                }
            },
        })
    }
}

impl TryFrom<proto::Warmup> for Warmup {
    type Error = DecodeError;

    fn try_from(message: proto::Warmup) -> Result<Self> {
        if !(0.0..=100.0).contains(&message.minimum_percent) {
            return bad("warmup.minimum_percent", "is not a percentage");
        }
        if !(message.aggression.is_finite() && message.aggression > 0.0) {
            return bad("warmup.aggression", "is not above zero");
        }
        Ok(Self {
            duration: Duration::from_micros(message.duration_micros),
            minimum_percent: message.minimum_percent,
            aggression: message.aggression,
        })
    }
}

impl From<&LocalityPolicy> for proto::LocalityPolicy {
    fn from(policy: &LocalityPolicy) -> Self {
        let mut message = Self::default();
        match policy {
            LocalityPolicy::Distribute(entries) => {
                message.distribute = entries.iter().map(encode_distribution).collect();
            }
            LocalityPolicy::Failover(entries) => {
                let entries = entries.iter().cloned();
                message.failover = entries
                    .map(|Failover { from, to }| proto::LocalityFailover { from, to })
                    .collect();
            }
            LocalityPolicy::FailoverPriority(labels) => {
                let labels = labels.iter().cloned();
                message.failover_priority = labels
                    .map(|PriorityLabel { key, value }| proto::PriorityLabel { key, value })
                    .collect();
            }
        }
        message
    }
}

fn encode_distribution(entry: &Distribution) -> proto::LocalityDistribution {
    let shares = entry.to.iter();
    proto::LocalityDistribution {
        from: entry.from.to_string(),
        to: shares
            .map(|(place, percent)| proto::LocalityShare {
                place: place.to_string(),
                percent: *percent,
            })
            .collect(),
    }
}

impl TryFrom<proto::LocalityPolicy> for LocalityPolicy {
    type Error = DecodeError;

    fn try_from(message: proto::LocalityPolicy) -> Result<Self> {
        if !message.distribute.is_empty() {
            let entries = message.distribute.iter().map(decode_distribution);
            return Ok(Self::Distribute(entries.collect::<Result<_>>()?));
        }
        if !message.failover_priority.is_empty() {
            let labels = message.failover_priority.into_iter();
            return Ok(Self::FailoverPriority(
                labels
                    .map(|proto::PriorityLabel { key, value }| PriorityLabel { key, value })
                    .collect(),
            ));
        }
        let entries = message.failover.into_iter();
        Ok(Self::Failover(
            entries
                .map(|proto::LocalityFailover { from, to }| Failover { from, to })
                .collect(),
        ))
    }
}

fn decode_distribution(message: &proto::LocalityDistribution) -> Result<Distribution> {
    let place = |text: &str| {
        LocalityPattern::parse(text).or_else(|reason| bad("locality.distribute", reason))
    };
    Ok(Distribution {
        from: place(&message.from)?,
        to: message
            .to
            .iter()
            .map(|share| Ok((place(&share.place)?, share.percent)))
            .collect::<Result<_>>()?,
    })
}

impl From<&ClientTls> for proto::ClientTls {
    fn from(tls: &ClientTls) -> Self {
        use proto::ClientTlsMode as Mode;
        let mode = |mode: Mode| Self {
            mode: mode.into(),
            ..Self::default()
        };
        match tls {
            ClientTls::Auto => mode(Mode::Auto),
            ClientTls::Disable => mode(Mode::Disable),
            ClientTls::IstioMutual => mode(Mode::IstioMutual),
            ClientTls::Simple(server) => encode_origination(Mode::Simple, server),
            ClientTls::Mutual {
                server,
                certificate,
                private_key,
            } => Self {
                certificate: certificate.clone(),
                private_key: private_key.clone(),
                ..encode_origination(Mode::Mutual, server)
            },
        }
    }
}

fn encode_origination(mode: proto::ClientTlsMode, server: &Origination) -> proto::ClientTls {
    proto::ClientTls {
        mode: mode.into(),
        sni: server.sni.clone(),
        ca_certificates: server.ca_certificates.clone(),
        subject_alt_names: server.subject_alt_names.clone(),
        insecure_skip_verify: server.insecure_skip_verify,
        ..proto::ClientTls::default()
    }
}

impl TryFrom<proto::ClientTls> for ClientTls {
    type Error = DecodeError;

    fn try_from(message: proto::ClientTls) -> Result<Self> {
        use proto::ClientTlsMode as Mode;
        let server = Origination {
            sni: message.sni,
            ca_certificates: message.ca_certificates,
            subject_alt_names: message.subject_alt_names,
            insecure_skip_verify: message.insecure_skip_verify,
        };
        match Mode::try_from(message.mode) {
            Ok(Mode::Auto) => Ok(Self::Auto),
            Ok(Mode::Disable) => Ok(Self::Disable),
            Ok(Mode::IstioMutual) => Ok(Self::IstioMutual),
            Ok(Mode::Simple) => Ok(Self::Simple(server)),
            Ok(Mode::Mutual) => Ok(Self::Mutual {
                server,
                certificate: message.certificate,
                private_key: message.private_key,
            }),
            Err(error) => bad("tls.mode", error.to_string()),
        }
    }
}
