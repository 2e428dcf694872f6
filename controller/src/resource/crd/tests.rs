use super::*;
use std::path::PathBuf;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds")
}

#[test]
fn manifests_are_what_the_types_say() {
    for (file, crd) in definitions() {
        let made = manifest(&crd).unwrap();
        let kept = std::fs::read_to_string(directory().join(file)).unwrap_or_default();
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
