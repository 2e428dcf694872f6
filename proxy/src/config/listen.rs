//! Where a sidecar listens.

use linnet_runtime::settings::host_and_port;
use std::{net::SocketAddr, str::FromStr};

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
