//! SPIFFE IDs, against the words of the form and not the parser's own steps.

use linnet_mesh::SpiffeId;

/// A text is an identity of the mesh, or not.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parts = parts(text);
    match text.parse::<SpiffeId>() {
        Ok(id) => {
            let told = (id.trust_domain(), id.namespace(), id.service_account());
            assert_eq!(Some(told), parts, "{text:?}");
            assert_eq!(id.as_str(), text);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        Err(error) => {
            assert_eq!(parts, None, "{text:?}");
            assert!(error.to_string().len() < 1024, "an error of bounded length");
        }
    }
}

fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let segments: Vec<&str> = text.split('/').collect();
    let ["spiffe:", "", domain, "ns", namespace, "sa", account] = segments[..] else {
        return None;
    };
    let all = |text: &str, more: &str| {
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9') || more.contains(c);
        !text.is_empty() && text.chars().all(allowed)
    };
    let name = |text: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| !"-.".contains(c));
        text.len() <= 253
            && all(text, "-.")
            && edge(text.chars().next())
            && edge(text.chars().last())
    };
    let domain_fits = domain.len() <= 255 && all(domain, "-._");
    (domain_fits && name(namespace) && name(account)).then_some((domain, namespace, account))
}
