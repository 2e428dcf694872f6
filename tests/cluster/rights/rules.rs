//! What the control plane may ask of the API server, from its manifests.

use crate::audit::Call;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::fmt;

/// One verb on one resource, of one name or of any.
#[derive(Debug)]
pub(crate) struct Right {
    /// The ServiceAccount that has it: components' roles bear its name.
    pub(crate) account: String,
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    /// `None`: cluster-wide.
    namespace: Option<String>,
    name: Option<String>,
}

impl Right {
    /// Whether a call made use of it.
    pub(crate) fn covers(&self, call: &Call) -> bool {
        // Who applies what is not there yet needs both rights for one call.
        let applied = self.verb == "create" && call.verb == "patch" && call.status == 201;
        // A list or watch of one object carries its name in a field selector,
        // which the audit log does not show.
        let named = matches!(&*self.verb, "list" | "watch") && call.name.is_empty();
        self.account == call.account
            && (self.verb == call.verb || applied)
            && self.group == call.group
            && self.resource == call.resource
            && self
                .namespace
                .as_ref()
                .is_none_or(|is| *is == call.namespace)
            && self
                .name
                .as_ref()
                .is_none_or(|is| named || *is == call.name)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}.{}",
            self.account, self.verb, self.resource, self.group
        )?;
        self.namespace
            .iter()
            .try_for_each(|namespace| write!(f, " in {namespace}"))?;
        self.name
            .iter()
            .try_for_each(|name| write!(f, " named {name}"))
    }
}

/// Every right that the default profile grants.
pub(crate) fn granted() -> Vec<Right> {
    // What kubectl renders of the profile; the CLI's tests hold both together.
    let manifests = include_str!("../../../cli/golden/default.yaml");
    let mut rights = Vec::new();
    for document in serde_norway::Deserializer::from_str(manifests) {
        let object = Value::deserialize(document).unwrap();
        let (metadata, rules) = match object["kind"].as_str() {
            Some("ClusterRole") => {
                let role: ClusterRole = typed(object);
                assert!(role.aggregation_rule.is_none());
                (role.metadata, role.rules)
            }
            Some("Role") => {
                let role: Role = typed(object);
                (role.metadata, role.rules)
            }
            _ => continue,
        };
        let account = metadata.name.unwrap();
        for rule in rules.into_iter().flatten() {
            expand(&account, metadata.namespace.as_deref(), &rule, &mut rights);
        }
    }
    rights
}

fn typed<T: DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn expand(account: &str, namespace: Option<&str>, rule: &PolicyRule, rights: &mut Vec<Right>) {
    assert!(rule.non_resource_urls.is_none(), "{account}: {rule:?}");
    let names: Vec<Option<String>> = match &rule.resource_names {
        Some(names) => names.iter().cloned().map(Some).collect(),
        None => vec![None],
    };
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                assert!(
                    [group, resource, verb].iter().all(|word| *word != "*"),
                    "{account}: {rule:?}"
                );
                rights.extend(names.iter().map(|name| Right {
                    account: account.to_owned(),
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.clone(),
                    namespace: namespace.map(str::to_owned),
                    name: name.clone(),
                }));
            }
        }
    }
}
