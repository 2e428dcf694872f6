use super::*;

fn parse(variables: &[(&str, &str)]) -> Result<Config, SettingsError> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Config::read(Settings::new(&variable))
}

#[test]
fn an_empty_environment_is_the_default_installation() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.injection, InjectionConfig::default());
    assert_eq!(config.native_sidecar, None);
    assert!(config.webhook_address.ip().is_unspecified());
    assert_eq!(config.webhook_address.port(), 9443);
    assert_eq!(config.health_address.to_string(), "[::]:15020");
    assert_eq!(config.names.dns_name, "linnet-injector.linnet-system.svc");
}

#[test]
fn another_namespace_moves_every_address() {
    let config = parse(&[(env::POD_NAMESPACE, "mesh")]).unwrap();
    assert_eq!(config.names.dns_name, "linnet-injector.mesh.svc");
    assert_eq!(config.injection.control_plane_namespace, "mesh");
    assert_eq!(
        config.injection.identity_url,
        "https://linnet-identity.mesh.svc:15443"
    );
    assert_eq!(
        config.injection.discovery_address,
        "linnet-controller.mesh.svc:15010"
    );
}

#[test]
fn what_is_set_is_taken() {
    let config = parse(&[
        (variable::PROXY_IMAGE, "registry.example.com/proxy:1"),
        (variable::IMAGE_PULL_POLICY, "Always"),
        (variable::NATIVE_SIDECAR, "false"),
        (variable::PROXY_CPU_REQUEST, ""),
        (variable::PROXY_MEMORY_LIMIT, "64Mi"),
        (variable::PROXY_LOG, "debug"),
        (variable::WEBHOOK_ADDRESS, "127.0.0.1:0"),
        (env::TRUST_DOMAIN, "example.org"),
        (env::IDENTITY_URL, "https://identity.example.com:443/"),
    ])
    .unwrap();
    let injection = config.injection;
    assert_eq!(injection.proxy_image, "registry.example.com/proxy:1");
    assert_eq!(injection.image_pull_policy, PullPolicy::Always);
    assert_eq!(config.native_sidecar, Some(false));
    assert_eq!(injection.resources.cpu_request, None);
    assert_eq!(injection.resources.memory_limit.unwrap().as_str(), "64Mi");
    assert_eq!(injection.proxy_log.as_deref(), Some("debug"));
    assert_eq!(injection.trust_domain.to_string(), "example.org");
    assert_eq!(injection.identity_url, "https://identity.example.com:443");
}

#[test]
fn all_mistakes_come_at_once() {
    let wrong = [
        (variable::IMAGE_PULL_POLICY, "Sometimes"),
        (variable::NATIVE_SIDECAR, "maybe"),
        (variable::PROXY_CPU_LIMIT, "lots"),
        (variable::PROXY_LOG, "proxy=loud"),
        (variable::WEBHOOK_ADDRESS, "9443"),
        (variable::HEALTH_ADDRESS, ":15020"),
        (env::TRUST_DOMAIN, "Not A Domain"),
        (env::IDENTITY_URL, "http://identity:15443"),
        (env::DISCOVERY_ADDRESS, "controller"),
        (variable::PROXY_MEMORY_LIMIT, "10Mi"),
    ];
    let SettingsError { mistakes } = parse(&wrong).unwrap_err();
    assert_eq!(mistakes.len(), wrong.len(), "{mistakes:#?}");
    // The default request is above that limit.
    assert!(
        mistakes
            .iter()
            .any(|m| m == "LINNET_PROXY_MEMORY_REQUEST: 20Mi is more than the limit, 10Mi")
    );
}
