//! What a pod may not take from the sidecar that it gets.
//!
//! The redirection lets the sidecar's user and group pass, and leaves its ports
//! alone: a container that takes either talks past the mesh. Linnet's volumes hold
//! the token that the workload's certificate is issued for. Such a pod is refused,
//! not warned about: a warning is read by who wrote it, who may have meant it.
//! The check is the same at every review, the first and those after another
//! webhook's patch, and for ephemeral containers.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, SecurityContext, VolumeMount,
};
use linnet_mesh::names::{self, PROXY_UID, container, port};

use crate::{
    resident::Resident,
    sidecar::{TOKEN_VOLUME, TRUST_VOLUME},
    view::PodView,
};

const NUMBER: i64 = PROXY_UID as i64;

/// What a pod takes that is the sidecar's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field}: {what} is the sidecar's, and would let {taker} around the mesh; change it, or opt the pod out with the label linnet.io/inject: disabled"
)]
pub struct Trespass {
    /// Who takes it: a container, or all of the pod.
    pub taker: String,
    /// The field's path in the pod.
    pub field: String,
    /// What the field takes.
    pub what: String,
}

/// Any kind of container, as far as a trespass is concerned.
struct Part<'a> {
    list: &'static str,
    index: usize,
    name: &'a str,
    /// Whether it runs beside the application.
    stays: bool,
    context: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    mounts: &'a [VolumeMount],
}

impl<'a> Part<'a> {
    fn of(list: &'static str, index: usize, container: &'a Container) -> Self {
        Self {
            list,
            index,
            name: &container.name,
            stays: stays(list, container),
            context: container.security_context.as_ref(),
            ports: container.ports.as_deref().unwrap_or_default(),
            mounts: container.volume_mounts.as_deref().unwrap_or_default(),
        }
    }

    fn ephemeral(index: usize, container: &'a EphemeralContainer) -> Self {
        Self {
            list: "ephemeralContainers",
            index,
            name: &container.name,
            stays: true,
            context: container.security_context.as_ref(),
            ports: container.ports.as_deref().unwrap_or_default(),
            mounts: container.volume_mounts.as_deref().unwrap_or_default(),
        }
    }

    fn check(&self, pod: &PodView) -> Result<(), Trespass> {
        let taken = self
            .stays
            .then(|| account(pod, self.context))
            .flatten()
            .map(|(field, what)| (field.to_owned(), what))
            .or_else(|| port_taken(self.ports))
            .or_else(|| volume_taken(self.mounts))
            .or_else(|| name_taken(self.name));
        match taken {
            None => Ok(()),
            Some((field, what)) => Err(Trespass {
                taker: format!("container {:?}", self.name),
                field: format!("spec.{}[{}].{field}", self.list, self.index),
                what,
            }),
        }
    }
}

/// Refuses a pod that takes what is the sidecar's, or one of whose containers
/// does. `resident` are Linnet's own containers, where the pod has them already.
///
/// An init container that ends before the application starts may run as the
/// sidecar's user: that is how guides give it a network under other meshes.
/// See [`borrowers`].
///
/// # Errors
/// The first trespass.
pub fn check(pod: &PodView, resident: Option<Resident>) -> Result<(), Trespass> {
    groups(pod)?;
    tokens(pod, resident.is_some())?;
    let lists = [
        ("initContainers", pod.init_containers()),
        ("containers", pod.spec.containers.as_slice()),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            if !resident.is_some_and(|own| own.holds(list, index)) {
                Part::of(list, index, container).check(pod)?;
            }
        }
    }
    check_ephemeral(pod, 0)
}

/// Refuses a pod whose ephemeral containers, from the one at `first` on, take what
/// is the sidecar's.
///
/// # Errors
/// The first trespass.
pub fn check_ephemeral(pod: &PodView, first: usize) -> Result<(), Trespass> {
    let containers = pod.spec.ephemeral_containers.iter().flatten().enumerate();
    for (index, container) in containers.skip(first) {
        Part::ephemeral(index, container).check(pod)?;
    }
    Ok(())
}

/// Init containers that run as the sidecar's user or group, and end.
pub fn borrowers(pod: &PodView) -> impl Iterator<Item = &Container> {
    pod.init_containers().iter().filter(|container| {
        !stays("initContainers", container)
            && account(pod, container.security_context.as_ref()).is_some()
    })
}

/// Whether a container runs beside the application.
fn stays(list: &str, container: &Container) -> bool {
    list == "containers" || container.restart_policy.as_deref() == Some("Always")
}

/// Groups that every container of the pod has besides its own. A member can make
/// such a group its own by a program with the set-group-ID bit.
fn groups(pod: &PodView) -> Result<(), Trespass> {
    let Some(context) = &pod.spec.security_context else {
        return Ok(());
    };
    let mut supplemental = context.supplemental_groups.iter().flatten();
    let field = if supplemental.any(|group| *group == NUMBER) {
        "supplementalGroups"
    } else if context.fs_group == Some(NUMBER) {
        "fsGroup"
    } else {
        return Ok(());
    };
    Err(Trespass {
        taker: "every container".to_owned(),
        field: format!("spec.securityContext.{field}"),
        what: format!("group {PROXY_UID}"),
    })
}

/// A volume of the pod's own with a token that identity accepts.
fn tokens(pod: &PodView, has_sidecar: bool) -> Result<(), Trespass> {
    let volumes = pod.spec.volumes.iter().flatten().enumerate();
    for (index, volume) in volumes {
        if has_sidecar && volume.name == TOKEN_VOLUME {
            continue;
        }
        let projected = volume.projected.iter();
        let sources = projected.flat_map(|projected| projected.sources.iter().flatten());
        for (source, projection) in sources.enumerate() {
            let token = projection.service_account_token.as_ref();
            if token.and_then(|token| token.audience.as_deref()) == Some(names::TOKEN_AUDIENCE) {
                let field = format!(
                    "spec.volumes[{index}].projected.sources[{source}].serviceAccountToken.audience"
                );
                return Err(Trespass {
                    taker: "whoever mounts it".to_owned(),
                    field,
                    what: format!("a token for {}", names::TOKEN_AUDIENCE),
                });
            }
        }
    }
    Ok(())
}

/// The sidecar's user or group, where a container runs as one of them. What
/// the container doesn't say, the pod does.
fn account(pod: &PodView, own: Option<&SecurityContext>) -> Option<(&'static str, String)> {
    let pods = pod.spec.security_context.as_ref();
    let user = own
        .and_then(|context| context.run_as_user)
        .or_else(|| pods?.run_as_user);
    let group = own
        .and_then(|context| context.run_as_group)
        .or_else(|| pods?.run_as_group);
    if user == Some(NUMBER) {
        return Some(("securityContext.runAsUser", format!("user {PROXY_UID}")));
    }
    // Its group has the same number.
    (group == Some(NUMBER)).then(|| ("securityContext.runAsGroup", format!("group {PROXY_UID}")))
}

fn port_taken(ports: &[ContainerPort]) -> Option<(String, String)> {
    ports.iter().enumerate().find_map(|(index, declared)| {
        let number = u16::try_from(declared.container_port).ok()?;
        port::SIDECAR.contains(&number).then(|| {
            (
                format!("ports[{index}].containerPort"),
                format!("port {number}"),
            )
        })
    })
}

fn volume_taken(mounts: &[VolumeMount]) -> Option<(String, String)> {
    let mut mounts = mounts.iter().enumerate();
    let ours = |name: &str| [TOKEN_VOLUME, TRUST_VOLUME].contains(&name);
    let (index, mount) = mounts.find(|(_, mount)| ours(&mount.name))?;
    Some((
        format!("volumeMounts[{index}].name"),
        format!("volume {}", mount.name),
    ))
}

fn name_taken(name: &str) -> Option<(String, String)> {
    let ours = [container::PROXY, container::INIT].contains(&name);
    ours.then(|| ("name".to_owned(), format!("the name {name}")))
}

#[cfg(test)]
mod tests;
