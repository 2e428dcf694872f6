//! AuthorizationPolicies on the wire: values go as text, in the form that the
//! resource writes them, and are checked like the resource's own.

use crate::{
    DecodeError,
    decode::{Result, all, required},
    proto,
};
use linnet_mesh::authorization::{
    Action, Condition, Demand, Match, Operation, PathNormalization, Pattern, Policies, Policy,
    Rule, ServiceAccount, Source,
    pattern::{Invalid, block, port},
};
use std::{fmt::Display, sync::Arc};

pub(super) fn decode(
    messages: Vec<proto::AuthorizationPolicy>,
    normalization: i32,
) -> Result<Option<Arc<Policies>>> {
    let policies: Vec<Policy> = all(messages)?;
    let normalization = decode_normalization(normalization)?;
    let policies = Policies::new(policies).with_normalization(normalization);
    Ok((!policies.is_empty()).then(|| Arc::new(policies)))
}

fn decode_normalization(number: i32) -> Result<PathNormalization> {
    use proto::PathNormalization as Wire;
    Wire::try_from(number)
        .map(|wire| match wire {
            Wire::Default => PathNormalization::All,
            Wire::None => PathNormalization::None,
            Wire::Base => PathNormalization::Base,
            Wire::MergeSlashes => PathNormalization::MergeSlashes,
            Wire::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
        })
        .map_err(|_| DecodeError {
            field: "inbound.path_normalization",
            reason: format!("{number} is not a path normalization"),
        })
}

impl From<PathNormalization> for proto::PathNormalization {
    fn from(normalization: PathNormalization) -> Self {
        match normalization {
            PathNormalization::All => Self::Default,
            PathNormalization::None => Self::None,
            PathNormalization::Base => Self::Base,
            PathNormalization::MergeSlashes => Self::MergeSlashes,
            PathNormalization::DecodeAndMergeSlashes => Self::DecodeAndMergeSlashes,
        }
    }
}

fn read<T>(
    field: &'static str,
    message: Option<proto::AuthorizationValues>,
    parse: impl Fn(&str) -> std::result::Result<T, Invalid>,
) -> Result<Match<T>> {
    let list = |texts: Vec<String>| {
        texts
            .iter()
            .map(|text| {
                parse(text).map_err(|error| DecodeError {
                    field,
                    reason: error.to_string(),
                })
            })
            .collect::<Result<Vec<T>>>()
    };
    let message = message.unwrap_or_default();
    Ok(Match {
        any: list(message.any)?,
        none: list(message.none)?,
    })
}

impl TryFrom<proto::AuthorizationPolicy> for Policy {
    type Error = DecodeError;

    fn try_from(message: proto::AuthorizationPolicy) -> Result<Self> {
        use proto::AuthorizationAction as Wire;
        let action = match Wire::try_from(message.action) {
            Ok(Wire::Custom) => Action::Custom,
            Ok(Wire::Deny) => Action::Deny,
            Ok(Wire::Allow) => Action::Allow,
            Ok(Wire::Audit) => Action::Audit,
            Ok(Wire::Unspecified) | Err(_) => {
                return Err(DecodeError {
                    field: "authorization.action",
                    reason: format!("{} is not an action", message.action),
                });
            }
        };
        Ok(Self {
            source: required("authorization.source", message.source)?.into(),
            action,
            dry_run: message.dry_run,
            rules: all(message.rules)?,
        })
    }
}

impl TryFrom<proto::AuthorizationRule> for Rule {
    type Error = DecodeError;

    fn try_from(message: proto::AuthorizationRule) -> Result<Self> {
        Ok(Self {
            from: all(message.from)?,
            to: all(message.to)?,
            when: all(message.when)?,
            void: message.void,
        })
    }
}

impl TryFrom<proto::AuthorizationSource> for Source {
    type Error = DecodeError;

    fn try_from(message: proto::AuthorizationSource) -> Result<Self> {
        Ok(Self {
            principals: read(
                "authorization.rules.from.principals",
                message.principals,
                Pattern::principal,
            )?,
            namespaces: read(
                "authorization.rules.from.namespaces",
                message.namespaces,
                str::parse,
            )?,
            service_accounts: read(
                "authorization.rules.from.serviceAccounts",
                message.service_accounts,
                |text| ServiceAccount::parse(text, ""),
            )?,
            ip_blocks: read(
                "authorization.rules.from.ipBlocks",
                message.ip_blocks,
                block,
            )?,
            remote_ip_blocks: read(
                "authorization.rules.from.remoteIpBlocks",
                message.remote_ip_blocks,
                block,
            )?,
            request_principals: read(
                "authorization.rules.from.requestPrincipals",
                message.request_principals,
                str::parse,
            )?,
        })
    }
}

impl TryFrom<proto::AuthorizationOperation> for Operation {
    type Error = DecodeError;

    fn try_from(message: proto::AuthorizationOperation) -> Result<Self> {
        Ok(Self {
            hosts: read("authorization.rules.to.hosts", message.hosts, str::parse)?,
            ports: read("authorization.rules.to.ports", message.ports, port)?,
            methods: read(
                "authorization.rules.to.methods",
                message.methods,
                str::parse,
            )?,
            paths: read("authorization.rules.to.paths", message.paths, str::parse)?,
        })
    }
}

impl TryFrom<proto::AuthorizationCondition> for Condition {
    type Error = DecodeError;

    fn try_from(message: proto::AuthorizationCondition) -> Result<Self> {
        let values = message.values.unwrap_or_default();
        Self::new(&message.key, &values.any, &values.none, "").map_err(|error| DecodeError {
            field: "authorization.rules.when",
            reason: format!("{}: {error}", message.key),
        })
    }
}

impl From<Action> for proto::AuthorizationAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Custom => Self::Custom,
            Action::Deny => Self::Deny,
            Action::Allow => Self::Allow,
            Action::Audit => Self::Audit,
        }
    }
}

fn write<T: Display>(values: &Match<T>) -> Option<proto::AuthorizationValues> {
    let list = |values: &[T]| values.iter().map(ToString::to_string).collect();
    (!values.is_empty()).then(|| proto::AuthorizationValues {
        any: list(&values.any),
        none: list(&values.none),
    })
}

impl From<&Policy> for proto::AuthorizationPolicy {
    fn from(policy: &Policy) -> Self {
        Self {
            source: Some((&policy.source).into()),
            action: proto::AuthorizationAction::from(policy.action).into(),
            dry_run: policy.dry_run,
            rules: policy.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Rule> for proto::AuthorizationRule {
    fn from(rule: &Rule) -> Self {
        Self {
            from: rule.from.iter().map(Into::into).collect(),
            to: rule.to.iter().map(Into::into).collect(),
            when: rule.when.iter().map(Into::into).collect(),
            void: rule.void,
        }
    }
}

impl From<&Source> for proto::AuthorizationSource {
    fn from(source: &Source) -> Self {
        Self {
            principals: write(&source.principals),
            namespaces: write(&source.namespaces),
            service_accounts: write(&source.service_accounts),
            ip_blocks: write(&source.ip_blocks),
            remote_ip_blocks: write(&source.remote_ip_blocks),
            request_principals: write(&source.request_principals),
        }
    }
}

impl From<&Operation> for proto::AuthorizationOperation {
    fn from(operation: &Operation) -> Self {
        Self {
            hosts: write(&operation.hosts),
            ports: write(&operation.ports),
            methods: write(&operation.methods),
            paths: write(&operation.paths),
        }
    }
}

impl From<&Condition> for proto::AuthorizationCondition {
    fn from(condition: &Condition) -> Self {
        let values = match &condition.demand {
            Demand::Header(_, demand)
            | Demand::Namespace(demand)
            | Demand::Principal(demand)
            | Demand::RequestPrincipal(demand)
            | Demand::Audiences(demand)
            | Demand::Presenter(demand)
            | Demand::ServerName(demand)
            | Demand::Claim(_, demand) => write(demand),
            Demand::SourceIp(demand) | Demand::RemoteIp(demand) | Demand::DestinationIp(demand) => {
                write(demand)
            }
            Demand::ServiceAccount(demand) => write(demand),
            Demand::DestinationPort(demand) => write(demand),
            Demand::Unknown(demand) => write(demand),
        };
        Self {
            key: condition.key.clone(),
            values,
        }
    }
}

#[cfg(test)]
mod tests;
