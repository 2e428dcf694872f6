//! Services for an input without any: guides and Git repositories often hold
//! routes alone, and a service that stands elsewhere is no mistake of theirs.

use super::{Input, path};
use crate::{
    compile::{Context, Host},
    manifest,
    object::{Kind, Name, Object},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What every stand-in has, besides the ports that are spoken of.
const PORT: u64 = 80;

/// A Service for each one that the input's resources speak of.
pub(super) fn services(input: &Input, context: &Context) -> Vec<Object> {
    let mut found = Found {
        services: BTreeMap::new(),
        context,
        namespace: "",
    };
    for object in input.objects() {
        if let Object::Configuration(configuration) = object {
            found.namespace = &configuration.name.namespace;
            for host in path::items(&configuration.spec, "hosts") {
                // A Gateway API route's hosts are names of the web.
                if configuration.kind == Kind::VirtualService {
                    found.host(host.as_str().unwrap_or_default(), None);
                }
            }
            found.look(&configuration.spec);
        }
    }
    let manifests = found.services.into_iter().map(|(name, ports)| {
        let ports: Vec<_> = ports
            .into_iter()
            .map(|port| json!({"name": format!("p{port}"), "port": port}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": &*name.name, "namespace": &*name.namespace},
            "spec": {"ports": ports},
        })
    });
    manifests
        .filter_map(|manifest| manifest::parse(manifest, None).ok().flatten())
        .collect()
}

struct Found<'a> {
    services: BTreeMap<Name, BTreeSet<u64>>,
    context: &'a Context,
    namespace: &'a str,
}

impl Found<'_> {
    fn host(&mut self, host: &str, port: Option<u64>) {
        if let Host::Service(name) = Host::parse(host, self.namespace, self.context) {
            self.service(name, port);
        }
    }

    fn service(&mut self, name: Name, port: Option<u64>) {
        let ports = self.services.entry(name).or_default();
        ports.insert(PORT);
        ports.extend(port);
    }

    /// Destinations (`host`, `port.number`) and references (`name`, `port`),
    /// wherever they stand.
    fn look(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.look(item)),
            Value::Object(fields) => {
                if let Some(host) = fields.get("host").and_then(Value::as_str) {
                    let port = value.pointer("/port/number").and_then(Value::as_u64);
                    self.host(host, port);
                }
                for (name, field) in fields {
                    let many = field.as_array().map_or(&[][..], Vec::as_slice);
                    match name.as_str() {
                        "backendRefs" => many.iter().for_each(|item| self.reference(item, true)),
                        "parentRefs" | "targetRefs" => {
                            many.iter().for_each(|item| self.reference(item, false));
                        }
                        "backendRef" => self.reference(field, true),
                        _ => {}
                    }
                    self.look(field);
                }
            }
            _ => {}
        }
    }

    fn reference(&mut self, reference: &Value, service_by_default: bool) {
        let is_service = match path::text(reference, "kind") {
            "" => service_by_default,
            kind => kind == "Service",
        };
        let name = path::text(reference, "name");
        if !is_service || name.is_empty() {
            return;
        }
        let namespace = match path::text(reference, "namespace") {
            "" => self.namespace,
            namespace => namespace,
        };
        let port = reference.get("port").and_then(Value::as_u64);
        self.service(Name::new(namespace, name), port);
    }
}
