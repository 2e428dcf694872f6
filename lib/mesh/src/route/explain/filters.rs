//! What a rule does to a request besides choosing a backend, in words.

use crate::route::{
    AbortStatus, Answer, Fault, Filters, HeaderEdits, HeaderFilters, PathRewrite, Redirect,
    RequestParts, RetryPolicy, Rewrite, Share, StringMatch,
};

/// A filter's name and what it does.
pub type Words = (&'static str, String);

impl Filters {
    /// What the filters do to a request that the rule matched by `matched`, in
    /// the order in which they act.
    pub fn words(&self, request: &RequestParts<'_>, matched: Option<&StringMatch>) -> Vec<Words> {
        // Each field by name: a new one must find its words here.
        let Self {
            cors,
            answer,
            fault,
            rewrite,
            headers,
            timeout,
            retry,
            mirrors,
        } = self;
        let mut words = Vec::new();
        if let Some(fault) = fault {
            fault_words(fault, &mut words);
        }
        if let Some(cors) = cors {
            let credentials = if cors.credentials {
                ", with credentials"
            } else {
                ""
            };
            let origins = cors.origins.len();
            words.push((
                "cors",
                format!("pages of {origins} origins may call{credentials}"),
            ));
        }
        if let Some(answer) = answer {
            words.push(("answer", answer_words(answer, request, matched)));
        }
        if let Some(rewrite) = rewrite {
            words.push(("rewrite", rewrite_words(rewrite, request, matched)));
        }
        headers.words("headers", &mut words);
        if let Some(timeout) = timeout {
            words.push(("timeout", format!("{timeout:?}")));
        }
        if let Some(retry) = retry {
            words.push(("retries", retry.words()));
        }
        for mirror in mirrors {
            let backend = &mirror.backend;
            let subset = backend.subset.as_deref();
            let subset = subset.map(|name| format!(" subset {name}"));
            let text = format!(
                "a copy of {} goes to {}{}",
                percent(mirror.share),
                backend.service,
                subset.unwrap_or_default()
            );
            words.push(("mirror", text));
        }
        words
    }
}

impl HeaderFilters {
    /// The edits of both heads, under this name.
    pub fn words(&self, name: &'static str, words: &mut Vec<Words>) {
        for (which, edits) in [("request", &self.request), ("response", &self.response)] {
            if !edits.is_empty() {
                words.push((name, format!("of the {which}: {}", edits.words())));
            }
        }
    }
}

impl HeaderEdits {
    fn words(&self) -> String {
        let removed = self.remove.iter().map(|name| format!("remove {name}"));
        let pair = |verb: &'static str| {
            move |(name, value): &(http::HeaderName, http::HeaderValue)| {
                format!(
                    "{verb} {name}: {}",
                    String::from_utf8_lossy(value.as_bytes())
                )
            }
        };
        let set = self.set.iter().map(pair("set"));
        let added = self.add.iter().map(pair("add"));
        let all: Vec<String> = removed.chain(set).chain(added).collect();
        all.join(", ")
    }
}

impl RetryPolicy {
    /// `2 at most, on connect-failure, 503, each within 1s`.
    pub fn words(&self) -> String {
        if self.attempts == 0 {
            return "none".to_owned();
        }
        let mut on: Vec<String> = self.on.names().into_iter().map(str::to_owned).collect();
        on.extend(self.statuses.iter().map(ToString::to_string));
        let each = self
            .per_try_timeout
            .map(|limit| format!(", each within {limit:?}"));
        format!(
            "{} at most, on {}{}",
            self.attempts,
            on.join(", "),
            each.unwrap_or_default()
        )
    }
}

fn fault_words(fault: &Fault, words: &mut Vec<Words>) {
    if let Some(delay) = fault.delay {
        let text = format!("{} wait {:?}", percent(delay.share), delay.duration);
        words.push(("delay", text));
    }
    if let Some(abort) = fault.abort {
        let status = match abort.status {
            AbortStatus::Http(status) => format!("{}", status.as_u16()),
            AbortStatus::Grpc(code) => format!("gRPC status {code}"),
        };
        let text = format!("{} are answered {status}", percent(abort.share));
        words.push(("abort", text));
    }
}

fn answer_words(
    answer: &Answer,
    request: &RequestParts<'_>,
    matched: Option<&StringMatch>,
) -> String {
    match answer {
        Answer::Redirect(redirect) => redirect_words(redirect, request, matched),
        Answer::Direct(direct) => {
            let length = direct.body.len();
            format!("{} with a body of {length} bytes", direct.status.as_u16())
        }
    }
}

fn redirect_words(
    redirect: &Redirect,
    request: &RequestParts<'_>,
    matched: Option<&StringMatch>,
) -> String {
    let query = Some(request.query).filter(|query| !query.is_empty());
    let location = redirect.location(request, query, matched);
    format!("{} to {location}", redirect.status.as_u16())
}

fn rewrite_words(
    rewrite: &Rewrite,
    request: &RequestParts<'_>,
    matched: Option<&StringMatch>,
) -> String {
    let path = rewrite.path.as_ref().map(|path: &PathRewrite| {
        let new = path.rewritten(matched, request.path);
        format!("path {} becomes {new}", request.path)
    });
    let authority = rewrite
        .authority
        .as_ref()
        .map(|new| format!("authority {} becomes {new}", request.authority));
    let all: Vec<String> = path.into_iter().chain(authority).collect();
    all.join(", ")
}

/// `100 %`, `0.5 %`.
fn percent(share: Share) -> String {
    format!("{} %", f64::from(share.per_million) / 10_000.0)
}
