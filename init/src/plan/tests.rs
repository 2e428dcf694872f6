use super::*;
use crate::settings::Args;
use clap::Parser;

fn plan(line: &[&str], family: Family) -> Plan {
    let args = Args::parse_from(std::iter::once(&"linnet-init").chain(line));
    Plan::new(&Settings::parse(&args).unwrap(), family)
}

fn position(chain: &Chain, wanted: &Condition) -> Option<usize> {
    chain
        .rules
        .iter()
        .position(|rule| rule.condition.as_ref() == Some(wanted))
}

fn ports(first: u16, last: u16) -> Condition {
    Condition::Ports(PortRange { first, last })
}

#[test]
fn by_default_the_last_rule_of_each_chain_redirects_the_rest() {
    for family in Family::ALL {
        let [inbound, outbound] = plan(&[], family).chains;
        let last = |chain: &Chain| chain.rules.last().cloned();
        assert_eq!(
            last(&inbound),
            Some(Rule {
                condition: None,
                target: Target::Redirect(15006)
            })
        );
        assert_eq!(
            last(&outbound),
            Some(Rule {
                condition: None,
                target: Target::Redirect(15001)
            })
        );
    }
}

/// A connection as far as any rule looks at it.
#[derive(Clone, Copy)]
struct Connection {
    to: std::net::IpAddr,
    port: u16,
    user: u32,
    group: u32,
    loopback: bool,
}

/// What the kernel does with a connection that enters a chain: the first rule
/// that matches decides.
fn fate(chain: &Chain, connection: Connection) -> Target {
    let matches = |condition: &Condition| match condition {
        Condition::Ports(range) => (range.first..=range.last).contains(&connection.port),
        Condition::Destination(net) => net.contains(&connection.to),
        Condition::Loopback => connection.loopback,
        Condition::User(user) => connection.user == *user,
        Condition::Group(group) => connection.group == *group,
    };
    let first = chain
        .rules
        .iter()
        .find(|rule| rule.condition.as_ref().is_none_or(matches));
    first.map_or(Target::Return, |rule| rule.target)
}

fn elsewhere(family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => "198.18.0.1",
        Family::V6 => "2001:db8::1",
    }
    .parse()
    .unwrap()
}

/// Arguments, and the ports that are exempt in each direction.
type Case = (&'static [&'static str], [&'static [u16]; 2]);

/// Every port, in both directions and families, under the default settings and
/// with listeners and skips of the pod's own: exempt if and only if it is named.
#[test]
fn a_port_is_exempt_if_and_only_if_it_is_named() {
    let cases: [Case; 3] = [
        (&[], [&[15001, 15006, 15020], &[15001, 15006, 15020]]),
        (
            &["--inbound-port", "16006", "--outbound-port", "15000"],
            [&[16006, 15000, 15020], &[16006, 15000, 15020]],
        ),
        (
            &[
                "--skip-inbound-ports",
                "22,15090-15091",
                "--skip-outbound-ports",
                "25",
            ],
            [
                &[15001, 15006, 15020, 22, 15090, 15091],
                &[15001, 15006, 15020, 25],
            ],
        ),
    ];
    for (line, named) in cases {
        for family in Family::ALL {
            for (chain, named) in plan(line, family).chains.iter().zip(named) {
                for port in 1..=u16::MAX {
                    let connection = Connection {
                        to: elsewhere(family),
                        port,
                        user: 0,
                        group: 0,
                        loopback: false,
                    };
                    let exempt = fate(chain, connection) == Target::Return;
                    assert_eq!(
                        exempt,
                        named.contains(&port),
                        "{line:?} {family} {} {port}",
                        chain.name
                    );
                }
            }
        }
    }
}

/// Every reason besides the port for which a connection is exempt.
#[test]
fn only_the_sidecar_and_loopback_are_exempt_besides() {
    for family in Family::ALL {
        let [inbound, outbound] = plan(&[], family).chains;
        let loopback = match family {
            Family::V4 => ["127.0.0.1", "127.255.0.9"],
            Family::V6 => ["::1", "::1"],
        }
        .map(|text| text.parse().unwrap());
        for number in (0..=3000).chain([65_534, 65_535, u32::MAX]) {
            for (user, group) in [(number, 1000), (1000, number)] {
                let connection = Connection {
                    to: elsewhere(family),
                    port: 80,
                    user,
                    group,
                    loopback: false,
                };
                let exempt = fate(&outbound, connection) == Target::Return;
                assert_eq!(exempt, number == 1337, "{family} {user} {group}");
                // What arrives has no user: nothing in the pod exempts it.
                assert_eq!(fate(&inbound, connection), Target::Redirect(15006));
                for to in loopback {
                    let own = Connection { to, ..connection };
                    assert_eq!(fate(&outbound, own), Target::Return, "{family} {to}");
                }
                let own = Connection {
                    loopback: true,
                    ..connection
                };
                assert_eq!(fate(&outbound, own), Target::Return, "{family} lo");
            }
        }
    }
}

#[test]
fn skips_come_before_includes() {
    let [inbound, outbound] = plan(
        &[
            "--skip-inbound-ports",
            "80",
            "--include-inbound-ports",
            "80-90",
            "--skip-outbound-ports",
            "443",
            "--include-outbound-ports",
            "443-500",
            "--skip-outbound-cidrs",
            "10.1.0.0/16",
            "--include-outbound-cidrs",
            "10.0.0.0/8",
        ],
        Family::V4,
    )
    .chains;
    assert!(position(&inbound, &ports(80, 80)) < position(&inbound, &ports(80, 90)));
    assert!(position(&outbound, &ports(443, 443)) < position(&outbound, &ports(443, 500)));
    let net = |text: &str| Condition::Destination(text.parse().unwrap());
    assert!(position(&outbound, &net("10.1.0.0/16")) < position(&outbound, &ports(443, 500)));
    assert!(position(&outbound, &net("10.1.0.0/16")) < position(&outbound, &net("10.0.0.0/8")));
}

#[test]
fn a_family_sees_only_its_own_cidrs() {
    let line = [
        "--include-outbound-cidrs",
        "10.0.0.0/8",
        "--skip-outbound-cidrs",
        "fd00::/8",
    ];
    let redirects = |family| {
        let [_, outbound] = plan(&line, family).chains;
        outbound
            .rules
            .iter()
            .filter(|rule| rule.target != Target::Return)
            .count()
    };
    assert_eq!((redirects(Family::V4), redirects(Family::V6)), (1, 0));
    let [_, v4] = plan(&line, Family::V4).chains;
    assert_eq!(
        position(&v4, &Condition::Destination("fd00::/8".parse().unwrap())),
        None
    );
}

#[test]
fn an_empty_include_redirects_nothing() {
    let line = [
        "--include-inbound-ports",
        "",
        "--include-outbound-cidrs",
        "",
    ];
    for chain in plan(&line, Family::V4).chains {
        assert!(
            chain.rules.iter().all(|rule| rule.target == Target::Return),
            "{chain:?}"
        );
    }
}
