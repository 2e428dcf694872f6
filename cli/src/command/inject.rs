//! `linnet inject`: what the webhook would do, done to a file.
//!
//! Asking for it counts as the namespace's yes; a pod's no still holds. What
//! makes no pods passes through.

use super::Context;
use linnet_injector::{
    decision::Namespace,
    document::{self, DocumentError, Item, ItemVerdict},
    injection::{InjectionConfig, PullPolicy},
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    fs,
    io::{self, Read},
    process::ExitCode,
};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Manifests, or - for standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    filename: String,
    /// Namespace of manifests that name none
    #[arg(long, short = 'n', default_value = "default")]
    namespace: String,
    /// Image of the sidecar
    #[arg(long, value_name = "IMAGE")]
    proxy_image: Option<String>,
    /// Image of the init container
    #[arg(long, value_name = "IMAGE")]
    init_image: Option<String>,
    /// When the two images are pulled: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY", value_parser = pull_policy)]
    image_pull_policy: Option<PullPolicy>,
    /// Trust domain of the mesh
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<linnet_mesh::TrustDomain>,
}

fn pull_policy(text: &str) -> Result<PullPolicy, &'static str> {
    PullPolicy::parse(text).ok_or("use Always, IfNotPresent or Never")
}

/// Why a file is not injected; nothing is printed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {file}")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("{file}: document {position} is not valid YAML")]
    Yaml {
        file: String,
        position: usize,
        #[source]
        source: serde_norway::Error,
    },
    #[error("{file}: document {position}")]
    Inject {
        file: String,
        position: usize,
        #[source]
        source: Box<DocumentError>,
    },
    #[error("cannot print document {position}")]
    Print {
        position: usize,
        #[source]
        source: serde_norway::Error,
    },
    #[error("writing the output")]
    Output(#[from] io::Error),
}

/// Does it.
///
/// # Errors
/// The first document that can't be injected.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let file = match arguments.filename.as_str() {
        "-" => "standard input".to_owned(),
        name => name.to_owned(),
    };
    let text = read(&arguments.filename).map_err(|source| Error::Read {
        file: file.clone(),
        source,
    })?;
    let config = arguments.config();
    let (output, items) = inject(&text, &file, &arguments.namespace, &config)?;
    for item in &items {
        context.terminal.note(describe(item));
        for warning in &item.warnings {
            context.terminal.note(format_args!("  warning: {warning}"));
        }
    }
    context.terminal.document(&output)?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn config(&self) -> InjectionConfig {
        let mut config = InjectionConfig::default();
        if let Some(image) = &self.proxy_image {
            config.proxy_image.clone_from(image);
        }
        if let Some(image) = &self.init_image {
            config.init_image.clone_from(image);
        }
        if let Some(policy) = self.image_pull_policy {
            config.image_pull_policy = policy;
        }
        if let Some(domain) = &self.trust_domain {
            config.trust_domain = domain.clone();
        }
        config
    }
}

fn read(filename: &str) -> io::Result<String> {
    if filename != "-" {
        return fs::read_to_string(filename);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn inject(
    text: &str,
    file: &str,
    namespace: &str,
    config: &InjectionConfig,
) -> Result<(String, Vec<Item>), Error> {
    let namespace = Namespace::opted_in(namespace);
    let mut output = String::new();
    let mut items = Vec::new();
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let position = index + 1;
        let value = Value::deserialize(document).map_err(|source| Error::Yaml {
            file: file.to_owned(),
            position,
            source,
        })?;
        if value.is_null() {
            continue;
        }
        let done = document::inject_document(&value, &namespace, config);
        let done = done.map_err(|source| Error::Inject {
            file: file.to_owned(),
            position,
            source: Box::new(source),
        })?;
        let yaml = serde_norway::to_string(&done.value);
        let yaml = yaml.map_err(|source| Error::Print { position, source })?;
        output.push_str("---\n");
        output.push_str(&yaml);
        items.extend(done.items);
    }
    Ok((output, items))
}

fn describe(item: &Item) -> String {
    match &item.verdict {
        ItemVerdict::Injected => format!("{}: injected", item.resource),
        ItemVerdict::Skipped(reason) => format!("{}: left as it is: {reason}", item.resource),
        ItemVerdict::NoPods => format!("{}: makes no pods", item.resource),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injected(text: &str) -> Result<(Vec<Value>, Vec<Item>), Error> {
        let (output, items) = inject(text, "test.yaml", "default", &InjectionConfig::default())?;
        let documents = serde_norway::Deserializer::from_str(&output)
            .map(|document| Value::deserialize(document).unwrap())
            .collect();
        Ok((documents, items))
    }

    const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
";

    #[test]
    fn workloads_are_injected_and_the_rest_passes_through() {
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
        let (documents, items) = injected(&format!("{service}---{DEPLOYMENT}")).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0]["kind"], "Service");
        assert_eq!(items[0].verdict, ItemVerdict::NoPods);
        let init = &documents[1]["spec"]["template"]["spec"]["initContainers"];
        assert_eq!(init[1]["name"], "linnet-proxy", "{init}");
        assert_eq!(items[1].verdict, ItemVerdict::Injected);
    }

    #[test]
    fn what_is_injected_already_stays_as_it_is() {
        let config = InjectionConfig::default();
        let (once, _) = inject(DEPLOYMENT, "f", "default", &config).unwrap();
        let (twice, _) = inject(&once, "f", "default", &config).unwrap();
        assert_eq!(once, twice);
    }

    #[test]
    fn a_system_namespace_stays_as_it_is() {
        let config = InjectionConfig::default();
        let (_, items) = inject(DEPLOYMENT, "f", "kube-system", &config).unwrap();
        assert!(matches!(items[0].verdict, ItemVerdict::Skipped(_)));
        assert!(describe(&items[0]).contains("kube-system"));
    }

    #[test]
    fn mistakes_name_the_file_and_the_document() {
        let error = injected("a: b\n---\n{").unwrap_err().to_string();
        assert!(error.contains("test.yaml: document 2"), "{error}");
        let error =
            injected("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}").unwrap_err();
        assert!(
            matches!(error, Error::Inject { position: 1, .. }),
            "{error}"
        );
    }
}
