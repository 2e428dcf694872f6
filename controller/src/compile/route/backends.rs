//! Where a rule's requests go.
//!
//! A service in another namespace needs no ReferenceGrant: a mesh's route adds
//! to what the caller could reach anyhow (GEP-1426).

use super::{Compiler, OF_BACKEND, OF_RULE};
use crate::{
    compile::{Note, Surroundings},
    object::Name,
    resource::gateway::BackendReference,
};
use http::StatusCode;
use linnet_mesh::{
    ServicePort,
    route::{Backend, Filters, HeaderFilters, Unresolved},
};

/// A backend or mirror.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reference {
    /// Its field's path, for verdicts.
    path: String,
    target: Target,
    pub(super) weight: u32,
    headers: HeaderFilters,
    /// Why it can't be used as it is written.
    broken: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Target {
    Service(Name, Option<u16>),
    /// Something else.
    Other(String),
}

/// Why a reference leads nowhere: the API's reason, and words.
pub(super) struct Dangling {
    pub(super) reason: &'static str,
    pub(super) text: String,
}

const INVALID_KIND: &str = "InvalidKind";
const BACKEND_NOT_FOUND: &str = "BackendNotFound";

impl Compiler<'_> {
    pub(super) fn backends(
        &mut self,
        path: &str,
        references: &[BackendReference],
    ) -> Vec<Reference> {
        references
            .iter()
            .enumerate()
            .map(|(position, reference)| {
                let path = format!("{path}.backendRefs[{position}]");
                self.backend(&path, reference)
            })
            .collect()
    }

    /// A backend; what of its filters can't be honoured makes it answer 500,
    /// not the other backends.
    fn backend(&mut self, path: &str, reference: &BackendReference) -> Reference {
        let of_rule = self.broken.take();
        self.stricken = OF_BACKEND;
        let weight = reference.weight.unwrap_or(1);
        let weight = u32::try_from(weight).unwrap_or_else(|_| {
            self.fail(
                format!("{path}.weight"),
                &format!("{weight} is out of range"),
            );
            0
        });
        let filters = self.filters(path, &reference.filters);
        let Filters {
            answer,
            rewrite,
            cors,
            ..
        } = &filters.filters;
        let misplaced =
            answer.is_some() || rewrite.is_some() || cors.is_some() || !filters.mirrors.is_empty();
        if misplaced {
            let text = "only header modifiers are honoured for one backend";
            self.fail(format!("{path}.filters"), text);
        }
        self.stricken = OF_RULE;
        let broken = std::mem::replace(&mut self.broken, of_rule);
        Reference {
            broken,
            weight,
            headers: filters.filters.headers,
            ..self.reference(path, reference)
        }
    }

    /// A reference, whatever stands around it.
    pub(super) fn reference(&mut self, path: &str, reference: &BackendReference) -> Reference {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let target = if (group, kind) == ("", "Service") {
            let namespace = reference.namespace.as_deref().unwrap_or(self.namespace);
            let port = reference.port;
            let port = port.and_then(|port| self.port(&format!("{path}.port"), port));
            Target::Service(Name::new(namespace, reference.name.as_str()), port)
        } else {
            Target::Other(format!("a {kind} can't take requests; name a Service"))
        };
        Reference {
            path: path.to_owned(),
            target,
            weight: 1,
            headers: HeaderFilters::default(),
            broken: None,
        }
    }
}

/// A backend that stands for an answer.
pub(super) fn unresolved(of: &ServicePort, reason: String) -> Backend {
    Backend {
        service: of.clone(),
        subset: None,
        weight: 1,
        unresolved: Some(Unresolved {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason,
        }),
        headers: HeaderFilters::default(),
    }
}

impl Reference {
    pub(super) fn service(&self) -> Option<&Name> {
        match &self.target {
            Target::Service(name, _) => Some(name),
            Target::Other(_) => None,
        }
    }

    /// The backend of a rule for the service port `of`.
    pub(super) fn backend(&self, of: &ServicePort, surroundings: &impl Surroundings) -> Backend {
        let found = match &self.broken {
            Some(broken) => Err(broken.clone()),
            None => self.resolve(surroundings).map_err(|dangling| dangling.text),
        };
        match found {
            Ok(service) => Backend {
                service,
                subset: None,
                weight: self.weight,
                unresolved: None,
                headers: self.headers.clone(),
            },
            Err(reason) => Backend {
                weight: self.weight,
                ..unresolved(of, reason)
            },
        }
    }

    /// The service port, or why there is none.
    pub(super) fn resolve(
        &self,
        surroundings: &impl Surroundings,
    ) -> Result<ServicePort, Dangling> {
        let not_found = |text: String| Dangling {
            reason: BACKEND_NOT_FOUND,
            text,
        };
        let (name, port) = match &self.target {
            Target::Service(name, port) => (name, *port),
            Target::Other(text) => {
                return Err(Dangling {
                    reason: INVALID_KIND,
                    text: text.clone(),
                });
            }
        };
        let ports = surroundings
            .ports(name)
            .ok_or_else(|| not_found(format!("Service {name} does not exist")))?;
        let port = port.ok_or_else(|| not_found(format!("needs a port of Service {name}")))?;
        if !ports.contains(&port) {
            return Err(not_found(format!("Service {name} has no port {port}")));
        }
        Ok(ServicePort {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            port,
        })
    }

    /// The remark on a reference that leads nowhere.
    pub(super) fn remark(&self, dangling: &Dangling, effect: &str) -> Note {
        Note::new(&self.path, format!("{}; {effect}", dangling.text)).error()
    }
}
