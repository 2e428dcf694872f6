use super::*;

fn namespace(name: &str) -> PartialObjectMeta<Namespace> {
    PartialObjectMeta {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..PartialObjectMeta::default()
    }
}

fn config_map(namespace: &str, bundle: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST_BUNDLE_CONFIG_MAP.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            TRUST_BUNDLE_KEY.to_owned(),
            bundle.to_owned(),
        )])),
        ..ConfigMap::default()
    }
}

fn view() -> View {
    let mut view = View::default();
    let namespaces = ["default", "shop", "kube-system", "linnet-system"];
    view.take(Observation::Namespaces(Event::Init));
    for name in namespaces {
        view.take(Observation::Namespaces(Event::InitApply(namespace(name))));
    }
    view.take(Observation::Namespaces(Event::InitDone));
    view.take(Observation::ConfigMaps(Event::Init));
    view.take(Observation::ConfigMaps(Event::InitApply(config_map(
        "shop", "root",
    ))));
    view
}

#[test]
fn nothing_is_wanting_before_both_lists_are_whole() {
    let mut view = view();
    assert!(view.wanting("root").is_empty());
    view.take(Observation::ConfigMaps(Event::InitDone));
    assert_eq!(view.wanting("root"), ["default"]);
}

#[test]
fn a_changed_or_deleted_bundle_is_wanting_again() {
    let mut view = view();
    view.take(Observation::ConfigMaps(Event::InitDone));
    view.take(Observation::ConfigMaps(Event::Apply(config_map(
        "shop", "other",
    ))));
    assert_eq!(view.wanting("root"), ["default", "shop"]);
    view.take(Observation::ConfigMaps(Event::Apply(config_map(
        "shop", "root",
    ))));
    view.take(Observation::ConfigMaps(Event::Delete(config_map(
        "shop", "root",
    ))));
    assert_eq!(view.wanting("root"), ["default", "shop"]);
    assert_eq!(view.wanting("new root"), ["default", "shop"]);
}

#[test]
fn a_namespace_on_its_way_out_is_left_alone() {
    let mut view = view();
    view.take(Observation::ConfigMaps(Event::InitDone));
    let mut leaving = namespace("default");
    leaving.metadata.deletion_timestamp =
        Some(serde_json::from_value(serde_json::json!("2026-01-01T00:00:00Z")).unwrap());
    view.take(Observation::Namespaces(Event::Apply(leaving)));
    assert!(view.wanting("root").is_empty());
}

#[test]
fn identitys_bundle_is_copied_whatever_ones_own_certificate_came_with() {
    use linnet_workload::testing::Authority;
    let (old, new) = (
        Authority::default().bundle_pem(),
        Authority::default().bundle_pem(),
    );
    let stranger = Authority::default().bundle_pem();
    let mut view = view();
    assert!(
        view.source(&old)
            .unwrap_err()
            .contains("not written it yet")
    );
    let both = format!("{old}{new}");
    let written = |bundle: &str| {
        Observation::ConfigMaps(Event::Apply(config_map(CONTROL_PLANE_NAMESPACE, bundle)))
    };
    view.take(written(&both));
    // Two replicas, one renewed since the rotation began and one not.
    assert_eq!(view.source(&old).unwrap(), both);
    assert_eq!(view.source(&both).unwrap(), both);
    view.take(written(&new));
    assert_eq!(view.source(&both).unwrap(), new);
    for wrong in [stranger.as_str(), "", "nonsense"] {
        view.take(written(wrong));
        assert!(view.source(&both).is_err(), "{wrong}");
    }
}
