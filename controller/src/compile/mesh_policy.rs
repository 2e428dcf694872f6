//! MeshPolicy: the mesh-wide mode in its oldest spelling, where `mtls: {}`
//! means STRICT.

use super::{Note, PeerAuthentication, peer_authentication, spec};
use crate::{object::Configuration, resource::MeshPolicySpec};
use linnet_mesh::{MtlsMode, ResourceRef};
use std::collections::BTreeMap;

/// The only name that the API gives a meaning.
const NAME: &str = "default";

pub(super) fn compile(
    configuration: &Configuration,
    notes: &mut Vec<Note>,
) -> Result<PeerAuthentication, Vec<Note>> {
    if &*configuration.name.name != NAME {
        return Err(vec![Note::new(
            "metadata.name",
            format!("must be {NAME}: the mesh has one policy"),
        )]);
    }
    let (spec, unknown) = spec::read::<MeshPolicySpec>(&configuration.spec)?;
    // `- mtls:` with nothing behind it reaches us as an empty entry and means
    // what `mtls: {}` does; an entry of another method is not empty.
    let entry = spec.peers.iter().enumerate().find(|(position, peer)| {
        let prefix = format!("spec.peers[{position}].");
        peer.mtls.is_some() || !unknown.iter().any(|field| field.starts_with(&prefix))
    });
    let mode = match entry {
        None => {
            notes.push(Note::new(
                "spec.peers",
                "names no mtls, so plaintext is taken beside mutual TLS",
            ));
            MtlsMode::Permissive
        }
        Some((position, peer)) => {
            let field = format!("spec.peers[{position}].mtls.mode");
            peer.mtls
                .as_ref()
                .map_or(Ok(None), |mtls| peer_authentication::mode(field, mtls))
                .map_err(|error| vec![error])?
                .unwrap_or(MtlsMode::Strict)
        }
    };
    notes.extend(unknown.into_iter().map(Note::not_honoured));
    Ok(PeerAuthentication {
        source: ResourceRef::from(&configuration.reference()),
        namespace: configuration.name.namespace.clone(),
        created: configuration.created,
        selector: None,
        mode: Some(mode),
        ports: BTreeMap::new(),
    })
}
