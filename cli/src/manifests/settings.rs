//! `--set key=value`: the choices that a profile leaves open.
//!
//! Every key is typed and known; a key that nobody reads would be a setting that
//! silently does nothing.

use crate::object::Object;
use ipnet::IpNet;
use linnet_injector::{
    config::variable,
    quantity::{Quantity, QuantityError},
    settings::log_filter,
};
use linnet_mesh::{TrustDomain, authorization::PathNormalization, names};
use serde_json::{Value, json};
use std::str::FromStr;

/// What may follow `--set`.
struct Key {
    name: &'static str,
    /// What it takes, for people.
    value: &'static str,
    meaning: &'static str,
    parse: fn(&str) -> Option<Setting>,
}

const KEYS: [Key; 20] = [
    Key {
        name: "clusterDomain",
        value: "domain name",
        meaning: "the cluster's DNS domain, what follows `svc` in the full name of a service",
        parse: |text| {
            // The characters of a trust domain, which is a DNS name too.
            let valid = TrustDomain::from_str(text).is_ok() && !text.starts_with('.');
            valid.then(|| Setting::Env(CLUSTER_DOMAIN, text.to_owned()))
        },
    },
    Key {
        name: "identity.certificateLifetime",
        value: "duration from 1m to 365d: 90s, 1h30m, 24h",
        meaning: "how long a workload's certificate is valid",
        parse: |text| lifetime(text).map(|text| Setting::Env(LIFETIME, text)),
    },
    Key {
        name: "identity.rootDistribution",
        value: "duration from 1m to 365d",
        meaning: "how long a new root is made known before it signs; without it, until every certificate that is valid came with it",
        parse: |text| lifetime(text).map(|text| Setting::Env(DISTRIBUTION, text)),
    },
    Key {
        name: "identity.rootRetirement",
        value: "duration from 1m to 365d",
        meaning: "how long the root before is trusted once another signs; without it, until every certificate under it has expired",
        parse: |text| lifetime(text).map(|text| Setting::Env(RETIREMENT, text)),
    },
    Key {
        name: "image.pullPolicy",
        value: "Always, IfNotPresent or Never",
        meaning: "pull policy of the control plane and of sidecars",
        parse: |text| one_of(text, &["Always", "IfNotPresent", "Never"]).map(Setting::PullPolicy),
    },
    Key {
        name: "image.registry",
        value: "registry and path: registry.example.com/linnet",
        meaning: "where the images come from, without the last part of their names",
        parse: |text| image_part(text, "/.:_-").map(Setting::Registry),
    },
    Key {
        name: "image.tag",
        value: "tag",
        meaning: "tag of the images",
        parse: |text| image_part(text, "._-").map(Setting::Tag),
    },
    Key {
        name: "injector.failurePolicy",
        value: "Fail or Ignore",
        meaning: "whether pods that opted in wait for an injector that is down, or start without a sidecar",
        parse: |text| one_of(text, &["Fail", "Ignore"]).map(Setting::FailurePolicy),
    },
    Key {
        name: "istioCompat",
        value: "true or false",
        meaning: "create namespace istio-system, a second place for mesh-wide configuration",
        parse: |text| text.parse().ok().map(Setting::IstioCompat),
    },
    Key {
        name: "log",
        value: "filter: info,linnet_controller=debug",
        meaning: "what the control plane logs",
        parse: |text| {
            let filter = log_filter(text).ok()?;
            Some(Setting::Env(names::env::LOG, filter))
        },
    },
    Key {
        name: "nativeSidecar",
        value: "auto, true or false",
        meaning: "run sidecars as native sidecar containers; auto: where the cluster can",
        parse: |text| {
            let native = one_of(text, &["auto", "true", "false"])?;
            Some(Setting::Env(variable::NATIVE_SIDECAR, native))
        },
    },
    Key {
        name: "pathNormalization",
        value: "DEFAULT, NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES",
        meaning: "readings of a path that authorization is asked about; all but DEFAULT leave some out",
        parse: |text| {
            let valid = PathNormalization::from_str(text).is_ok();
            valid.then(|| Setting::Env(names::env::PATH_NORMALIZATION, text.to_owned()))
        },
    },
    Key {
        name: "proxy.cpuLimit",
        value: "quantity, or nothing for none: 500m",
        meaning: "CPU that a sidecar may use",
        parse: |text| quantity(text, Quantity::cpu, variable::PROXY_CPU_LIMIT),
    },
    Key {
        name: "proxy.cpuRequest",
        value: "quantity, or nothing for none: 10m",
        meaning: "CPU that a sidecar asks for",
        parse: |text| quantity(text, Quantity::cpu, variable::PROXY_CPU_REQUEST),
    },
    Key {
        name: "proxy.memoryLimit",
        value: "quantity, or nothing for none: 256Mi",
        meaning: "memory that a sidecar may use",
        parse: |text| quantity(text, Quantity::memory, variable::PROXY_MEMORY_LIMIT),
    },
    Key {
        name: "proxy.memoryRequest",
        value: "quantity, or nothing for none: 20Mi",
        meaning: "memory that a sidecar asks for",
        parse: |text| quantity(text, Quantity::memory, variable::PROXY_MEMORY_REQUEST),
    },
    Key {
        name: "replicas",
        value: "number from 1",
        meaning: "replicas of each service of the control plane",
        parse: |text| {
            text.parse()
                .ok()
                .filter(|count| *count > 0)
                .map(Setting::Replicas)
        },
    },
    Key {
        name: "trustDomain",
        value: "domain name",
        meaning: "trust domain of all identities; changing it later cuts running pods off until they restart",
        parse: |text| {
            let valid = TrustDomain::from_str(text).is_ok();
            valid.then(|| Setting::Env(names::env::TRUST_DOMAIN, text.to_owned()))
        },
    },
    Key {
        name: "trustDomainAliases",
        value: "domain names, comma-separated",
        meaning: "other names of the trust domain: peers with certificates of these are taken, and policies may use any",
        parse: |text| {
            let valid = text
                .split(',')
                .all(|name| TrustDomain::from_str(name.trim()).is_ok());
            valid.then(|| Setting::Env(names::env::TRUST_DOMAIN_ALIASES, text.to_owned()))
        },
    },
    Key {
        name: "webhook.apiServerCidrs",
        value: "address ranges, comma-separated: 10.0.0.2/32,fd00::2/128",
        meaning: "from where the API servers call: NetworkPolicies let nobody else connect to the webhooks",
        parse: |text| {
            let ranges = text.split(',').map(str::trim).map(IpNet::from_str);
            let ranges: Result<Vec<_>, _> = ranges.collect();
            ranges.ok().map(Setting::ApiServers)
        },
    },
];

const CLUSTER_DOMAIN: &str = "LINNET_CLUSTER_DOMAIN";
const LIFETIME: &str = "LINNET_CERTIFICATE_LIFETIME";
const DISTRIBUTION: &str = "LINNET_ROOT_DISTRIBUTION";
const RETIREMENT: &str = "LINNET_ROOT_RETIREMENT";
/// Variables of the injector that hold the image of a container it adds.
const IMAGE_VARIABLES: [&str; 2] = [variable::PROXY_IMAGE, variable::INIT_IMAGE];

/// A choice that was made.
#[derive(Clone, Debug, PartialEq)]
enum Setting {
    /// From where the webhooks are called.
    ApiServers(Vec<IpNet>),
    /// A variable of every service that has it.
    Env(&'static str, String),
    FailurePolicy(String),
    IstioCompat(bool),
    PullPolicy(String),
    Registry(String),
    Replicas(u16),
    Tag(String),
}

/// Why a choice can't be honoured.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Error {
    #[error("--set {0}: write it as key=value")]
    NotAPair(String),
    #[error("--set {key}: there is no such key; the keys are {}", key_names())]
    UnknownKey { key: String },
    #[error("--set {key}={value}: not a valid value; it takes {takes}")]
    Value {
        key: &'static str,
        value: String,
        takes: &'static str,
    },
    #[error("this setting fits nothing in the manifests: {0}")]
    Unused(String),
}

/// All choices, valid each by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings(Vec<Setting>);

impl Settings {
    /// Reads what followed each `--set`; a later one wins over an earlier.
    ///
    /// # Errors
    /// Everything that is wrong, in one go.
    pub(crate) fn parse(typed: &[String]) -> Result<Self, Vec<Error>> {
        let mut settings = Vec::new();
        let mut errors = Vec::new();
        for pair in typed {
            match parse_pair(pair) {
                Ok(setting) => settings.push(setting),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self(settings))
        } else {
            Err(errors)
        }
    }

    /// Changes rendered objects accordingly.
    ///
    /// # Errors
    /// A setting for which there is nothing to change.
    pub(crate) fn apply(&self, objects: &mut Vec<Object>) -> Result<(), Error> {
        for setting in &self.0 {
            if !setting.apply(objects) {
                return Err(Error::Unused(format!("{setting:?}")));
            }
        }
        Ok(())
    }
}

/// The keys with what they take and mean, for `--help`.
pub(crate) fn describe_keys() -> String {
    let describe = |key: &Key| format!("\n  {}=<{}>\n      {}", key.name, key.value, key.meaning);
    let described: String = KEYS.iter().map(describe).collect();
    format!("Keys for --set:{described}")
}

fn key_names() -> String {
    let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    names.join(", ")
}

fn parse_pair(pair: &str) -> Result<Setting, Error> {
    let (name, value) = pair
        .split_once('=')
        .ok_or_else(|| Error::NotAPair(pair.to_owned()))?;
    let key = KEYS
        .iter()
        .find(|key| key.name == name)
        .ok_or_else(|| Error::UnknownKey {
            key: name.to_owned(),
        })?;
    (key.parse)(value).ok_or_else(|| Error::Value {
        key: key.name,
        value: value.to_owned(),
        takes: key.value,
    })
}

fn one_of(text: &str, allowed: &[&str]) -> Option<String> {
    allowed.contains(&text).then(|| text.to_owned())
}

fn image_part(text: &str, punctuation: &str) -> Option<String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || punctuation.contains(c);
    let edges = text.starts_with(char::is_alphanumeric) && text.ends_with(char::is_alphanumeric);
    (edges && text.chars().all(valid)).then(|| text.to_owned())
}

fn quantity(
    text: &str,
    parse: fn(&str) -> Result<Quantity, QuantityError>,
    variable: &'static str,
) -> Option<Setting> {
    let valid = text.is_empty() || parse(text).is_ok();
    valid.then(|| Setting::Env(variable, text.to_owned()))
}

/// As identity reads it: `24h`, `1h30m`, `7d`.
fn lifetime(text: &str) -> Option<String> {
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = match tail.bytes().next()? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 24 * 3600,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(unit)?;
        seconds = seconds.checked_add(part)?;
        rest = &tail[1..];
    }
    (60..=365 * 24 * 3600)
        .contains(&seconds)
        .then(|| text.to_owned())
}

impl Setting {
    /// Whether it found something to change.
    fn apply(&self, objects: &mut Vec<Object>) -> bool {
        match self {
            Self::ApiServers(ranges) => limit_webhooks(objects, ranges),
            Self::Env(name, value) => each_variable(objects, &[*name], |variable| {
                variable["value"] = Value::from(value.as_str());
            }),
            Self::FailurePolicy(policy) => set_failure_policy(objects, policy),
            Self::IstioCompat(wanted) => {
                let ours = |object: &Object| {
                    object.kind() == "Namespace" && object.name() == names::ISTIO_NAMESPACE
                };
                let present = objects.iter().any(ours);
                if !wanted {
                    objects.retain(|object| !ours(object));
                }
                present
            }
            Self::PullPolicy(policy) => {
                let used = each_variable(objects, &[variable::IMAGE_PULL_POLICY], |variable| {
                    variable["value"] = Value::from(policy.as_str());
                });
                each_container(objects, |container| {
                    container["imagePullPolicy"] = Value::from(policy.as_str());
                }) && used
            }
            Self::Registry(registry) => each_image(objects, |image| {
                let name = image.rsplit('/').next().unwrap_or(image);
                format!("{registry}/{name}")
            }),
            Self::Tag(tag) => each_image(objects, |image| {
                let name = image.rsplit_once(':').map_or(image, |(name, _)| name);
                format!("{name}:{tag}")
            }),
            Self::Replicas(count) => {
                let deployments = objects
                    .iter_mut()
                    .filter(|object| object.kind() == "Deployment");
                deployments.fold(false, |_, object| {
                    object.value_mut()["spec"]["replicas"] = json!(count);
                    true
                })
            }
        }
    }
}

fn each_container(objects: &mut [Object], mut change: impl FnMut(&mut Value)) -> bool {
    let mut used = false;
    for container in objects.iter_mut().flat_map(Object::containers_mut) {
        change(container);
        used = true;
    }
    used
}

fn each_variable(objects: &mut [Object], names: &[&str], change: impl Fn(&mut Value)) -> bool {
    let mut used = false;
    each_container(objects, |container| {
        let variables = container.get_mut("env").and_then(Value::as_array_mut);
        for variable in variables.into_iter().flatten() {
            if variable["name"]
                .as_str()
                .is_some_and(|name| names.contains(&name))
            {
                change(variable);
                used = true;
            }
        }
    });
    used
}

fn each_image(objects: &mut [Object], change: impl Fn(&str) -> String) -> bool {
    let replace = |value: &mut Value| {
        if let Some(image) = value.as_str() {
            *value = Value::from(change(image));
        }
    };
    let used = each_variable(objects, &IMAGE_VARIABLES, |variable| {
        replace(&mut variable["value"]);
    });
    each_container(objects, |container| replace(&mut container["image"])) && used
}

/// Lets these addresses, and no others, connect to the ports called `webhook`.
fn limit_webhooks(objects: &mut [Object], ranges: &[IpNet]) -> bool {
    let from: Vec<Value> = ranges
        .iter()
        .map(|range| json!({"ipBlock": {"cidr": range.trunc().to_string()}}))
        .collect();
    let mut used = false;
    let policies = |object: &&mut Object| object.kind() == "NetworkPolicy";
    for object in objects.iter_mut().filter(policies) {
        let rules = object.value_mut().pointer_mut("/spec/ingress");
        for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
            if rule["ports"] == json!([{"port": "webhook"}]) {
                rule["from"] = from.clone().into();
                used = true;
            }
        }
    }
    used
}

fn set_failure_policy(objects: &mut [Object], policy: &str) -> bool {
    let mut used = false;
    let injectors = |object: &&mut Object| object.kind() == "MutatingWebhookConfiguration";
    for object in objects.iter_mut().filter(injectors) {
        let webhooks = object.value_mut().get_mut("webhooks");
        for webhook in webhooks.and_then(Value::as_array_mut).into_iter().flatten() {
            webhook["failurePolicy"] = Value::from(policy);
            used = true;
        }
    }
    used
}
