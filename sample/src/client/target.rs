//! Where a call goes: a URL, or `host:port` for what has no URL.

use std::str::FromStr;

use http::uri::{Authority, PathAndQuery};

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// What HTTP calls the destination.
    pub authority: Authority,
    /// Path and query.
    pub path: PathAndQuery,
}

/// Why a text is no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A scheme this program does not speak.
    #[error("scheme `{0}` is unknown: use http, https, ws, grpc, tcp, or host:port alone")]
    Scheme(String),
    /// No host, or a malformed one.
    #[error("`{0}` names no host: write host:port or http://host:port/path")]
    Authority(String),
    /// A malformed path.
    #[error("path `{0}` is malformed")]
    Path(String),
    /// No port where the scheme implies none.
    #[error("`{0}` names no port: write host:port")]
    Port(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let implied = match scheme {
            Some("http" | "ws" | "grpc") => Some(80),
            Some("https") => Some(443),
            Some("tcp") | None => None,
            Some(other) => return Err(TargetError::Scheme(other.to_owned())),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let malformed = || TargetError::Authority(text.to_owned());
        let authority: Authority = authority.parse().map_err(|_| malformed())?;
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(malformed());
        }
        let port = authority
            .port_u16()
            .or(implied)
            .ok_or_else(|| TargetError::Port(text.to_owned()))?;
        let path_error = || TargetError::Path(path.to_owned());
        Ok(Self {
            host: host.to_owned(),
            port,
            path: path.parse().map_err(|_| path_error())?,
            authority,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_bare_addresses() {
        let target: Target = "http://payment/status/503?x=1".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("payment", 80));
        assert_eq!(target.path.as_str(), "/status/503?x=1");
        let target: Target = "[::1]:7000".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 7000));
        assert_eq!(target.path.as_str(), "/");
        let target: Target = "https://payment:8443".parse().unwrap();
        assert_eq!(target.port, 8443);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<Target>().unwrap_err().to_string();
        assert!(error("ftp://payment").contains("`ftp`"));
        assert!(error("payment").contains("names no port"));
        assert!(error("http:///x").contains("names no host"));
        assert!(error("http://a b/").contains("names no host"));
    }
}
