//! The validating webhook: what can't take force is refused while its author
//! still looks at it, and what will not do what it says comes back as warnings.
//!
//! It says what the compiler says, without a look at other resources, and keeps
//! nothing. Whatever passes it by (it may be down, and its failure policy is
//! Ignore) meets the same compiler later, where the last good version stays in
//! force: this is a courtesy, not a line of defence.

use crate::{
    analysis,
    compile::{ConfigurationKind, Context, Note, StatusKind, compile},
    manifest,
    object::{Configuration, Object},
};
use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use linnet_admission::{
    Keeper, Names,
    review::{self, Answer, LONGEST_TEXT, Request, ReviewError, Size, shorten},
    server::{self, Limits, Turn},
};
use linnet_mesh::names;
use linnet_runtime::{
    drain,
    serve::{self, ListenerKind, Transport},
};
use serde_json::Value;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// The path that the webhook configuration names.
pub const PATH: &str = "/validate";
/// Shorter than the webhook configuration's 2 s.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// What `kubectl` shows of a resource at most; the rest is counted.
const REMARKS: usize = 16;
const AUDIT: &str = "verdict";

/// The objects that the webhook's upkeep is about.
pub(crate) fn names() -> Names {
    let namespace = names::CONTROL_PLANE_NAMESPACE;
    Names {
        namespace: namespace.to_owned(),
        secret: "linnet-controller-tls".to_owned(),
        webhook_configuration: "linnet-controller".to_owned(),
        dns_name: format!("linnet-controller.{namespace}.svc"),
    }
}

/// A validating webhook that listens.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) server: JoinHandle<()>,
}

/// Starts the webhook and the upkeep of its certificate. The controller's
/// readiness waits for neither: discovery must not hang on a courtesy.
///
/// # Errors
/// The address can't be listened on.
pub(crate) async fn start(
    client: kube::Client,
    names: Names,
    address: SocketAddr,
    context: Context,
    drain: drain::Watch,
) -> io::Result<Serving> {
    let listener = server::bind(address).await?;
    let address = listener.local_addr()?;
    let keeper = Keeper::<ValidatingWebhookConfiguration>::new(client, names);
    let tls = server::tls(keeper.resolver()).map_err(io::Error::other)?;
    tokio::spawn(keeper.run(None, drain.clone()));
    let transport = Transport::Tls(Arc::new(arc_swap::ArcSwap::new(tls)));
    let server = tokio::spawn(serve::serve(
        listener,
        router(context),
        transport,
        ListenerKind::Webhook,
        drain,
    ));
    Ok(Serving { address, server })
}

/// `POST /validate`.
pub fn router(context: Context) -> Router {
    let router = Router::new().route(PATH, post(answer));
    server::guarded(router, TIMEOUT, Limits::RESOURCES).with_state(Arc::new(context))
}

async fn answer(
    State(context): State<Arc<Context>>,
    Extension(turn): Extension<Turn>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse(rejection.into()),
    };
    // A resource of a megabyte takes its time; health and others must not wait. The work
    // goes on where the request is given up, so its turn lasts as long as it.
    let judged = tokio::task::spawn_blocking(move || {
        let judged = judge(&body, &context);
        drop((body, turn));
        judged
    })
    .await;
    match judged {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => refuse(error),
        // The panic is in the log; the failure policy decides.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn refuse(error: ReviewError) -> Response {
    count("error");
    let text = error.to_string();
    tracing::warn!(error = %shorten(&text, LONGEST_TEXT), "review not answered");
    error.into_response()
}

/// Answers a review.
///
/// # Errors
/// What can't be answered at all.
pub fn judge(body: &[u8], context: &Context) -> Result<Answer, ReviewError> {
    let mut request = review::parse(body, Size::RESOURCE)?;
    let what = match request.operation.as_str() {
        "CREATE" => "creates a resource",
        "UPDATE" => "changes a resource",
        _ => return Ok(passed_by(&request)),
    };
    if request
        .sub_resource
        .as_deref()
        .is_some_and(|sub| !sub.is_empty())
    {
        return Ok(passed_by(&request));
    }
    let manifest = request.take_object(what)?;
    let leaves_as_it_was = leaves_as_it_was(&request, &manifest);
    let configuration = match manifest::parse(named(&request, manifest), None) {
        Ok(Some(Object::Configuration(configuration))) => configuration,
        Ok(_) => return Ok(passed_by(&request)),
        Err(error) => {
            count("refused");
            let message = format!("Linnet can't read it: {error}");
            return Ok(Answer::denied(request.uid, &message).with_audit(AUDIT, "refused"));
        }
    };
    Ok(verdict(
        request.uid,
        &configuration,
        leaves_as_it_was,
        context,
    ))
}

fn verdict(
    uid: String,
    configuration: &Configuration,
    leaves_as_it_was: bool,
    context: &Context,
) -> Answer {
    let reference = configuration.reference();
    match compile(configuration, context) {
        Ok((_, mut notes)) => {
            notes.extend(analysis::remarks(configuration, &notes));
            let audit = if notes.is_empty() {
                "accepted"
            } else {
                "accepted with remarks"
            };
            count("accepted");
            Answer::allowed(uid)
                .with_warnings(&remarks(&reference.to_string(), &notes))
                .with_audit(AUDIT, audit)
        }
        Err(errors) if leaves_as_it_was || has_own_status(configuration) => {
            count("tolerated");
            Answer::allowed(uid)
                .with_warnings(&remarks(&format!("{reference} is not in force"), &errors))
                .with_audit(AUDIT, "not in force")
        }
        Err(errors) => {
            count("refused");
            let reasons = remarks("", &errors).join("; ");
            let message = format!("Linnet can't put {reference} in force: {reasons}");
            Answer::denied(uid, &message).with_audit(AUDIT, "refused")
        }
    }
}

/// Whether a change leaves the spec as it was, or the resource is going: what is
/// stored already must not keep anybody from taking a finalizer off it.
fn leaves_as_it_was(request: &Request, manifest: &Value) -> bool {
    let old = request.old_object.as_ref().filter(|old| !old.is_null());
    let deleted = manifest.pointer("/metadata/deletionTimestamp").is_some();
    request.operation == "UPDATE"
        && (deleted || old.is_some_and(|old| old.get("spec") == manifest.get("spec")))
}

/// The Gateway API wants wrong routes to be taken, and told so in their status.
fn has_own_status(configuration: &Configuration) -> bool {
    ConfigurationKind::of(configuration.kind).is_some_and(|of| of.status == StatusKind::Parents)
}

/// The object under the namespace that the API server says, and under some name:
/// one that is to be generated isn't there yet.
fn named(request: &Request, mut manifest: Value) -> Value {
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(namespace) = request.namespace.as_deref().filter(|n| !n.is_empty()) {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        let generated = metadata.get("generateName").and_then(Value::as_str);
        let generated = format!("{}…", generated.unwrap_or_default());
        let name = metadata.entry("name").or_insert(Value::Null);
        if name.as_str().is_none_or(str::is_empty) && generated != "…" {
            *name = generated.into();
        }
    }
    manifest
}

fn passed_by(request: &Request) -> Answer {
    count("other");
    Answer::allowed(request.uid.clone()).with_audit(AUDIT, format!("passed by: {}", request.what()))
}

fn remarks(about: &str, notes: &[Note]) -> Vec<String> {
    let start = if about.is_empty() {
        String::new()
    } else {
        format!("{about}: ")
    };
    let mut remarks: Vec<_> = notes
        .iter()
        .take(REMARKS)
        .map(|note| format!("{start}{note}"))
        .collect();
    if notes.len() > REMARKS {
        let more = notes.len() - REMARKS;
        remarks.push(format!("{start}{more} more; `linnet analyze` shows all"));
    }
    remarks
}

fn count(outcome: &'static str) {
    metrics::counter!("linnet_admission_reviews_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The answer to a VirtualService of as many rules as are taken.
    fn of_rules(rule: impl Fn(usize) -> Value) -> Value {
        let rules: Vec<_> = (0..5_000).map(rule).collect();
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "shop",
            "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
            "object": {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"name": "v"}, "spec": {"hosts": ["a"], "http": rules}},
        }});
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let answer = judge(review.to_string().as_bytes(), &context).unwrap();
        serde_json::to_value(answer).unwrap()["response"].clone()
    }

    #[test]
    fn five_thousand_wrong_rules_are_refused_in_few_words() {
        let answer = of_rules(|_| json!({"route": [{"destination": {"host": "a"}, "weight": -1}]}));
        assert_eq!(answer["allowed"], false);
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.len() < 4096, "{}", message.len());
        assert!(
            message.contains("4984 more; `linnet analyze` shows all"),
            "{message}"
        );
    }

    #[test]
    fn five_thousand_rules_of_which_one_is_never_reached() {
        let answer = of_rules(|rule| {
            let path = format!("/{}", if rule == 4_999 { 2_500 } else { rule });
            json!({"match": [{"uri": {"exact": path}}], "route": [{"destination": {"host": "a"}}]})
        });
        assert_eq!(answer["allowed"], true);
        assert_eq!(
            answer["warnings"],
            json!([
                "VirtualService shop/v: spec.http[4999]: is never reached: spec.http[2500] stands before it and takes all that it would"
            ])
        );
    }
}
