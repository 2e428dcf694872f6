//! Services and endpoints from a file, for a sidecar that is run by hand without
//! a controller.

use linnet_mesh::{MtlsMode, SpiffeId, access_log::AccessLog};
use linnet_runtime::settings::host_and_port;
use serde::Deserialize;
use std::{net::SocketAddr, path::Path};

/// A file's content, YAML or JSON:
///
/// ```yaml
/// services:
///   payment.default.svc.cluster.local:80:
///     - address: 10.0.0.7:8080
///       identity: spiffe://cluster.local/ns/default/sa/payment
/// inboundMtls: STRICT
/// accessLog: all;sample=0.1
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StaticConfig {
    /// All services there are.
    pub services: Vec<StaticService>,
    /// How the workload is to be called; PERMISSIVE unless the file says more.
    pub inbound_mtls: MtlsMode,
    /// What is written of requests and connections.
    pub access_log: AccessLog,
}

/// A service with its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticService {
    /// `name:port`.
    pub host: String,
    /// Its endpoints.
    pub endpoints: Vec<StaticEndpoint>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticEndpoint {
    /// Where.
    pub address: SocketAddr,
    /// Who must answer by mutual TLS; `None`: plaintext.
    pub identity: Option<SpiffeId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    #[serde(default)]
    services: serde_json::Map<String, serde_json::Value>,
    inbound_mtls: Option<Mode>,
    access_log: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mode {
    Disable,
    Permissive,
    Strict,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    address: SocketAddr,
    identity: Option<String>,
}

impl StaticConfig {
    /// Reads a file; the error is all that is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, Vec<String>> {
        let text = std::fs::read_to_string(path).map_err(|error| vec![error.to_string()])?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let file: File = serde_norway::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        let mut services = Vec::new();
        for (host, endpoints) in file.services {
            match service(&host, endpoints) {
                Ok(service) => services.push(service),
                Err(problem) => problems.push(format!("services.{host}: {problem}")),
            }
        }
        let access_log = file
            .access_log
            .map_or(Ok(AccessLog::default()), |text| text.parse());
        let access_log = access_log.unwrap_or_else(|error| {
            problems.push(format!("accessLog: {error}"));
            AccessLog::default()
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let inbound_mtls = match file.inbound_mtls {
            Some(Mode::Disable) => MtlsMode::Disable,
            Some(Mode::Permissive) | None => MtlsMode::Permissive,
            Some(Mode::Strict) => MtlsMode::Strict,
        };
        Ok(Self {
            services,
            inbound_mtls,
            access_log,
        })
    }
}

fn service(host: &str, endpoints: serde_json::Value) -> Result<StaticService, String> {
    let endpoints: Vec<Endpoint> =
        serde_json::from_value(endpoints).map_err(|error| error.to_string())?;
    let endpoints = endpoints.into_iter().map(|endpoint| {
        let identity = endpoint.identity.map(|text| text.parse()).transpose();
        Ok(StaticEndpoint {
            address: endpoint.address,
            identity: identity
                .map_err(|error: linnet_mesh::spiffe::ParseError| error.to_string())?,
        })
    });
    Ok(StaticService {
        host: host_and_port(host)?,
        endpoints: endpoints.collect::<Result<_, String>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "
services:
  payment.default.svc.cluster.local:80:
    - address: 10.0.0.7:8080
      identity: spiffe://cluster.local/ns/default/sa/payment
    - address: 10.0.0.8:8080
inboundMtls: STRICT
";
        let json = r#"{"services": {"payment.default.svc.cluster.local:80": [
            {"address": "10.0.0.7:8080",
             "identity": "spiffe://cluster.local/ns/default/sa/payment"},
            {"address": "10.0.0.8:8080"}]}, "inboundMtls": "STRICT"}"#;
        let config = StaticConfig::parse(yaml).unwrap();
        assert_eq!(config, StaticConfig::parse(json).unwrap());
        assert_eq!(config.inbound_mtls, MtlsMode::Strict);
        let [service] = &config.services[..] else {
            panic!("{config:?}");
        };
        assert_eq!(service.host, "payment.default.svc.cluster.local:80");
        let accounts: Vec<_> = service
            .endpoints
            .iter()
            .map(|e| e.identity.as_ref().map(SpiffeId::service_account))
            .collect();
        assert_eq!(accounts, [Some("payment"), None]);
    }

    #[test]
    fn mistakes_name_the_service() {
        let problems = StaticConfig::parse(
            r#"{"services": {
                "payment": [],
                "a:80": [{"address": "localhost:80"}],
                "b:80": [{"address": "10.0.0.1:80", "identity": "payment"}],
                "c:80": [{"address": "10.0.0.1:80", "identify": "payment"}],
                "d:80": []}}"#,
        )
        .unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        for name in [
            "services.payment:",
            "services.a:80:",
            "services.b:80:",
            "services.c:80:",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(name)),
                "{name} in {problems:?}"
            );
        }
        for bad in [
            "inboundMtls: LOOSE",
            "accessLog: loud",
            "service: {}",
            "[]",
            "a: b: c",
        ] {
            assert!(StaticConfig::parse(bad).is_err(), "{bad}");
        }
    }
}
