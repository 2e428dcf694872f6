//! Where a sidecar listens.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    str::FromStr,
    sync::LazyLock,
};

/// Where connections of the workload come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundListener {
    /// Redirected by the pod's rules; the original destination tells where to.
    Redirected(SocketAddr),
    /// All for one service.
    Explicit {
        /// Where to listen.
        listen: SocketAddr,
        /// The service, `name:port`.
        host: String,
    },
}

/// Where connections to the workload come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundListener {
    /// Redirected by the pod's rules; the original destination tells the port.
    Redirected(SocketAddr),
    /// All for one port of the workload.
    Explicit {
        /// Where to listen.
        listen: SocketAddr,
        /// Where the workload listens.
        app: SocketAddr,
    },
}

impl FromStr for OutboundListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, host) = pair(text, "127.0.0.1:8001=payment.default.svc.cluster.local:80")?;
        Ok(Self::Explicit {
            listen,
            host: host_and_port(host)?,
        })
    }
}

impl FromStr for InboundListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, app) = pair(text, "0.0.0.0:8443=127.0.0.1:8080")?;
        Ok(Self::Explicit {
            listen,
            app: address(app)?,
        })
    }
}

fn pair<'a>(text: &'a str, example: &str) -> Result<(SocketAddr, &'a str), String> {
    let (listen, target) = text
        .split_once('=')
        .ok_or_else(|| format!("no '=' in it (an example: {example})"))?;
    Ok((address(listen)?, target.trim()))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{text:?} is not address:port"))
}

/// Checks `host:port`; the host is a DNS name or an address, an IPv6 one in
/// brackets.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_name = |host: &str| {
        !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    let valid = text.parse::<SocketAddr>().is_ok_and(|a| a.port() > 0)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            is_name(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    if valid {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not host:port"))
    }
}

/// All of the pod's addresses: `::`, which takes IPv4 connections too, or
/// `0.0.0.0` where there is no IPv6.
pub(super) fn unspecified() -> IpAddr {
    static UNSPECIFIED: LazyLock<IpAddr> = LazyLock::new(|| {
        if TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        }
    });
    *UNSPECIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_checked() {
        for good in [
            "payment.default.svc.cluster.local:80",
            "linnet-controller.linnet-system.svc:15010",
            "10.0.0.1:80",
            "[fd00::1]:80",
        ] {
            assert_eq!(host_and_port(good), Ok(good.to_owned()));
        }
        for bad in [
            "payment",
            "payment:",
            ":80",
            "payment:0",
            "payment:70000",
            "fd00::1:80",
            "a b:80",
            "http://payment:80",
            "[fd00::1]:0",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unspecified_address_takes_connections() {
        let listener = TcpListener::bind((unspecified(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
