//! When a request is sent again.

use super::Compiler;
use crate::{compile::Note, resource::HttpRetry};
use linnet_mesh::route::{RetryOn, RetryPolicy};

/// Conditions of Envoy's that nothing acts on.
const NOT_HONOURED: [&str; 4] = [
    "envoy-ratelimited",
    "retriable-headers",
    "http3-post-connect-failure",
    "reset-before-response",
];

impl Compiler<'_> {
    pub(super) fn retries(&mut self, path: &str, retries: &HttpRetry) -> RetryPolicy {
        let attempts = u32::try_from(retries.attempts).unwrap_or_else(|_| {
            let text = format!("{} is no number of retries", retries.attempts);
            self.errors
                .push(Note::new(format!("{path}.attempts"), text));
            0
        });
        let mut policy = RetryPolicy {
            attempts,
            ..RetryPolicy::DEFAULT
        };
        if let Some(text) = retries.retry_on.as_deref().filter(|text| !text.is_empty()) {
            policy.on = RetryOn::default();
            for name in text.split(',').map(str::trim) {
                self.retry_on(&format!("{path}.retryOn"), name, &mut policy);
            }
        }
        if let Some(text) = &retries.per_try_timeout {
            let limit = self.duration(&format!("{path}.perTryTimeout"), text);
            policy.per_try_timeout = limit.filter(|limit| !limit.is_zero());
        }
        if let Some(text) = &retries.backoff {
            let wait = self.duration(&format!("{path}.backoff"), text);
            policy.back_off = wait.unwrap_or(RetryPolicy::BACK_OFF);
        }
        if let Some(remote) = retries.retry_remote_localities {
            let text = if remote {
                "changes nothing: the balancer's localities count for retries too"
            } else {
                "is not honoured: where the own locality has no endpoint left, a retry goes to another"
            };
            let field = format!("{path}.retryRemoteLocalities");
            self.notes.push(Note::new(field, text));
        }
        policy.avoid_tried = retries.retry_ignore_previous_hosts.unwrap_or(true);
        policy
    }

    fn retry_on(&mut self, field: &str, name: &str, policy: &mut RetryPolicy) {
        let status = name.parse().ok().filter(|code| (200..600).contains(code));
        if let Some(on) = RetryOn::from_name(name) {
            policy.on = policy.on.and(on);
        } else if let Some(code) = status {
            policy.statuses.push(code);
        } else if NOT_HONOURED.contains(&name) {
            let text = format!("{name} is not honoured yet; it has no effect");
            self.notes.push(Note::new(field, text));
        } else if name != "retriable-status-codes" {
            // That one only says that numbers stand beside it.
            let text = format!("{name:?} is no condition to retry on");
            self.errors.push(Note::new(field, text));
        }
    }
}
