//! `linnet version`: this program's and the control plane's.
//!
//! A cluster that can't be reached is said, and is no failure: the question
//! about this program was answered.

use super::Context;
use crate::{
    cluster::{Cluster, Error as ClusterError},
    object,
};
use k8s_openapi::api::apps::v1::Deployment;
use linnet_mesh::names::label;
use serde::Serialize;
use std::{io, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Don't ask the cluster
    #[arg(long)]
    client: bool,
    /// Print it as data
    #[arg(long, value_enum)]
    output: Option<super::DataFormat>,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    control_plane: Option<Vec<Component>>,
    /// Why nothing is known of the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A deployment of the control plane.
#[derive(Debug, PartialEq, Serialize)]
struct Component {
    name: String,
    image: String,
}

/// Does it.
///
/// # Errors
/// The output can't be written.
pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, io::Error> {
    let mut versions = Versions {
        client: env!("CARGO_PKG_VERSION"),
        control_plane: None,
        error: None,
    };
    if !arguments.client {
        match ask(context).await {
            Ok(components) => versions.control_plane = Some(components),
            Err(error) => versions.error = Some(error.to_string()),
        }
    }
    let text = match arguments.output {
        Some(super::DataFormat::Json) => super::json(&versions)?,
        None => describe(&versions),
    };
    context.terminal.document(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(context: &Context) -> Result<Vec<Component>, ClusterError> {
    components(&Cluster::connect(&context.cluster).await?).await
}

async fn components(cluster: &Cluster) -> Result<Vec<Component>, ClusterError> {
    let selector = format!("{}={}", label::PART_OF, label::PART_OF_LINNET);
    let deployments: Vec<Deployment> = cluster.list(cluster.in_control_plane(), &selector).await?;
    let component = |deployment: &Deployment| {
        let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
        Some(Component {
            name: object::name(deployment).to_owned(),
            image: pod.containers.first()?.image.clone()?,
        })
    };
    Ok(deployments.iter().filter_map(component).collect())
}

fn describe(versions: &Versions) -> String {
    let mut text = format!("client: {}\n", versions.client);
    match (&versions.control_plane, &versions.error) {
        (Some(components), _) if components.is_empty() => {
            text.push_str("control plane: not installed\n");
        }
        (Some(components), _) => {
            for component in components {
                text.push_str(&format!("{}: {}\n", component.name, component.image));
            }
        }
        (None, Some(error)) => text.push_str(&format!("control plane: unknown: {error}\n")),
        (None, None) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scripted::ApiServer;
    use serde_json::json;

    #[tokio::test]
    async fn components_are_the_deployments_that_install_made() {
        let deployments = "/apis/apps/v1/namespaces/linnet-system/deployments";
        let deployment = |name: &str, part_of: &str| {
            json!({
                "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": part_of}},
                "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "a", "image": "linnet/identity:dev"}]}}},
            })
        };
        let server = ApiServer::new()
            .with(
                &format!("{deployments}/linnet-identity"),
                deployment("linnet-identity", "linnet"),
            )
            .with(&format!("{deployments}/other"), deployment("other", "else"));
        let found = components(&server.cluster().await).await.unwrap();
        assert_eq!(
            found,
            [Component {
                name: "linnet-identity".to_owned(),
                image: "linnet/identity:dev".to_owned()
            }]
        );
    }

    #[test]
    fn a_control_plane_that_is_not_there_is_said() {
        let versions = Versions {
            client: "1",
            control_plane: Some(Vec::new()),
            error: None,
        };
        assert!(describe(&versions).contains("not installed"));
    }
}
