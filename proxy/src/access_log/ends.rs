//! Who is on both ends of a line, rendered once for all lines of a connection or
//! endpoint.

use super::json;
use crate::telemetry::Parties;
use linnet_mesh::SpiffeId;
use std::cell::OnceCell;

/// The parties, and their text once a line has asked for it.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(super) parties: Parties,
    json: OnceCell<Json>,
}

/// Their fields of a JSON line, each with the comma before it.
#[derive(Debug)]
struct Json {
    caller: Box<[u8]>,
    callee: Box<[u8]>,
}

impl Ends {
    pub(crate) const fn new(parties: Parties) -> Self {
        Self {
            parties,
            json: OnceCell::new(),
        }
    }

    /// Whether nothing is to be known of the parties later that is not known now:
    /// a workload may be asked something before it has its own certificate.
    pub(crate) fn are_complete(&self) -> bool {
        !self.parties.secured || self.parties.source_principal.is_some()
    }

    /// The caller's fields.
    pub(super) fn caller(&self) -> &[u8] {
        &self.json().caller
    }

    /// The callee's fields, and the service's.
    pub(super) fn callee(&self) -> &[u8] {
        &self.json().callee
    }

    fn json(&self) -> &Json {
        self.json.get_or_init(|| {
            let Parties {
                source,
                destination,
                service,
                ..
            } = &self.parties;
            let caller_id = principal(self.parties.source_principal.as_ref());
            let callee_id = principal(self.parties.destination_principal.as_ref());
            let hostname = service.as_ref().map_or("", |service| &service.hostname);
            let mut caller = Vec::new();
            json::text(&mut caller, r#","source_principal":"#, caller_id);
            json::text(&mut caller, r#","source_workload":"#, &source.name);
            json::text(&mut caller, r#","source_namespace":"#, &source.namespace);
            let mut callee = Vec::new();
            let to = &mut callee;
            json::text(to, r#","destination_principal":"#, callee_id);
            json::text(to, r#","destination_workload":"#, &destination.name);
            json::text(to, r#","destination_namespace":"#, &destination.namespace);
            json::text(to, r#","destination_service":"#, hostname);
            Json {
                caller: caller.into(),
                callee: callee.into(),
            }
        })
    }
}

pub(super) fn principal(id: Option<&SpiffeId>) -> &str {
    id.map_or("", SpiffeId::as_str)
}
