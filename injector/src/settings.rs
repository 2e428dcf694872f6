//! A pod's annotations, parsed.
//!
//! Both spellings are read, Istio's and Linnet's. Lists of what to leave alone
//! add up; of two single values Linnet's wins. A value that can't be read refuses
//! the pod, with all mistakes at once: an exclusion silently dropped would cut a
//! database off, one silently kept would leave traffic unencrypted.
//!
//! Whoever writes a pod writes these: each value has a longest length, each list
//! a highest count, and a message repeats no more than the beginning of a value.

use std::fmt;

use ipnet::IpNet;
use linnet_admission::review::shorten;
use linnet_mesh::{access_log::AccessLog, names::annotation};
use linnet_runtime::logging;

use crate::{
    ports::Ports,
    quantity::{Quantity, QuantityError},
    view::PodView,
};

/// Annotations that only the injector knows, and Istio's spellings.
pub mod name {
    /// CPU that the sidecar asks for.
    pub const CPU_REQUEST: &str = "linnet.io/proxy-cpu-request";
    /// CPU that the sidecar may use.
    pub const CPU_LIMIT: &str = "linnet.io/proxy-cpu-limit";
    /// Memory that the sidecar asks for.
    pub const MEMORY_REQUEST: &str = "linnet.io/proxy-memory-request";
    /// Memory that the sidecar may use.
    pub const MEMORY_LIMIT: &str = "linnet.io/proxy-memory-limit";
    /// Written on an injected pod: what was put in, as JSON.
    pub const STATUS: &str = "linnet.io/status";
    /// Istio's spelling of [`CPU_REQUEST`].
    pub const ISTIO_CPU_REQUEST: &str = "sidecar.istio.io/proxyCPU";
    /// Istio's spelling of [`CPU_LIMIT`].
    pub const ISTIO_CPU_LIMIT: &str = "sidecar.istio.io/proxyCPULimit";
    /// Istio's spelling of [`MEMORY_REQUEST`].
    pub const ISTIO_MEMORY_REQUEST: &str = "sidecar.istio.io/proxyMemory";
    /// Istio's spelling of [`MEMORY_LIMIT`].
    pub const ISTIO_MEMORY_LIMIT: &str = "sidecar.istio.io/proxyMemoryLimit";
    /// Istio's log level of the sidecar.
    pub const ISTIO_LOG_LEVEL: &str = "sidecar.istio.io/logLevel";
    /// `false` leaves the kubelet's probes as they are.
    pub const ISTIO_REWRITE_PROBES: &str = "sidecar.istio.io/rewriteAppHTTPProbers";
    /// Istio: the only ports redirected on their way in; `*` for all.
    pub const ISTIO_INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
    /// Istio's spelling of skip-inbound-ports.
    pub const ISTIO_EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
    /// Istio: ports redirected on their way out whatever their address.
    pub const ISTIO_INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
    /// Istio's spelling of skip-outbound-ports.
    pub const ISTIO_EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
    /// Istio: the only addresses redirected on their way out; `*` for all.
    pub const ISTIO_INCLUDE_OUTBOUND_CIDRS: &str =
        "traffic.sidecar.istio.io/includeOutboundIPRanges";
    /// Istio's spelling of skip-outbound-cidrs.
    pub const ISTIO_EXCLUDE_OUTBOUND_CIDRS: &str =
        "traffic.sidecar.istio.io/excludeOutboundIPRanges";
}

/// Every annotation that means something to the injector.
pub const KNOWN: [&str; 26] = [
    annotation::ACCESS_LOG,
    annotation::SKIP_INBOUND_PORTS,
    annotation::SKIP_OUTBOUND_PORTS,
    annotation::SKIP_OUTBOUND_CIDRS,
    annotation::OPAQUE_PORTS,
    annotation::NATIVE_SIDECAR,
    annotation::PROXY_LOG,
    linnet_mesh::names::label::INJECT,
    linnet_mesh::names::label::ISTIO_SIDECAR_INJECT,
    name::CPU_REQUEST,
    name::CPU_LIMIT,
    name::MEMORY_REQUEST,
    name::MEMORY_LIMIT,
    name::STATUS,
    name::ISTIO_CPU_REQUEST,
    name::ISTIO_CPU_LIMIT,
    name::ISTIO_MEMORY_REQUEST,
    name::ISTIO_MEMORY_LIMIT,
    name::ISTIO_LOG_LEVEL,
    name::ISTIO_REWRITE_PROBES,
    name::ISTIO_INCLUDE_INBOUND_PORTS,
    name::ISTIO_EXCLUDE_INBOUND_PORTS,
    name::ISTIO_INCLUDE_OUTBOUND_PORTS,
    name::ISTIO_EXCLUDE_OUTBOUND_PORTS,
    name::ISTIO_INCLUDE_OUTBOUND_CIDRS,
    name::ISTIO_EXCLUDE_OUTBOUND_CIDRS,
];

/// Prefixes of annotations that are about a sidecar.
const PREFIXES: [&str; 4] = [
    "linnet.io/",
    "sidecar.istio.io/",
    "traffic.sidecar.istio.io/",
    "proxy.istio.io/",
];

/// The longest annotation that is read, in bytes.
pub const LONGEST: usize = 8 * 1024;
/// The most entries of a list: each becomes a rule of the pod's redirection.
pub const MOST_ENTRIES: usize = 256;
/// The longest part of a value, and of what is wrong with it, in a message.
const QUOTED: (usize, usize) = (64, 512);
/// The most unknown annotations that are named.
const UNKNOWN: usize = 16;

/// What a pod's annotations ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Native sidecar or plain container, if the pod says.
    pub native_sidecar: Option<bool>,
    /// What is redirected.
    pub redirection: Redirection,
    /// Ports whose bytes are never looked at.
    pub opaque_ports: Ports,
    /// The sidecar's resources, where the pod says.
    pub resources: Resources,
    /// The sidecar's log filter, if the pod says.
    pub log: Option<String>,
    /// Whether the kubelet's probes stay as they are.
    pub keep_probes: bool,
}

/// What of a pod's traffic is redirected: all but the skipped, or, where an
/// include is given, that alone; a skip wins over an include.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirection {
    /// Ports not redirected on their way in.
    pub skip_inbound_ports: Ports,
    /// The only ports redirected on their way in.
    pub include_inbound_ports: Option<Ports>,
    /// Ports not redirected on their way out.
    pub skip_outbound_ports: Ports,
    /// Destinations not redirected.
    pub skip_outbound_cidrs: Vec<IpNet>,
    /// The only destinations redirected.
    pub include_outbound_cidrs: Option<Vec<IpNet>>,
    /// Ports redirected although their destination is not among
    /// `include_outbound_cidrs`.
    pub include_outbound_ports: Ports,
}

/// A container's resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// CPU asked for.
    pub cpu_request: Option<Quantity>,
    /// CPU allowed.
    pub cpu_limit: Option<Quantity>,
    /// Memory asked for.
    pub memory_request: Option<Quantity>,
    /// Memory allowed.
    pub memory_limit: Option<Quantity>,
}

/// One annotation that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The annotation.
    pub annotation: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

/// All of a pod's annotations that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub Vec<Mistake>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, mistake) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}annotation {}: {:?}: {}",
                mistake.annotation, mistake.value, mistake.problem
            )?;
        }
        Ok(())
    }
}

impl Settings {
    /// Reads a pod's annotations.
    pub fn parse(pod: &PodView) -> Result<Self, SettingsError> {
        let mut reader = Reader {
            pod,
            mistakes: Vec::new(),
        };
        let settings = Self {
            native_sidecar: reader.read(annotation::NATIVE_SIDECAR, boolean),
            redirection: reader.redirection(),
            opaque_ports: reader.ports(&[annotation::OPAQUE_PORTS]),
            resources: reader.resources(),
            log: reader.log(),
            keep_probes: reader.read(name::ISTIO_REWRITE_PROBES, boolean) == Some(false),
        };
        match reader.mistakes {
            mistakes if mistakes.is_empty() => Ok(settings),
            mistakes => Err(SettingsError(mistakes)),
        }
    }
}

/// Annotations about a sidecar that nothing here acts on, one warning each.
pub fn unknown_annotations(pod: &PodView) -> Vec<String> {
    let annotations = pod.metadata.annotations.iter().flatten();
    let mut unknown = annotations
        .map(|(name, _)| name.as_str())
        .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|name| !KNOWN.contains(name));
    let named = unknown.by_ref().take(UNKNOWN).map(|name| {
        let name = shorten(name, QUOTED.1);
        format!("annotation {name} has no effect: Linnet does not know it")
    });
    let mut warnings: Vec<String> = named.collect();
    let more = unknown.count();
    if more > 0 {
        warnings.push(format!("{more} more annotations have no effect"));
    }
    warnings
}

/// What is wrong with the annotation about the access log. It is the controller's
/// to act on, and no reason to refuse a pod.
pub fn unread_access_log(pod: &PodView) -> Option<String> {
    let name = annotation::ACCESS_LOG;
    let error = match pod.annotation(name)? {
        long if long.len() > LONGEST => too_long(long.len()),
        value => value.parse::<AccessLog>().err()?.to_string(),
    };
    let error = shorten(&error, QUOTED.1);
    Some(format!(
        "annotation {name}: {error}; it counts as if it were not there"
    ))
}

struct Reader<'a> {
    pod: &'a PodView,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn read<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.pod.annotation(name)?;
        let problem = if value.len() > LONGEST {
            too_long(value.len())
        } else {
            match parse(value.trim()) {
                Ok(parsed) => return Some(parsed),
                Err(problem) => problem.to_string(),
            }
        };
        self.mistakes.push(Mistake {
            annotation: name,
            value: shorten(value, QUOTED.0).into_owned(),
            problem: shorten(&problem, QUOTED.1).into_owned(),
        });
        None
    }

    fn ports(&mut self, names: &[&'static str]) -> Ports {
        let mut all = Ports::default();
        for name in names {
            if let Some(ports) = self.read(name, port_list) {
                all = all.union(&ports);
            }
        }
        all
    }

    fn cidrs(&mut self, names: &[&'static str]) -> Vec<IpNet> {
        let lists = names.iter().filter_map(|name| self.read(name, cidr_list));
        let mut all: Vec<IpNet> = lists.flatten().collect();
        all.sort();
        all.dedup();
        all
    }

    fn redirection(&mut self) -> Redirection {
        Redirection {
            skip_inbound_ports: self.ports(&[
                annotation::SKIP_INBOUND_PORTS,
                name::ISTIO_EXCLUDE_INBOUND_PORTS,
            ]),
            include_inbound_ports: self
                .read(name::ISTIO_INCLUDE_INBOUND_PORTS, |value| {
                    all_or(value, port_list)
                })
                .flatten(),
            skip_outbound_ports: self.ports(&[
                annotation::SKIP_OUTBOUND_PORTS,
                name::ISTIO_EXCLUDE_OUTBOUND_PORTS,
            ]),
            skip_outbound_cidrs: self.cidrs(&[
                annotation::SKIP_OUTBOUND_CIDRS,
                name::ISTIO_EXCLUDE_OUTBOUND_CIDRS,
            ]),
            include_outbound_cidrs: self
                .read(name::ISTIO_INCLUDE_OUTBOUND_CIDRS, |value| {
                    all_or(value, cidr_list)
                })
                .flatten(),
            include_outbound_ports: self
                .read(name::ISTIO_INCLUDE_OUTBOUND_PORTS, |value| {
                    all_or(value, port_list)
                })
                .map(|ports| ports.unwrap_or_else(Ports::all))
                .unwrap_or_default(),
        }
    }

    fn quantity(
        &mut self,
        ours: &'static str,
        istio: &'static str,
        parse: fn(&str) -> Result<Quantity, QuantityError>,
    ) -> Option<Quantity> {
        let theirs = self.read(istio, parse);
        self.read(ours, parse).or(theirs)
    }

    fn resources(&mut self) -> Resources {
        use name::{
            CPU_LIMIT, CPU_REQUEST, ISTIO_CPU_LIMIT, ISTIO_CPU_REQUEST, ISTIO_MEMORY_LIMIT,
            ISTIO_MEMORY_REQUEST, MEMORY_LIMIT, MEMORY_REQUEST,
        };
        let resources = Resources {
            cpu_request: self.quantity(CPU_REQUEST, ISTIO_CPU_REQUEST, Quantity::cpu),
            cpu_limit: self.quantity(CPU_LIMIT, ISTIO_CPU_LIMIT, Quantity::cpu),
            memory_request: self.quantity(MEMORY_REQUEST, ISTIO_MEMORY_REQUEST, Quantity::memory),
            memory_limit: self.quantity(MEMORY_LIMIT, ISTIO_MEMORY_LIMIT, Quantity::memory),
        };
        let pairs = [
            (
                &resources.cpu_request,
                &resources.cpu_limit,
                CPU_REQUEST,
                ISTIO_CPU_REQUEST,
            ),
            (
                &resources.memory_request,
                &resources.memory_limit,
                MEMORY_REQUEST,
                ISTIO_MEMORY_REQUEST,
            ),
        ];
        for (request, limit, ours, istio) in pairs {
            let (Some(request), Some(limit)) = (request, limit) else {
                continue;
            };
            if request.exceeds(limit) {
                let given = self.pod.annotation(ours).is_some();
                self.mistakes.push(Mistake {
                    annotation: if given { ours } else { istio },
                    value: request.to_string(),
                    problem: format!("more than the limit, {limit}"),
                });
            }
        }
        resources
    }

    fn log(&mut self) -> Option<String> {
        let theirs = self.read(name::ISTIO_LOG_LEVEL, istio_log_level);
        self.read(annotation::PROXY_LOG, log_filter).or(theirs)
    }
}

fn too_long(length: usize) -> String {
    format!("{length} bytes, of {LONGEST} at most")
}

fn too_many(entries: usize) -> String {
    format!("{entries} entries, of {MOST_ENTRIES} at most")
}

/// Reads a log filter, `tracing`'s directives.
pub fn log_filter(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Err("empty; say for example info or info,linnet_proxy=debug".to_owned());
    }
    match logging::check(value) {
        Ok(()) => Ok(value.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn port_list(value: &str) -> Result<Ports, String> {
    match value.split(',').count() {
        entries if entries > MOST_ENTRIES => Err(too_many(entries)),
        _ => Ports::parse(value).map_err(|error| error.to_string()),
    }
}

/// Envoy's level names; its per-component settings mean nothing to another proxy.
fn istio_log_level(value: &str) -> Result<String, &'static str> {
    let level = match value.to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warning" | "warn" => "warn",
        "error" | "critical" => "error",
        "off" => "off",
        _ => return Err("use one of trace, debug, info, warning, error, critical, off"),
    };
    Ok(level.to_owned())
}

fn boolean(value: &str) -> Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("use \"true\" or \"false\""),
    }
}

/// `*` is all (`None`); anything else, the empty text too, is a list.
fn all_or<T, E>(value: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<Option<T>, E> {
    match value {
        "*" => Ok(None),
        list => parse(list).map(Some),
    }
}

fn cidr_list(value: &str) -> Result<Vec<IpNet>, String> {
    let count = value.split(',').count();
    if count > MOST_ENTRIES {
        return Err(too_many(count));
    }
    let entries = value.split(',').map(str::trim).filter(|e| !e.is_empty());
    entries
        .map(|entry| {
            let network = entry.parse::<IpNet>();
            let address = || entry.parse::<std::net::IpAddr>().map(IpNet::from);
            match network.or_else(|_| address()) {
                Ok(network) => Ok(network.trunc()),
                Err(_) => Err(format!(
                    "{entry:?} is not an address range such as 10.0.0.0/8 or 2001:db8::/32"
                )),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
