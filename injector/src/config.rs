//! The injector's settings, from the environment, read once at start.

use linnet_runtime::settings::{Settings, SettingsError, host_and_port};
use std::{net::SocketAddr, str::FromStr};

use linnet_admission::Names;
use linnet_mesh::{
    TrustDomain,
    names::{self, env},
};

use crate::{
    injection::{InjectionConfig, PullPolicy},
    quantity::{Quantity, QuantityError},
    settings::log_filter,
};

/// Environment variables that only the injector reads.
pub mod variable {
    /// The sidecar's image.
    pub const PROXY_IMAGE: &str = "LINNET_PROXY_IMAGE";
    /// The redirecting init container's image.
    pub const INIT_IMAGE: &str = "LINNET_INIT_IMAGE";
    /// `Always`, `IfNotPresent` or `Never`.
    pub const IMAGE_PULL_POLICY: &str = "LINNET_IMAGE_PULL_POLICY";
    /// `auto`, `true` or `false`.
    pub const NATIVE_SIDECAR: &str = "LINNET_NATIVE_SIDECAR";
    /// The sidecar's default resources; empty for none.
    pub const PROXY_CPU_REQUEST: &str = "LINNET_PROXY_CPU_REQUEST";
    /// See [`PROXY_CPU_REQUEST`].
    pub const PROXY_CPU_LIMIT: &str = "LINNET_PROXY_CPU_LIMIT";
    /// See [`PROXY_CPU_REQUEST`].
    pub const PROXY_MEMORY_REQUEST: &str = "LINNET_PROXY_MEMORY_REQUEST";
    /// See [`PROXY_CPU_REQUEST`].
    pub const PROXY_MEMORY_LIMIT: &str = "LINNET_PROXY_MEMORY_LIMIT";
    /// The sidecar's default log filter.
    pub const PROXY_LOG: &str = "LINNET_PROXY_LOG";
    /// The namespace of the control plane; absent: the injector's own
    /// (`LINNET_POD_NAMESPACE`).
    pub const CONTROL_PLANE_NAMESPACE: &str = "LINNET_CONTROL_PLANE_NAMESPACE";
    /// Where the webhook listens.
    pub const WEBHOOK_ADDRESS: &str = "LINNET_WEBHOOK_ADDRESS";
    /// Where health and metrics listen.
    pub const HEALTH_ADDRESS: &str = "LINNET_HEALTH_ADDRESS";
    /// The Secret with the webhook's certificate.
    pub const TLS_SECRET: &str = "LINNET_TLS_SECRET";
    /// The MutatingWebhookConfiguration to keep.
    pub const WEBHOOK_CONFIGURATION: &str = "LINNET_WEBHOOK_CONFIGURATION";
    /// The Service that the API server calls.
    pub const SERVICE_NAME: &str = "LINNET_SERVICE_NAME";
}

/// The injector's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is injected. Its `native_sidecar` counts where `native_sidecar` says.
    pub injection: InjectionConfig,
    /// Native sidecars or not; absent: what the cluster supports.
    pub native_sidecar: Option<bool>,
    /// Where the webhook listens.
    pub webhook_address: SocketAddr,
    /// Where health and metrics listen.
    pub health_address: SocketAddr,
    /// The objects to keep.
    pub names: Names,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// All settings that cannot be used.
    pub fn read(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let mut reader = Reader(settings);
        let config = reader.config();
        reader.0.finish(Some(config))
    }
}

struct Reader<'a>(Settings<'a>);

impl Reader<'_> {
    fn config(&mut self) -> Config {
        let own_namespace = self
            .0
            .text_or(env::POD_NAMESPACE, names::CONTROL_PLANE_NAMESPACE);
        let namespace = self
            .0
            .text_or(variable::CONTROL_PLANE_NAMESPACE, &own_namespace);
        let service = self.0.text_or(variable::SERVICE_NAME, "linnet-injector");
        let injection = self.injection(&namespace);
        Config {
            injection,
            native_sidecar: self.native_sidecar(),
            webhook_address: self
                .0
                .address(variable::WEBHOOK_ADDRESS, names::port::WEBHOOK),
            health_address: self
                .0
                .address(variable::HEALTH_ADDRESS, names::port::METRICS),
            names: Names {
                secret: self.0.text_or(variable::TLS_SECRET, "linnet-injector-tls"),
                webhook_configuration: self
                    .0
                    .text_or(variable::WEBHOOK_CONFIGURATION, "linnet-injector"),
                dns_name: format!("{service}.{namespace}.svc"),
                namespace,
            },
        }
    }

    fn injection(&mut self, namespace: &str) -> InjectionConfig {
        let mut injection = InjectionConfig::in_namespace(namespace);
        injection.proxy_image = self
            .0
            .text_or(variable::PROXY_IMAGE, &injection.proxy_image);
        injection.init_image = self.0.text_or(variable::INIT_IMAGE, &injection.init_image);
        let policy = self.0.read(variable::IMAGE_PULL_POLICY, |text| {
            PullPolicy::parse(text).ok_or("use Always, IfNotPresent or Never")
        });
        injection.image_pull_policy = policy.unwrap_or_default();
        injection.trust_domain = self
            .0
            .read(env::TRUST_DOMAIN, TrustDomain::from_str)
            .unwrap_or_default();
        injection.identity_url = self
            .0
            .read(env::IDENTITY_URL, identity_url)
            .unwrap_or(injection.identity_url);
        injection.discovery_address = self
            .0
            .read(env::DISCOVERY_ADDRESS, host_and_port)
            .unwrap_or(injection.discovery_address);
        injection.proxy_log = self.0.read(variable::PROXY_LOG, log_filter);
        let resources = &mut injection.resources;
        self.amount(
            variable::PROXY_CPU_REQUEST,
            Quantity::cpu,
            &mut resources.cpu_request,
        );
        self.amount(
            variable::PROXY_CPU_LIMIT,
            Quantity::cpu,
            &mut resources.cpu_limit,
        );
        self.amount(
            variable::PROXY_MEMORY_REQUEST,
            Quantity::memory,
            &mut resources.memory_request,
        );
        self.amount(
            variable::PROXY_MEMORY_LIMIT,
            Quantity::memory,
            &mut resources.memory_limit,
        );
        let pairs = [
            (
                &resources.cpu_request,
                &resources.cpu_limit,
                variable::PROXY_CPU_REQUEST,
            ),
            (
                &resources.memory_request,
                &resources.memory_limit,
                variable::PROXY_MEMORY_REQUEST,
            ),
        ];
        for (request, limit, name) in pairs {
            if let (Some(request), Some(limit)) = (request, limit)
                && request.exceeds(limit)
            {
                let reason = format_args!("{request} is more than the limit, {limit}");
                self.0.mistake(name, reason);
            }
        }
        injection
    }

    /// Set and empty takes the default away.
    fn amount(
        &mut self,
        name: &str,
        parse: fn(&str) -> Result<Quantity, QuantityError>,
        amount: &mut Option<Quantity>,
    ) {
        if self.0.is_set(name) {
            *amount = self.0.read(name, parse);
        }
    }

    fn native_sidecar(&mut self) -> Option<bool> {
        let read = self.0.read(variable::NATIVE_SIDECAR, |text| match text {
            "auto" => Ok(None),
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err("use auto, true or false"),
        });
        read.flatten()
    }
}

fn identity_url(text: &str) -> Result<String, &'static str> {
    let problem = "must be https://host:port";
    let host = text.strip_prefix("https://").ok_or(problem)?;
    host_and_port(host.trim_end_matches('/')).map_err(|_| problem)?;
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests;
