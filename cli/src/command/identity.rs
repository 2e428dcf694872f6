//! `linnet identity`: which roots are trusted, which one signs, and how one follows
//! another.
//!
//! What is shown is judged by the same function that the service acts by.

use super::Context;
use crate::cluster::{Cluster, Error as ClusterError};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use linnet_identity::{
    authority::{
        kept_in_secret,
        rotation::{self, Judgement, Kept, Phase, Rules},
    },
    config::Environment,
};
use linnet_mesh::names::{CONTROL_PLANE_NAMESPACE, ROOT_SECRET, annotation};
use linnet_runtime::settings::Settings;
use serde::Serialize;
use std::{fmt, io, process::ExitCode};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the roots that are trusted, the one that signs, and a rotation's stage
    Status {
        /// Print it as data
        #[arg(long, value_enum)]
        output: Option<super::DataFormat>,
    },
    /// Replace the root: the next is made known first, signs then, and the one
    /// before is retired last
    RotateRoot {
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// Why nothing is shown, or nothing rotated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "Secret {CONTROL_PLANE_NAMESPACE}/{ROOT_SECRET} does not exist; identity makes it: is the control plane installed?"
    )]
    NoSecret,
    #[error("Secret {CONTROL_PLANE_NAMESPACE}/{ROOT_SECRET}: {0}")]
    Root(#[from] linnet_identity::authority::RootError),
    #[error("a rotation is under way: {0}")]
    UnderWay(String),
    #[error("Secret {CONTROL_PLANE_NAMESPACE}/{ROOT_SECRET}: {0}; put that right first")]
    Problem(String),
    #[error("Linnet does not replace this root: {0}")]
    Foreign(String),
    #[error(transparent)]
    NotInteractive(#[from] crate::terminal::NotInteractive),
    #[error("writing the output")]
    Output(#[from] io::Error),
}

/// The root as it stands.
pub(crate) struct Roots {
    pub(crate) kept: Kept,
    pub(crate) judgement: Judgement,
}

/// Reads it; none if the Secret does not exist.
///
/// # Errors
/// A Secret that can't be read, or has nothing in it that could sign.
pub(crate) async fn roots(cluster: &Cluster) -> Result<Option<Roots>, Error> {
    let found: Option<Secret> = cluster
        .find(cluster.in_control_plane(), ROOT_SECRET)
        .await?;
    let Some(secret) = found else {
        return Ok(None);
    };
    let kept = kept_in_secret(&secret);
    let rules = rules(cluster).await?;
    let judgement = rotation::judge(&kept, None, &rules, OffsetDateTime::now_utc())?;
    Ok(Some(Roots { kept, judgement }))
}

/// The service's own settings.
async fn rules(cluster: &Cluster) -> Result<Rules, ClusterError> {
    let deployment: Option<Deployment> = cluster
        .find(cluster.in_control_plane(), "linnet-identity")
        .await?;
    let containers = deployment
        .and_then(|deployment| deployment.spec?.template.spec)
        .map(|pod| pod.containers)
        .unwrap_or_default();
    let set = |name: &str| {
        let mut variables = containers
            .iter()
            .flat_map(|container| container.env.iter().flatten());
        variables
            .find(|variable| variable.name == name)?
            .value
            .clone()
    };
    Ok(Environment::read(Settings::new(&set))
        .map_or_else(|_| Rules::default(), |found| found.config.rules()))
}

#[derive(Debug, Serialize)]
struct Status {
    /// The fingerprint of the root that certificates hang on.
    signs: String,
    signs_until: String,
    trusted: Vec<Trusted>,
    stage: String,
    problem: Option<String>,
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
struct Trusted {
    root: String,
    until: String,
}

impl From<&Roots> for Status {
    fn from(roots: &Roots) -> Self {
        let Judgement {
            root,
            record,
            phase,
            problem,
            ..
        } = &roots.judgement;
        let trusted = root.anchors().iter().map(|anchor| Trusted {
            root: anchor.fingerprint().to_owned(),
            until: date(anchor.not_after()),
        });
        Self {
            signs: root.trusted_by().to_owned(),
            signs_until: date(root.not_after()),
            trusted: trusted.collect(),
            stage: stage(*phase),
            problem: problem.clone(),
            refused: record.refused().map(str::to_owned),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "signs:    {} until {}", self.signs, self.signs_until)?;
        for trusted in &self.trusted {
            writeln!(f, "trusted:  {} until {}", trusted.root, trusted.until)?;
        }
        writeln!(f, "rotation: {}", self.stage)?;
        if let Some(refused) = &self.refused {
            writeln!(f, "the last request for a rotation was refused: {refused}")?;
        }
        if let Some(problem) = &self.problem {
            writeln!(f, "problem:  {problem}")?;
        }
        Ok(())
    }
}

/// A stage, for people.
pub(crate) fn stage(phase: Phase) -> String {
    match phase {
        Phase::Steady => "none".to_owned(),
        Phase::Distributing(until) => {
            format!(
                "the next root is being made known; it signs from {}",
                date(until)
            )
        }
        Phase::Retiring(until) => {
            format!(
                "the next root signs; the one before is trusted until {}",
                date(until)
            )
        }
    }
}

fn date(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// Does it.
///
/// # Errors
/// No root, one that is not Linnet's to rotate, or no right to.
pub(crate) async fn run(arguments: Arguments, context: &Context) -> Result<ExitCode, Error> {
    let cluster = Cluster::connect(&context.cluster).await?;
    match arguments.command {
        Command::Status { output } => {
            let status = Status::from(&roots(&cluster).await?.ok_or(Error::NoSecret)?);
            let text = match output {
                Some(super::DataFormat::Json) => super::json(&status)?,
                None => status.to_string(),
            };
            context.terminal.document(&text)?;
            Ok(if status.problem.is_none() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::RotateRoot { yes } => {
            may_rotate(&roots(&cluster).await?.ok_or(Error::NoSecret)?)?;
            let question = "Replace the root? Certificates follow by themselves";
            if !yes && !context.terminal.confirm(question)? {
                return Ok(ExitCode::FAILURE);
            }
            rotate(&cluster).await?;
            context
                .terminal
                .good("asked for a new root; see how it goes: linnet identity status");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn may_rotate(roots: &Roots) -> Result<(), Error> {
    if let Some(problem) = &roots.judgement.problem {
        return Err(Error::Problem(problem.clone()));
    }
    if let Some(manager) = &roots.kept.managed_by {
        return Err(Error::Foreign(format!(
            "{manager} keeps it; renew it there"
        )));
    }
    if !roots.judgement.root.is_self_signed() {
        let advice = "its key is not here; put the next issuer, its key and its root in the Secret";
        return Err(Error::Foreign(advice.to_owned()));
    }
    match roots.judgement.phase {
        Phase::Steady => Ok(()),
        phase => Err(Error::UnderWay(stage(phase))),
    }
}

async fn rotate(cluster: &Cluster) -> Result<(), ClusterError> {
    let request = date(OffsetDateTime::now_utc());
    let api = cluster.in_control_plane::<Secret>();
    cluster
        .annotate(&api, ROOT_SECRET, annotation::ROTATE_ROOT, &request)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scripted::ApiServer;
    use serde_json::{Value, json};

    const SECRET: &str = "/api/v1/namespaces/linnet-system/secrets/linnet-root";

    fn secret(kept: &Kept) -> Value {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let data = kept.fields.iter();
        let data: serde_json::Map<_, _> = data
            .map(|(name, text)| (name.clone(), json!(BASE64_STANDARD.encode(text))))
            .collect();
        json!({"metadata": {"name": ROOT_SECRET, "resourceVersion": "1"}, "data": data})
    }

    fn kept() -> Kept {
        Kept::new(&Rules::default(), OffsetDateTime::now_utc()).unwrap()
    }

    async fn found(kept: &Kept) -> Roots {
        let server = ApiServer::new().with(SECRET, secret(kept));
        roots(&server.cluster().await).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn the_status_is_the_services_own_judgement() {
        let roots = found(&kept()).await;
        let status = Status::from(&roots);
        assert_eq!((status.trusted.len(), status.stage.as_str()), (1, "none"));
        assert_eq!(status.signs, status.trusted[0].root);
        may_rotate(&roots).unwrap();
        let absent = ApiServer::new().cluster().await;
        assert!(super::roots(&absent).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_rotation_is_asked_for_by_an_annotation_and_once() {
        let mut kept = kept();
        let server = ApiServer::new().with(SECRET, secret(&kept));
        rotate(&server.cluster().await).await.unwrap();
        assert_eq!(server.changes(), [format!("PATCH {SECRET}")]);
        kept.request = Some("now".to_owned());
        let rules = Rules::default();
        let next = rotation::judge(&kept, None, &rules, OffsetDateTime::now_utc()).unwrap();
        let roots = found(&next.write.unwrap()).await;
        assert!(matches!(may_rotate(&roots), Err(Error::UnderWay(_))));
        assert!(Status::from(&roots).stage.contains("being made known"));
    }

    #[tokio::test]
    async fn a_damaged_root_is_told_and_not_rotated() {
        let mut kept = kept();
        kept.fields
            .insert(rotation::KEY.to_owned(), "damaged".to_owned());
        let roots = found(&kept).await;
        let error = may_rotate(&roots).unwrap_err().to_string();
        assert!(error.contains("tls.key"), "{error}");
        assert!(
            Status::from(&roots)
                .to_string()
                .contains("problem:  tls.key")
        );
    }

    #[tokio::test]
    async fn cert_managers_root_is_cert_managers() {
        let mut kept = kept();
        kept.fields.remove(rotation::STATE);
        let mut secret = secret(&kept);
        secret["metadata"]["annotations"] = json!({"cert-manager.io/certificate-name": "mesh"});
        let server = ApiServer::new().with(SECRET, secret);
        let roots = roots(&server.cluster().await).await.unwrap().unwrap();
        let error = may_rotate(&roots).unwrap_err().to_string();
        assert!(error.contains("cert-manager's Certificate mesh"), "{error}");
    }
}
