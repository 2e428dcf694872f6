//! PeerAuthentication: modes of mutual TLS for a mesh, a namespace or some
//! workloads of it.

use super::{Note, spec};
use crate::{
    object::Configuration,
    resource::{MutualTls, PeerAuthenticationSpec},
};
use linnet_mesh::{MtlsMode, ResourceRef};
use std::{collections::BTreeMap, sync::Arc};

/// Modes of mutual TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// The resource.
    pub source: ResourceRef,
    /// Its namespace; empty for the mesh.
    pub namespace: Arc<str>,
    /// When it was made; the oldest wins.
    pub created: i64,
    /// The labels of the workloads meant; `None`: all.
    pub selector: Option<BTreeMap<String, String>>,
    /// The mode; `None`: inherit.
    pub mode: Option<MtlsMode>,
    /// Modes of single ports.
    pub ports: BTreeMap<u16, MtlsMode>,
}

pub(super) fn compile(
    configuration: &Configuration,
    notes: &mut Vec<Note>,
) -> Result<PeerAuthentication, Vec<Note>> {
    let (spec, unknown) = spec::read::<PeerAuthenticationSpec>(&configuration.spec)?;
    let mut errors = Vec::new();
    let mut checked = |field: String, mtls: &MutualTls| match mode(field, mtls) {
        Ok(mode) => mode,
        Err(error) => {
            errors.push(error);
            None
        }
    };
    let mode = spec
        .mtls
        .as_ref()
        .and_then(|mtls| checked("spec.mtls.mode".to_owned(), mtls));
    let selector = spec
        .selector
        .map(|selector| selector.match_labels)
        .filter(|labels| !labels.is_empty());
    let mut ports = BTreeMap::new();
    let mut bad_ports = Vec::new();
    for (port, mtls) in &spec.port_level_mtls {
        let field = format!("spec.portLevelMtls.{port}");
        match port.parse::<u16>() {
            Ok(number) if number != 0 => {
                let mode = checked(format!("{field}.mode"), mtls);
                ports.extend(mode.map(|mode| (number, mode)));
            }
            _ => bad_ports.push(Note::new(field, "is not a port; ports go from 1 to 65535")),
        }
    }
    errors.extend(bad_ports);
    if selector.is_none() && !spec.port_level_mtls.is_empty() {
        // The rest still counts: dropping a STRICT over this would open what
        // the author meant to close.
        notes.push(Note::new(
            "spec.portLevelMtls",
            "has no effect without spec.selector; select the workload whose ports are meant",
        ));
        ports.clear();
    }
    notes.extend(unknown.into_iter().map(Note::not_honoured));
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(PeerAuthentication {
        source: ResourceRef::from(&configuration.reference()),
        namespace: configuration.name.namespace.clone(),
        created: configuration.created,
        selector,
        mode,
        ports,
    })
}

/// Reads a mode; `None`: inherit.
pub(super) fn mode(field: String, mtls: &MutualTls) -> Result<Option<MtlsMode>, Note> {
    match mtls.mode.as_deref() {
        None | Some("UNSET") => Ok(None),
        Some("DISABLE") => Ok(Some(MtlsMode::Disable)),
        Some("PERMISSIVE") => Ok(Some(MtlsMode::Permissive)),
        Some("STRICT") => Ok(Some(MtlsMode::Strict)),
        Some(other) => Err(Note::new(
            field,
            format!("{other:?} is not a mode; use STRICT, PERMISSIVE, DISABLE or UNSET"),
        )),
    }
}
