//! `loadBalancer`: how an endpoint is chosen.

use super::settings::{Inherits, Locality, Reader};
use crate::resource::{
    ConsistentHashSettings, LoadBalancerSettings, LocalitySettings, WarmupSettings,
};
use linnet_mesh::destination::{
    Balance, ConsistentHash, Distribution, Failover, HashAlgorithm, HashKey, LocalityPattern,
    LocalityPolicy, PriorityLabel, Warmup,
};

/// A `loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Balancing {
    pub(super) balance: Balance,
    pub(super) locality: Locality,
    pub(super) warmup: Option<Warmup>,
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    field: &str,
    settings: &LoadBalancerSettings,
    inherits: Inherits,
) -> Balancing {
    if settings.simple.is_some() && settings.consistent_hash.is_some() {
        reader.error(field, "simple and consistentHash exclude each other");
    }
    let balance = match (&settings.simple, &settings.consistent_hash) {
        (None, None) => Balance::PeakEwma,
        (_, Some(hash)) => consistent_hash(reader, &format!("{field}.consistentHash"), hash),
        (Some(name), None) => simple(reader, &format!("{field}.simple"), name),
    };
    let locality = match &settings.locality_lb_setting {
        None => Locality::Unsaid,
        Some(settings) => {
            let field = format!("{field}.localityLbSetting");
            let locality = locality(reader, &field, settings);
            let fails_over = matches!(
                &locality,
                Locality::Policy(LocalityPolicy::Failover(_) | LocalityPolicy::FailoverPriority(_))
            );
            let missing = match inherits {
                Inherits::OutlierDetection => None,
                Inherits::Nothing => Some(
                    "failover has no effect without outlierDetection, which says when a place has failed",
                ),
                Inherits::NoOutlierDetection => Some(
                    "failover has no effect without outlierDetection, which neither the subset nor the rule's own trafficPolicy has",
                ),
            };
            if let Some(text) = missing.filter(|_| fails_over) {
                reader.note(field, text);
            }
            locality
        }
    };
    let warmup = warmup(reader, field, settings);
    if warmup.is_some() && matches!(balance, Balance::ConsistentHash(_)) {
        let name = match settings.warmup {
            Some(_) => "warmup",
            None => "warmupDurationSecs",
        };
        let text = "has no effect beside consistentHash: a request's key alone says where it goes";
        reader.note(format!("{field}.{name}"), text);
    }
    Balancing {
        balance,
        locality,
        warmup,
    }
}

fn simple(reader: &mut Reader<'_>, field: &str, name: &str) -> Balance {
    match name {
        "UNSPECIFIED" => Balance::PeakEwma,
        "LEAST_REQUEST" | "LEAST_CONN" => Balance::LeastRequest,
        "ROUND_ROBIN" => Balance::RoundRobin,
        "RANDOM" => Balance::Random,
        "PASSTHROUGH" => {
            reader.note(
                field,
                "a service's address is no endpoint's: calls to the service are balanced as by default, those to a pod's own address go there",
            );
            Balance::Passthrough
        }
        other => {
            let text = format!(
                "{other:?} is not a load balancer; use LEAST_REQUEST, ROUND_ROBIN, RANDOM or PASSTHROUGH"
            );
            reader.error(field, text);
            Balance::PeakEwma
        }
    }
}

fn consistent_hash(
    reader: &mut Reader<'_>,
    field: &str,
    settings: &ConsistentHashSettings,
) -> Balance {
    let at = |name: &str| format!("{field}.{name}");
    let mut keys = Vec::new();
    if let Some(name) = &settings.http_header_name {
        match name.parse() {
            Ok(name) => keys.push(HashKey::Header(name)),
            Err(_) => reader.error(at("httpHeaderName"), format!("{name:?} is not a header")),
        }
    }
    if let Some(cookie) = &settings.http_cookie {
        if cookie.name.is_empty() {
            reader.error(at("httpCookie.name"), "is missing");
        }
        keys.push(HashKey::Cookie {
            name: cookie.name.clone(),
            path: cookie.path.clone().filter(|path| !path.is_empty()),
            ttl: reader.duration(&at("httpCookie.ttl"), cookie.ttl.as_ref()),
        });
    }
    if settings.use_source_ip == Some(true) {
        keys.push(HashKey::SourceIp);
    }
    if let Some(name) = &settings.http_query_parameter_name {
        keys.push(HashKey::QueryParameter(name.clone()));
    }
    let algorithm = algorithm(reader, field, settings);
    if keys.len() != 1 {
        reader.error(
            field,
            "needs one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
        );
    }
    match keys.pop() {
        Some(key) => Balance::ConsistentHash(ConsistentHash { key, algorithm }),
        None => Balance::PeakEwma,
    }
}

fn algorithm(
    reader: &mut Reader<'_>,
    field: &str,
    settings: &ConsistentHashSettings,
) -> HashAlgorithm {
    let ring = settings.ring_hash.as_ref();
    if let Some(maglev) = &settings.maglev {
        let field = format!("{field}.maglev.tableSize");
        if ring.is_some() {
            reader.error(&field, "ringHash and maglev exclude each other");
        }
        let size = reader.number(&field, maglev.table_size);
        let table_size = size
            .filter(|size| *size != 0)
            .unwrap_or(HashAlgorithm::TABLE_SIZE);
        if !is_prime(table_size) || table_size > HashAlgorithm::MAX_TABLE_SIZE {
            let most = HashAlgorithm::MAX_TABLE_SIZE;
            reader.error(&field, format!("{table_size} is not a prime up to {most}"));
        } else if table_size > HashAlgorithm::LARGEST_TABLE {
            let most = HashAlgorithm::LARGEST_TABLE;
            reader.note(field, format!("{table_size} entries are cut to {most}"));
        }
        return HashAlgorithm::Maglev { table_size };
    }
    let (name, size) = match ring.and_then(|ring| ring.minimum_ring_size) {
        Some(size) => ("ringHash.minimumRingSize", Some(size)),
        None => ("minimumRingSize", settings.minimum_ring_size),
    };
    let field = format!("{field}.{name}");
    let size = reader.number(&field, size).filter(|size| *size != 0);
    let minimum_size = size.unwrap_or(HashAlgorithm::RING_SIZE);
    if minimum_size > HashAlgorithm::MAX_RING_SIZE {
        let most = HashAlgorithm::MAX_RING_SIZE;
        reader.error(field, format!("{minimum_size} is more than {most}"));
    } else if minimum_size > HashAlgorithm::LARGEST_RING {
        let most = HashAlgorithm::LARGEST_RING;
        reader.note(field, format!("{minimum_size} points are cut to {most}"));
    }
    HashAlgorithm::Ring { minimum_size }
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

fn locality(reader: &mut Reader<'_>, field: &str, settings: &LocalitySettings) -> Locality {
    if settings.enabled == Some(false) {
        return Locality::Off;
    }
    let said = [
        !settings.distribute.is_empty(),
        !settings.failover.is_empty(),
    ];
    if said.iter().all(|said| *said) {
        reader.error(field, "distribute and failover exclude each other");
    }
    if !settings.distribute.is_empty() {
        let field = format!("{field}.distribute");
        return Locality::Policy(distribute(reader, &field, settings));
    }
    if !settings.failover_priority.is_empty() {
        let labels = settings.failover_priority.iter().map(|text| {
            let (key, value) = match text.split_once('=') {
                None => (text.as_str(), None),
                Some((key, value)) => (key, Some(value.to_owned())),
            };
            PriorityLabel {
                key: key.to_owned(),
                value,
            }
        });
        if !settings.failover.is_empty() {
            reader.note(
                format!("{field}.failover"),
                "has no effect beside failoverPriority",
            );
        }
        return Locality::Policy(LocalityPolicy::FailoverPriority(labels.collect()));
    }
    let mut entries = Vec::new();
    for (position, entry) in settings.failover.iter().enumerate() {
        let field = format!("{field}.failover[{position}]");
        if entry.from.is_empty() || entry.to.is_empty() || entry.from == entry.to {
            reader.error(field, "needs two different regions, from and to");
        } else if entry.from.contains(['/', '*']) || entry.to.contains(['/', '*']) {
            reader.error(field, "names regions, without zones or \"*\"");
        }
        entries.push(Failover {
            from: entry.from.clone(),
            to: entry.to.clone(),
        });
    }
    Locality::Policy(LocalityPolicy::Failover(entries))
}

fn distribute(reader: &mut Reader<'_>, field: &str, settings: &LocalitySettings) -> LocalityPolicy {
    let mut entries = Vec::new();
    for (position, entry) in settings.distribute.iter().enumerate() {
        let field = format!("{field}[{position}]");
        let mut place = |name: &str, text: &str| {
            LocalityPattern::parse(text).unwrap_or_else(|error| {
                reader.error(format!("{field}.{name}"), error);
                LocalityPattern::default()
            })
        };
        let from = place("from", &entry.from);
        let places: Vec<_> = entry
            .to
            .iter()
            .map(|(to, share)| (place("to", to), *share))
            .collect();
        let mut to = Vec::new();
        for (place, share) in places {
            let share = reader.percent(&format!("{field}.to"), Some(share));
            to.push((place, share.unwrap_or_default()));
        }
        let sum: u32 = to.iter().map(|(_, share)| share).sum();
        if sum != 100 {
            reader.error(
                format!("{field}.to"),
                format!("shares sum to {sum}, not to 100"),
            );
        }
        entries.push(Distribution { from, to });
    }
    LocalityPolicy::Distribute(entries)
}

fn warmup(reader: &mut Reader<'_>, field: &str, settings: &LoadBalancerSettings) -> Option<Warmup> {
    let older = reader.positive(
        &format!("{field}.warmupDurationSecs"),
        settings.warmup_duration_secs.as_ref(),
    );
    let Some(settings) = &settings.warmup else {
        return older.map(|duration| Warmup {
            duration,
            minimum_percent: Warmup::MINIMUM_PERCENT,
            aggression: Warmup::AGGRESSION,
        });
    };
    let WarmupSettings {
        duration,
        minimum_percent,
        aggression,
    } = settings;
    let field = format!("{field}.warmup");
    if duration.is_none() && older.is_none() {
        reader.error(format!("{field}.duration"), "is missing");
    }
    let duration = reader
        .positive(&format!("{field}.duration"), duration.as_ref())
        .or(older)?;
    let minimum_percent = minimum_percent.unwrap_or(Warmup::MINIMUM_PERCENT);
    if !(0.0..=100.0).contains(&minimum_percent) {
        let text = format!("{minimum_percent} is not a percentage");
        reader.error(format!("{field}.minimumPercent"), text);
    }
    let aggression = aggression.unwrap_or(Warmup::AGGRESSION);
    if !aggression.is_finite() || aggression < 1.0 {
        let text = format!("{aggression} is less than 1");
        reader.error(format!("{field}.aggression"), text);
    }
    Some(Warmup {
        duration,
        minimum_percent,
        aggression,
    })
}
