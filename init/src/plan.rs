//! The redirect plan as data: what each of Linnet's chains holds, per family.
//!
//! Two chains in the nat table, one per direction, each reached by a single
//! jump. Order is the meaning: what is exempt returns first, skips come before
//! includes, redirection is last. Only TCP ever enters the chains, so DNS over
//! UDP and everything else pass untouched.
//!
//! Traffic that a process sends to its own pod travels over `lo`: it leaves
//! through OUTPUT and does not meet PREROUTING's rules again, so it reaches the
//! app without either listener.

use std::fmt;

use ipnet::IpNet;

use crate::settings::{PortRange, Selection, Settings};

/// Every chain of ours starts with this, also in plans of other versions.
pub const CHAIN_PREFIX: &str = "LINNET_";
/// Connections that arrive at the pod.
pub const INBOUND_CHAIN: &str = "LINNET_INBOUND";
/// Connections that the pod opens.
pub const OUTBOUND_CHAIN: &str = "LINNET_OUTBOUND";

/// An address family; each has tables of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn holds(self, net: &IpNet) -> bool {
        matches!(
            (self, net),
            (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_))
        )
    }

    fn loopback(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert(
                std::net::Ipv4Addr::new(127, 0, 0, 0),
                8,
            )),
            Self::V6 => IpNet::V6(ipnet::Ipv6Net::new_assert(
                std::net::Ipv6Addr::LOCALHOST,
                128,
            )),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The chains of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Ours, each with the built-in chain that jumps to it.
    pub chains: [Chain; 2],
}

/// One of our chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// The built-in chain whose TCP connections enter it.
    pub entered_from: &'static str,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// One rule; it applies to TCP only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it matches; `None` is everything.
    pub condition: Option<Condition>,
    /// What happens then.
    pub target: Target,
}

/// What a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The destination port.
    Ports(PortRange),
    /// The destination address.
    Destination(IpNet),
    /// Leaves through the loopback interface.
    Loopback,
    /// Sent by this user.
    User(u32),
    /// Sent by this group.
    Group(u32),
}

/// What happens to a connection that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// It goes its way.
    Return,
    /// It is handed to this local port.
    Redirect(u16),
}

impl Plan {
    /// The plan for one family.
    pub fn new(settings: &Settings, family: Family) -> Self {
        Self {
            chains: [inbound(settings), outbound(settings, family)],
        }
    }
}

fn inbound(settings: &Settings) -> Chain {
    let redirect = Target::Redirect(settings.inbound_port);
    let mut rules = for_ports(&settings.reserved, Target::Return);
    rules.extend(for_ports(&settings.skip_inbound, Target::Return));
    match &settings.include_inbound {
        Selection::All => rules.push(Rule {
            condition: None,
            target: redirect,
        }),
        Selection::Only(ports) => rules.extend(for_ports(ports, redirect)),
    }
    Chain {
        name: INBOUND_CHAIN,
        entered_from: "PREROUTING",
        rules,
    }
}

fn outbound(settings: &Settings, family: Family) -> Chain {
    let redirect = Target::Redirect(settings.outbound_port);
    let mut rules: Vec<Rule> = [
        Condition::User(settings.proxy_uid),
        Condition::Group(settings.proxy_gid),
        Condition::Loopback,
        Condition::Destination(family.loopback()),
    ]
    .map(|condition| Rule {
        condition: Some(condition),
        target: Target::Return,
    })
    .into();
    rules.extend(for_ports(&settings.reserved, Target::Return));
    rules.extend(for_ports(&settings.skip_outbound, Target::Return));
    rules.extend(for_destinations(
        &settings.skip_outbound_cidrs,
        family,
        Target::Return,
    ));
    rules.extend(for_ports(&settings.include_outbound, redirect));
    match &settings.include_outbound_cidrs {
        Selection::All => rules.push(Rule {
            condition: None,
            target: redirect,
        }),
        Selection::Only(nets) => rules.extend(for_destinations(nets, family, redirect)),
    }
    Chain {
        name: OUTBOUND_CHAIN,
        entered_from: "OUTPUT",
        rules,
    }
}

fn for_ports(ports: &[PortRange], target: Target) -> Vec<Rule> {
    ports
        .iter()
        .map(|range| Rule {
            condition: Some(Condition::Ports(*range)),
            target,
        })
        .collect()
}

fn for_destinations(nets: &[IpNet], family: Family, target: Target) -> Vec<Rule> {
    nets.iter()
        .filter(|net| family.holds(net))
        .map(|net| Rule {
            condition: Some(Condition::Destination(*net)),
            target,
        })
        .collect()
}

#[cfg(test)]
mod tests;
