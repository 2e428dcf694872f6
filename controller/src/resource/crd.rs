//! CustomResourceDefinitions made from the types: every version of a kind has
//! one schema, so there is nothing to convert.
//!
//! All objects of a spec keep fields that the schema does not name: what a
//! user wrote for another mesh applies unchanged, and the verdict says which
//! of it counts.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use linnet_mesh::names::label;
use std::collections::BTreeMap;

/// The definition as it stands in `manifests/crds/`.
///
/// # Errors
/// None that a definition made here can cause.
pub fn manifest(definition: &CustomResourceDefinition) -> Result<String, serde_norway::Error> {
    let yaml = serde_norway::to_string(definition)?;
    Ok(format!(
        "# Made from controller/src/resource/ by `cargo run -p linnet-controller --bin crds`.\n{yaml}"
    ))
}

/// One kind in all its versions; the first is the one that is stored.
pub(crate) fn in_versions(
    mut crd: CustomResourceDefinition,
    versions: &[&str],
) -> CustomResourceDefinition {
    crd.metadata.labels = Some(BTreeMap::from([(
        label::PART_OF.to_owned(),
        label::PART_OF_LINNET.to_owned(),
    )]));
    let Some(mut template) = crd.spec.versions.pop() else {
        return crd;
    };
    finish_schema(&mut template);
    crd.spec.versions = versions
        .iter()
        .enumerate()
        .map(|(position, name)| CustomResourceDefinitionVersion {
            name: (*name).to_owned(),
            served: true,
            storage: position == 0,
            ..template.clone()
        })
        .collect();
    crd
}

fn finish_schema(version: &mut CustomResourceDefinitionVersion) {
    let Some(root) = version
        .schema
        .as_mut()
        .and_then(|schema| schema.open_api_v3_schema.as_mut())
    else {
        return;
    };
    root.title = None;
    root.description = None;
    root.required = None;
    let properties = root.properties.get_or_insert_default();
    if let Some(spec) = properties.get_mut("spec") {
        keep_unknown_fields(spec);
    }
    // Controllers of other meshes write here; so does ours.
    properties.insert(
        "status".to_owned(),
        JSONSchemaProps {
            type_: Some("object".to_owned()),
            x_kubernetes_preserve_unknown_fields: Some(true),
            ..JSONSchemaProps::default()
        },
    );
    version.subresources = Some(CustomResourceSubresources {
        status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))),
        ..CustomResourceSubresources::default()
    });
}

/// Pruning starts again in every object that names its properties, so every
/// one of them has to say that it keeps the rest. Defaults are left out: the
/// API server would write them into users' resources.
fn keep_unknown_fields(schema: &mut JSONSchemaProps) {
    schema.default = None;
    if let Some(properties) = &mut schema.properties {
        schema.x_kubernetes_preserve_unknown_fields = Some(true);
        properties.values_mut().for_each(keep_unknown_fields);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        keep_unknown_fields(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        keep_unknown_fields(values);
    }
}
