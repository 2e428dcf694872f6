//! What a pod may not take from the sidecar that it gets.
//!
//! The redirection lets the sidecar's user and group pass, and leaves the
//! reserved ports alone: a container that takes either talks past the mesh.
//! Linnet's volumes hold the token that the workload's certificate is issued
//! for. Such a pod is refused, not warned about: a warning is read by who wrote
//! it, who may have meant it.

use k8s_openapi::api::core::v1::Container;
use linnet_mesh::names::{PROXY_UID, port};

use crate::{
    sidecar::{TOKEN_VOLUME, TRUST_VOLUME},
    view::PodView,
};

/// What a container takes that is the sidecar's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field}: {what} is the sidecar's, and would let container {container:?} around the mesh; change it, or opt the pod out with the label linnet.io/inject: disabled"
)]
pub struct Trespass {
    /// The container's name.
    pub container: String,
    /// The field's path in the pod.
    pub field: String,
    /// What the field takes.
    pub what: String,
}

/// Refuses a pod one of whose containers takes what is the sidecar's.
///
/// An init container that ends before the application starts may run as the
/// sidecar's user: that is how guides give it a network under other meshes.
/// See [`borrowers`].
pub fn check(pod: &PodView) -> Result<(), Trespass> {
    let lists = [
        ("initContainers", pod.init_containers()),
        ("containers", pod.spec.containers.as_slice()),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let of = |field: &str, what: String| Trespass {
                container: container.name.clone(),
                field: format!("spec.{list}[{index}].{field}"),
                what,
            };
            if stays(list, container)
                && let Some((field, what)) = account(pod, container)
            {
                return Err(of(field, what));
            }
            if let Some((field, what)) = port_taken(container) {
                return Err(of(&field, what));
            }
            if let Some((field, what)) = volume_taken(container) {
                return Err(of(&field, what));
            }
        }
    }
    Ok(())
}

/// Init containers that run as the sidecar's user or group, and end.
pub fn borrowers(pod: &PodView) -> impl Iterator<Item = &Container> {
    pod.init_containers().iter().filter(|container| {
        !stays("initContainers", container) && account(pod, container).is_some()
    })
}

/// Whether a container runs beside the application.
fn stays(list: &str, container: &Container) -> bool {
    list == "containers" || container.restart_policy.as_deref() == Some("Always")
}

/// The sidecar's user or group, where a container runs as one of them. What
/// the container doesn't say, the pod does.
fn account(pod: &PodView, container: &Container) -> Option<(&'static str, String)> {
    let own = container.security_context.as_ref();
    let pods = pod.spec.security_context.as_ref();
    let user = own
        .and_then(|context| context.run_as_user)
        .or_else(|| pods?.run_as_user);
    let group = own
        .and_then(|context| context.run_as_group)
        .or_else(|| pods?.run_as_group);
    if user == Some(i64::from(PROXY_UID)) {
        return Some(("securityContext.runAsUser", format!("user {PROXY_UID}")));
    }
    // Its group has the same number.
    (group == Some(i64::from(PROXY_UID)))
        .then(|| ("securityContext.runAsGroup", format!("group {PROXY_UID}")))
}

fn port_taken(container: &Container) -> Option<(String, String)> {
    let ports = container.ports.iter().flatten().enumerate();
    ports.into_iter().find_map(|(index, declared)| {
        let number = u16::try_from(declared.container_port).ok()?;
        port::RESERVED.contains(&number).then(|| {
            let (first, last) = (port::RESERVED.start(), port::RESERVED.end());
            (
                format!("ports[{index}].containerPort"),
                format!("port {number} (of {first}-{last})"),
            )
        })
    })
}

fn volume_taken(container: &Container) -> Option<(String, String)> {
    let mounts = container.volume_mounts.iter().flatten().enumerate();
    let mut mounts =
        mounts.filter(|(_, mount)| [TOKEN_VOLUME, TRUST_VOLUME].contains(&mount.name.as_str()));
    let (index, mount) = mounts.next()?;
    Some((
        format!("volumeMounts[{index}].name"),
        format!("volume {}", mount.name),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refusal(spec: &Value) -> Option<String> {
        let view = PodView::parse(&json!({"spec": spec})).unwrap();
        check(&view).err().map(|trespass| trespass.field)
    }

    #[test]
    fn nobody_runs_as_the_sidecar() {
        let pods = json!({
            "securityContext": {"runAsUser": 1337},
            "containers": [{"name": "own", "securityContext": {"runAsUser": 1000}}, {"name": "inherits"}],
        });
        let field = "spec.containers[1].securityContext.runAsUser";
        assert_eq!(refusal(&pods).as_deref(), Some(field));
        let group =
            json!({"containers": [{"name": "app", "securityContext": {"runAsGroup": 1337}}]});
        let field = "spec.containers[0].securityContext.runAsGroup";
        assert_eq!(refusal(&group).as_deref(), Some(field));
        let native = json!({
            "initContainers": [{"name": "side", "restartPolicy": "Always", "securityContext": {"runAsUser": 1337}}],
            "containers": [{"name": "app"}],
        });
        let field = "spec.initContainers[0].securityContext.runAsUser";
        assert_eq!(refusal(&native).as_deref(), Some(field));
    }

    #[test]
    fn an_init_container_that_ends_may() {
        let spec = json!({
            "initContainers": [{"name": "fetch", "securityContext": {"runAsUser": 1337}}, {"name": "other"}],
            "containers": [{"name": "app"}],
        });
        assert_eq!(refusal(&spec), None);
        let view = PodView::parse(&json!({"spec": spec})).unwrap();
        let names: Vec<_> = borrowers(&view).map(|container| &*container.name).collect();
        assert_eq!(names, ["fetch"]);
    }

    #[test]
    fn nobody_takes_its_ports_or_volumes() {
        for number in [15000, 15001, 15006, 15020, 15099] {
            let spec = json!({"containers": [
                {"name": "app", "ports": [{"containerPort": 80}, {"containerPort": number}]},
            ]});
            let field = "spec.containers[0].ports[1].containerPort";
            assert_eq!(refusal(&spec).as_deref(), Some(field), "{number}");
        }
        let outside = json!({"containers": [
            {"name": "app", "ports": [{"containerPort": 14999}, {"containerPort": 15100}]},
        ]});
        assert_eq!(refusal(&outside), None);
        for volume in [TOKEN_VOLUME, TRUST_VOLUME] {
            let spec = json!({
                "initContainers": [{"name": "peek", "volumeMounts": [{"name": volume, "mountPath": "/x"}]}],
                "containers": [{"name": "app"}],
            });
            let field = "spec.initContainers[0].volumeMounts[0].name";
            assert_eq!(refusal(&spec).as_deref(), Some(field), "{volume}");
        }
    }
}
