//! What a path comes down to, so that a policy can't be walked around by
//! another spelling of the same path.

use std::borrow::Cow;

/// The path without its query, percent-encoded unreserved characters and
/// slashes decoded, backslashes turned, slashes merged, and dot segments (also
/// `..;x`, which some servers take for one) resolved.
pub fn normalize(path: &str) -> Cow<'_, str> {
    let path = without_query(path);
    if is_normal(path) {
        return Cow::Borrowed(path);
    }
    let decoded = decode(path);
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in decoded.split('/') {
        let name = segment.split(';').next().unwrap_or(segment);
        directory = matches!(name, "." | "..") || segment.is_empty();
        match name {
            ".." => {
                segments.pop();
            }
            "." => {}
            _ if segment.is_empty() => {}
            _ => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if directory || normal.is_empty() {
        normal.push('/');
    }
    Cow::Owned(normal)
}

/// The path as it was sent, without query and fragment.
pub(super) fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or(path)
}

fn is_normal(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains(['%', '\\'])
        && !path.contains("//")
        && !path.contains("/.")
}

/// Decodes what means the same encoded and plain (RFC 3986, 2.3), and slashes.
fn decode(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        decoded.push_str(&rest[..at]);
        if rest[at..].starts_with('\\') {
            decoded.push('/');
            rest = &rest[at + 1..];
            continue;
        }
        let code = rest
            .get(at + 1..at + 3)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let plain = match code {
            Some(b'/' | b'\\') => Some('/'),
            Some(b) if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => {
                Some(char::from(b))
            }
            _ => None,
        };
        match plain {
            Some(plain) => {
                decoded.push(plain);
                rest = &rest[at + 3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_path_are_one() {
        for (spelling, path) in [
            ("/", "/"),
            ("", "/"),
            ("/admin", "/admin"),
            ("/admin?x=/../", "/admin"),
            ("/admin#x", "/admin"),
            ("//admin", "/admin"),
            ("/./admin", "/admin"),
            ("/public/../admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/%2E./admin", "/admin"),
            ("/public%2f..%2Fadmin", "/admin"),
            ("/public\\..\\admin", "/admin"),
            ("/public%5c..%5Cadmin", "/admin"),
            ("/public/..;/admin", "/admin"),
            ("/public/..;a=b/admin", "/admin"),
            ("/.;/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/../../admin", "/admin"),
            ("/admin/", "/admin/"),
            ("/admin//", "/admin/"),
            ("/admin/.", "/admin/"),
            ("/admin/x/..", "/admin/"),
            ("/..", "/"),
            ("/admin;v=1/x", "/admin;v=1/x"),
            ("/a%20b", "/a%20b"),
            ("/a%2", "/a%2"),
            ("/a%zz", "/a%zz"),
            ("/a%é", "/a%é"),
            ("/.hidden", "/.hidden"),
            ("/...", "/..."),
        ] {
            assert_eq!(normalize(spelling), path, "{spelling}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_has_no_other_spelling(path in "[/.a%2fFeE;\\\\?]{0,24}") {
            let normal = normalize(&path).into_owned();
            prop_assert!(normal.starts_with('/'));
            prop_assert!(!normal.contains("//") && !normal.contains('\\'));
            prop_assert!(!normal.split('/').any(|segment| segment == ".." || segment == "."));
        }
    }
}
