//! What is put into a pod: the redirecting init container, the sidecar, and the
//! two volumes it reads.
//!
//! The token is projected with an audience of its own, so it is no use against
//! the API server. Its mode lets the sidecar's user read it: the kubelet hands a
//! token to a single user only where all containers share one.

use linnet_mesh::names::{self, PROXY_UID, container, env, port};
use serde_json::{Map, Value, json};

use crate::{
    injection::InjectionConfig,
    settings::{Redirection, Resources, Settings},
    view::PodView,
};

/// The volume with the ServiceAccount token.
pub const TOKEN_VOLUME: &str = "linnet-token";
/// The volume with the trust bundle.
pub const TRUST_VOLUME: &str = "linnet-trust";

const TOKEN_SECONDS: u32 = 3600;
const METRICS_PORT_NAME: &str = "linnet-metrics";
/// A sidecar that isn't ready after this many seconds is restarted; identity may
/// be that late when a whole cluster starts.
const STARTUP_SECONDS: u32 = 600;

/// The volumes that the sidecar mounts.
pub fn volumes() -> [Value; 2] {
    [
        json!({
            "name": TOKEN_VOLUME,
            "projected": {
                "defaultMode": 0o644,
                "sources": [{"serviceAccountToken": {
                    "audience": names::TOKEN_AUDIENCE,
                    "expirationSeconds": TOKEN_SECONDS,
                    "path": file_name(names::TOKEN_PATH),
                }}],
            },
        }),
        json!({
            "name": TRUST_VOLUME,
            "configMap": {
                "name": names::TRUST_BUNDLE_CONFIG_MAP,
                "items": [{"key": names::TRUST_BUNDLE_KEY, "path": file_name(names::TRUST_BUNDLE_PATH)}],
                "defaultMode": 0o644,
            },
        }),
    ]
}

/// The init container that redirects the pod's traffic. It alone runs as root,
/// whatever the pod asks of its containers, and only until the rules are there.
pub fn init_container(config: &InjectionConfig, settings: &Settings) -> Value {
    json!({
        "name": container::INIT,
        "image": config.init_image,
        "imagePullPolicy": config.image_pull_policy.as_str(),
        "args": redirect_arguments(&settings.redirection),
        "resources": resources(config, &settings.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// The sidecar; `probes` is the value of `LINNET_PROBES`, if there are any.
pub fn proxy_container(
    config: &InjectionConfig,
    settings: &Settings,
    pod: &PodView,
    probes: Option<String>,
    native: bool,
) -> Value {
    let probe = |path: &str| json!({"path": path, "port": port::METRICS});
    let mut proxy = json!({
        "name": container::PROXY,
        "image": config.proxy_image,
        "imagePullPolicy": config.image_pull_policy.as_str(),
        "env": environment(config, settings, pod, probes),
        "ports": [{"name": METRICS_PORT_NAME, "containerPort": port::METRICS, "protocol": "TCP"}],
        "resources": resources(config, &settings.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "startupProbe": {
            "httpGet": probe("/healthz/ready"),
            "periodSeconds": 1,
            "failureThreshold": STARTUP_SECONDS,
        },
        "readinessProbe": {"httpGet": probe("/healthz/ready"), "periodSeconds": 2, "timeoutSeconds": 3},
        "livenessProbe": {"httpGet": probe("/healthz/live"), "periodSeconds": 10, "timeoutSeconds": 3},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": folder(names::TOKEN_PATH), "readOnly": true},
            {"name": TRUST_VOLUME, "mountPath": folder(names::TRUST_BUNDLE_PATH), "readOnly": true},
        ],
    });
    let (field, value) = if native {
        ("restartPolicy", json!("Always"))
    } else {
        // The kubelet starts the next container once this hook has returned.
        let wait = json!({"exec": {"command": ["/linnet-proxy", "wait"]}});
        ("lifecycle", json!({"postStart": wait}))
    };
    proxy[field] = value;
    proxy
}

fn environment(
    config: &InjectionConfig,
    settings: &Settings,
    pod: &PodView,
    probes: Option<String>,
) -> Vec<Value> {
    let from_field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut environment = vec![
        from_field(env::POD_NAME, "metadata.name"),
        from_field(env::POD_NAMESPACE, "metadata.namespace"),
        from_field(env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
        from_field(env::POD_IPS, "status.podIPs"),
    ];
    let log = settings.log.as_ref().or(config.proxy_log.as_ref());
    let opaque = Some(settings.opaque_ports.to_string()).filter(|ports| !ports.is_empty());
    // A little less than the pod's grace, so that the sidecar ends by itself.
    let grace = pod.spec.termination_grace_period_seconds;
    let values = [
        (env::IDENTITY_URL, Some(config.identity_url.clone())),
        (
            env::DISCOVERY_ADDRESS,
            Some(config.discovery_address.clone()),
        ),
        (env::TRUST_DOMAIN, Some(config.trust_domain.to_string())),
        (env::LOG, log.cloned()),
        (env::OPAQUE_PORTS, opaque),
        (
            env::DRAIN_SECONDS,
            grace.map(|seconds| seconds.saturating_sub(2).max(1).to_string()),
        ),
        (env::PROBES, probes),
    ];
    let given = values
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    environment.extend(given.map(|(name, value)| json!({"name": name, "value": value})));
    environment
}

/// The pod's values over the configured ones. A configured request gives way to
/// a lower limit that the pod sets.
fn resources(config: &InjectionConfig, pod: &Resources) -> Value {
    let defaults = &config.resources;
    let mut requests = Map::new();
    let mut limits = Map::new();
    let kinds = [
        (
            "cpu",
            [&pod.cpu_request, &defaults.cpu_request],
            [&pod.cpu_limit, &defaults.cpu_limit],
        ),
        (
            "memory",
            [&pod.memory_request, &defaults.memory_request],
            [&pod.memory_limit, &defaults.memory_limit],
        ),
    ];
    for (kind, [own_request, default_request], [own_limit, default_limit]) in kinds {
        // A request above the configured limit lifts that limit.
        let limit = own_limit.as_ref().or_else(|| {
            let higher = own_request.as_ref();
            default_limit.as_ref().map(|limit| {
                higher
                    .filter(|request| request.exceeds(limit))
                    .unwrap_or(limit)
            })
        });
        let request = own_request.as_ref().or_else(|| {
            default_request.as_ref().map(|request| {
                limit
                    .filter(|limit| request.exceeds(limit))
                    .unwrap_or(request)
            })
        });
        if let Some(request) = request {
            requests.insert(kind.to_owned(), json!(request.as_str()));
        }
        if let Some(limit) = limit {
            limits.insert(kind.to_owned(), json!(limit.as_str()));
        }
    }
    let mut resources = Map::new();
    for (name, amounts) in [("requests", requests), ("limits", limits)] {
        if !amounts.is_empty() {
            resources.insert(name.to_owned(), Value::Object(amounts));
        }
    }
    Value::Object(resources)
}

/// The command line of `linnet-init`.
pub fn redirect_arguments(redirection: &Redirection) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    flag("proxy-uid", PROXY_UID.to_string());
    flag("inbound-port", port::INBOUND.to_string());
    flag("outbound-port", port::OUTBOUND.to_string());
    let lists = [
        (
            "skip-inbound-ports",
            redirection.skip_inbound_ports.to_string(),
        ),
        (
            "skip-outbound-ports",
            redirection.skip_outbound_ports.to_string(),
        ),
        (
            "skip-outbound-cidrs",
            comma_separated(&redirection.skip_outbound_cidrs),
        ),
        (
            "include-outbound-ports",
            redirection.include_outbound_ports.to_string(),
        ),
    ];
    for (name, value) in lists {
        if !value.is_empty() {
            flag(name, value);
        }
    }
    // An empty list is meant: nothing is redirected.
    if let Some(ports) = &redirection.include_inbound_ports {
        flag("include-inbound-ports", ports.to_string());
    }
    if let Some(cidrs) = &redirection.include_outbound_cidrs {
        flag("include-outbound-cidrs", comma_separated(cidrs));
    }
    arguments
}

fn comma_separated(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(",")
}

/// The folder of a path.
pub(crate) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(folder, _)| folder)
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, file)| file)
}

#[cfg(test)]
mod tests;
