//! What was typed (`Args`) and what it means (`Settings`).
//!
//! Lists arrive as text from pod annotations that people write by hand, so
//! every mistake in every list is reported in one go, each with its flag.
//! A skip always wins over an include.

use std::fmt;
use std::net::IpAddr;

use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use linnet_mesh::names;

/// Redirects the TCP traffic of this network namespace to the sidecar.
#[derive(Debug, Clone, Parser)]
#[command(name = "linnet-init", version)]
pub struct Args {
    /// User the sidecar runs as; its own connections are not redirected.
    #[arg(long, default_value_t = names::PROXY_UID)]
    pub proxy_uid: u32,
    /// Group the sidecar runs as; the user's number when absent.
    #[arg(long)]
    pub proxy_gid: Option<u32>,
    /// Port of the sidecar's inbound listener.
    #[arg(long, default_value_t = names::port::INBOUND)]
    pub inbound_port: u16,
    /// Port of the sidecar's outbound listener.
    #[arg(long, default_value_t = names::port::OUTBOUND)]
    pub outbound_port: u16,
    /// Ports left alone on their way in: `22,8000-8010`.
    #[arg(long, default_value = "", value_name = "PORTS")]
    pub skip_inbound_ports: String,
    /// Ports redirected on their way in: `*` for all, empty for none.
    #[arg(long, default_value = "*", value_name = "PORTS")]
    pub include_inbound_ports: String,
    /// Destination ports left alone on their way out.
    #[arg(long, default_value = "", value_name = "PORTS")]
    pub skip_outbound_ports: String,
    /// Destination ports redirected whatever their address; `*` (or empty)
    /// leaves the choice to --include-outbound-cidrs.
    #[arg(long, default_value = "*", value_name = "PORTS")]
    pub include_outbound_ports: String,
    /// Destinations left alone, IPv4 and IPv6: `10.0.0.0/8,fd00::/8`.
    #[arg(long, default_value = "", value_name = "CIDRS")]
    pub skip_outbound_cidrs: String,
    /// Destinations redirected: `*` for all, empty for none.
    #[arg(long, default_value = "*", value_name = "CIDRS")]
    pub include_outbound_cidrs: String,
    /// Which of the kernel's two rule engines to write to.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    pub backend: Choice,
    /// Print the rules instead of applying them.
    #[arg(long)]
    pub dry_run: bool,
}

/// The backend asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The one that holds rules already, else nft where it works, else legacy.
    Auto,
    /// nf_tables.
    Nft,
    /// x_tables.
    Legacy,
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// One port.
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Sorted, with overlapping and adjacent ranges joined.
    pub fn merged(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.sort_unstable();
        let mut merged: Vec<Self> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(previous) if range.first <= previous.last.saturating_add(1) => {
                    previous.last = previous.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        merged
    }

    fn parse(text: &str) -> Result<Self, String> {
        let port = |text: &str| match text.trim().parse::<u16>() {
            Ok(0) | Err(_) => Err(format!(
                "`{text}` is not a port; write a number from 1 to 65535"
            )),
            Ok(port) => Ok(port),
        };
        let Some((first, last)) = text.split_once(['-', ':']) else {
            return port(text).map(Self::single);
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("`{text}` runs backwards; write {last}-{first}"));
        }
        Ok(Self { first, last })
    }
}

/// All of something, or only what is listed (possibly nothing).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection<T> {
    /// Everything.
    All,
    /// These.
    Only(Vec<T>),
}

/// Validated settings; what `plan` works from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The sidecar's user.
    pub proxy_uid: u32,
    /// The sidecar's group.
    pub proxy_gid: u32,
    /// Where inbound connections go.
    pub inbound_port: u16,
    /// Where outbound connections go.
    pub outbound_port: u16,
    /// The sidecar's own ports, never redirected in either direction.
    pub reserved: Vec<PortRange>,
    /// Inbound ports left alone.
    pub skip_inbound: Vec<PortRange>,
    /// Inbound ports redirected.
    pub include_inbound: Selection<PortRange>,
    /// Outbound ports left alone.
    pub skip_outbound: Vec<PortRange>,
    /// Outbound ports redirected even outside `include_outbound_cidrs`.
    pub include_outbound: Vec<PortRange>,
    /// Destinations left alone.
    pub skip_outbound_cidrs: Vec<IpNet>,
    /// Destinations redirected.
    pub include_outbound_cidrs: Selection<IpNet>,
}

/// Every mistake in the arguments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid arguments (they come from the pod's traffic annotations): {}",
            self.0.join("; ")
        )
    }
}

impl Settings {
    /// Validates the arguments, reporting every mistake at once.
    pub fn parse(args: &Args) -> Result<Self, Invalid> {
        let mut mistakes = Vec::new();
        if args.proxy_uid == 0 || args.proxy_gid == Some(0) {
            mistakes.push(
                "--proxy-uid and --proxy-gid: 0 would exempt everything that runs as root; \
                 give the sidecar a user of its own"
                    .to_owned(),
            );
        }
        if args.inbound_port == 0 || args.outbound_port == 0 {
            mistakes.push("--inbound-port and --outbound-port: 0 is not a port".to_owned());
        }
        if args.inbound_port == args.outbound_port {
            mistakes.push(format!(
                "--inbound-port and --outbound-port are both {}; the two listeners need a port each",
                args.inbound_port
            ));
        }
        let mut ports = |flag, text: &str| list(flag, text, PortRange::parse, &mut mistakes);
        let skip_inbound = ports("--skip-inbound-ports", &args.skip_inbound_ports);
        let include_inbound = ports("--include-inbound-ports", &args.include_inbound_ports);
        let skip_outbound = ports("--skip-outbound-ports", &args.skip_outbound_ports);
        let include_outbound = ports("--include-outbound-ports", &args.include_outbound_ports);
        let mut cidrs = |flag, text: &str| list(flag, text, cidr, &mut mistakes);
        let skip_cidrs = cidrs("--skip-outbound-cidrs", &args.skip_outbound_cidrs);
        let include_cidrs = cidrs("--include-outbound-cidrs", &args.include_outbound_cidrs);

        let skip_inbound = listed("--skip-inbound-ports", skip_inbound, &mut mistakes);
        let skip_outbound = listed("--skip-outbound-ports", skip_outbound, &mut mistakes);
        let skip_outbound_cidrs = listed("--skip-outbound-cidrs", skip_cidrs, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Invalid(mistakes));
        }
        Ok(Self {
            proxy_uid: args.proxy_uid,
            proxy_gid: args.proxy_gid.unwrap_or(args.proxy_uid),
            inbound_port: args.inbound_port,
            outbound_port: args.outbound_port,
            reserved: reserved(args.inbound_port, args.outbound_port),
            skip_inbound: PortRange::merged(skip_inbound),
            include_inbound: match include_inbound {
                Selection::All => Selection::All,
                Selection::Only(ports) => Selection::Only(PortRange::merged(ports)),
            },
            skip_outbound: PortRange::merged(skip_outbound),
            include_outbound: match include_outbound {
                Selection::All => Vec::new(),
                Selection::Only(ports) => PortRange::merged(ports),
            },
            skip_outbound_cidrs,
            include_outbound_cidrs: include_cidrs,
        })
    }
}

/// The ports that the sidecar listens on for others: a connection straight to a
/// listener would otherwise be handed to that listener again and again. Every
/// other port is redirected, so that no application gets around the sidecar by
/// the port it chooses.
fn reserved(inbound_port: u16, outbound_port: u16) -> Vec<PortRange> {
    let ports = names::port::NOT_REDIRECTED.map(|port| match port {
        names::port::INBOUND => inbound_port,
        names::port::OUTBOUND => outbound_port,
        other => other,
    });
    PortRange::merged(ports.map(PortRange::single).into())
}

fn list<T>(
    flag: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    mistakes: &mut Vec<String>,
) -> Selection<T> {
    if text.trim() == "*" {
        return Selection::All;
    }
    let mut values = Vec::new();
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        match parse(item) {
            Ok(value) => values.push(value),
            Err(mistake) => mistakes.push(format!("{flag}: {mistake}")),
        }
    }
    Selection::Only(values)
}

/// A skip list's values; `*` is what an empty include list is for.
fn listed<T>(flag: &str, selection: Selection<T>, mistakes: &mut Vec<String>) -> Vec<T> {
    match selection {
        Selection::Only(values) => values,
        Selection::All => {
            let include = flag.replace("skip", "include");
            mistakes.push(format!(
                "{flag}: `*` is not a list; to redirect nothing leave {include} empty"
            ));
            Vec::new()
        }
    }
}

fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| format!("`{text}` is not a CIDR; write an address and a prefix, such as 10.0.0.0/8 or fd00::/8"))
}

#[cfg(test)]
mod tests;
