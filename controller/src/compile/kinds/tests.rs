use super::*;
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration, rbac::v1::ClusterRole,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::BTreeSet, fs, path::PathBuf};

fn manifests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// The first document of a file in `manifests/base/` that is of this kind.
fn of_base<T: DeserializeOwned>(file: &str, kind: &str) -> T {
    let text = fs::read_to_string(manifests().join("base").join(file)).unwrap();
    let mut documents = serde_norway::Deserializer::from_str(&text)
        .map(|document| serde_json::Value::deserialize(document).unwrap());
    let found = documents.find(|document| document["kind"] == kind).unwrap();
    serde_json::from_value(found).unwrap()
}

/// Every configuration kind by group and plural, with something appended to the latter.
fn all(suffix: &str) -> BTreeSet<(String, String)> {
    let all = KINDS.iter();
    all.map(|kind| (kind.group.to_owned(), format!("{}{suffix}", kind.plural)))
        .collect()
}

/// Which resources of these groups rules with this verb are about.
fn ruled(role: &ClusterRole, verb: &str) -> BTreeSet<(String, String)> {
    let groups: BTreeSet<_> = KINDS.iter().map(|kind| kind.group).collect();
    let rules = role.rules.iter().flatten();
    let rules = rules.filter(|rule| rule.verbs.iter().any(|of| of == verb));
    rules
        .flat_map(|rule| {
            let groups = rule.api_groups.iter().flatten();
            groups.flat_map(|group| {
                let resources = rule.resources.iter().flatten();
                resources.map(move |resource| (group.clone(), resource.clone()))
            })
        })
        .filter(|(group, _)| groups.contains(&**group))
        .collect()
}

#[test]
fn the_controllers_role_allows_what_the_table_needs() {
    let role: ClusterRole = of_base("controller.yaml", "ClusterRole");
    for verb in ["get", "list", "watch"] {
        assert_eq!(ruled(&role, verb), all(""), "{verb}");
    }
    assert_eq!(ruled(&role, "patch"), all("/status"));
}

#[test]
fn the_webhook_is_asked_about_every_kind() {
    let file = "validation.yaml";
    let webhooks: ValidatingWebhookConfiguration = of_base(file, "ValidatingWebhookConfiguration");
    let webhooks = webhooks.webhooks.unwrap();
    let rules = webhooks
        .iter()
        .flat_map(|webhook| webhook.rules.iter().flatten());
    let mut asked = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for plural in rule.resources.iter().flatten() {
                let kind = KINDS
                    .iter()
                    .find(|kind| (kind.group, kind.plural) == (group, plural))
                    .unwrap_or_else(|| panic!("{file}: {group}/{plural} is no kind of ours"));
                let scope = match kind.scope {
                    ResourceScope::Namespaced => "Namespaced",
                    ResourceScope::Cluster => "Cluster",
                };
                assert_eq!(rule.scope.as_deref(), Some(scope), "{group}/{plural}");
                asked.insert((group.clone(), plural.clone()));
            }
        }
    }
    assert_eq!(asked, all(""));
}

#[test]
fn no_two_kinds_share_a_name() {
    assert_eq!(all("").len(), KINDS.len());
    for kind in &KINDS {
        assert!(std::ptr::eq(
            ConfigurationKind::of(kind.kind).unwrap(),
            kind
        ));
        let named = ConfigurationKind::named(kind.group, kind.kind.as_str());
        assert!(std::ptr::eq(named.unwrap(), kind));
        if let Some(definition) = kind.definition {
            let spec = definition().spec;
            let own = (
                spec.group.as_str(),
                spec.names.plural.as_str(),
                &*spec.scope,
            );
            let scope = format!("{:?}", kind.scope);
            assert_eq!(own, (kind.group, kind.plural, &*scope));
            assert_eq!(spec.names.kind, kind.kind.as_str());
        }
    }
}

#[test]
fn manifests_are_what_the_types_say() {
    for (file, crd) in definitions() {
        let made = resource::manifest(&crd).unwrap();
        let kept =
            std::fs::read_to_string(manifests().join("crds").join(&file)).unwrap_or_default();
        assert_eq!(
            made, kept,
            "{file} differs: run `cargo run -p linnet-controller --bin crds`"
        );
    }
}

/// What the API server demands of a structural schema, as far as ours could break it.
fn assert_structural(schema: &JSONSchemaProps, path: &str) {
    assert!(schema.type_.is_some(), "{path} has no type");
    assert!(
        schema.any_of.is_none() && schema.one_of.is_none() && schema.all_of.is_none(),
        "{path} has alternatives"
    );
    assert!(schema.default.is_none(), "{path} has a default");
    let object = schema.type_.as_deref() == Some("object");
    if schema.properties.is_some() {
        assert!(object && schema.additional_properties.is_none(), "{path}");
        assert_eq!(
            schema.x_kubernetes_preserve_unknown_fields,
            Some(true),
            "{path}"
        );
    }
    for (name, property) in schema.properties.iter().flatten() {
        assert_structural(property, &format!("{path}.{name}"));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        assert_structural(items, &format!("{path}[]"));
    }
}

#[test]
fn schemas_are_structural_and_keep_unknown_fields() {
    for (_, crd) in definitions() {
        let stored = crd.spec.versions.iter().filter(|v| v.storage).count();
        assert_eq!(stored, 1);
        for version in &crd.spec.versions {
            assert!(version.served);
            let schema = version
                .schema
                .as_ref()
                .unwrap()
                .open_api_v3_schema
                .as_ref()
                .unwrap();
            let spec = &schema.properties.as_ref().unwrap()["spec"];
            assert_structural(
                spec,
                &format!("{} {}: spec", crd.spec.names.kind, version.name),
            );
        }
    }
}
