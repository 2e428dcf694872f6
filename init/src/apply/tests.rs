use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use super::*;
use crate::settings::Args;
use clap::Parser;

/// Programs that keep one table each and can be told to fail.
#[derive(Default)]
struct Scripted {
    tables: RefCell<HashMap<String, String>>,
    failures: HashMap<String, Failure>,
    restored: RefCell<Vec<String>>,
}

enum Failure {
    NotInstalled,
    Prints(&'static str),
    LosesRules,
}

impl Scripted {
    fn holding(mut self, table: &str, rules: &str) -> Self {
        self.tables
            .get_mut()
            .insert(table.to_owned(), rules.to_owned());
        self
    }

    fn failing(mut self, program: &str, failure: Failure) -> Self {
        self.failures.insert(program.to_owned(), failure);
        self
    }
}

impl Commands for Scripted {
    fn run(&self, program: &str, _arguments: &[&str], input: &str) -> io::Result<Finished> {
        let failure = self.failures.get(program);
        match failure {
            Some(Failure::NotInstalled) => return Err(io::ErrorKind::NotFound.into()),
            Some(Failure::Prints(stderr)) => {
                return Ok(Finished {
                    stderr: (*stderr).to_owned(),
                    ..Finished::default()
                });
            }
            Some(Failure::LosesRules) | None => {}
        }
        let (table, action) = program.rsplit_once('-').unwrap();
        let mut tables = self.tables.borrow_mut();
        let held = tables.entry(table.to_owned()).or_default();
        if action == "restore" {
            self.restored.borrow_mut().push(table.to_owned());
            if failure.is_none() {
                *held = input.to_owned();
            }
        }
        Ok(Finished {
            success: true,
            stdout: held.clone(),
            ..Finished::default()
        })
    }
}

const NO_TABLE: Failure = Failure::Prints(
    "iptables-save v1.8.9 (legacy): Cannot initialize: Table does not exist (do you need to insmod?)",
);
const NO_CAPABILITY: Failure =
    Failure::Prints("Could not fetch rule set generation id: Permission denied (you must be root)");

fn settings() -> Settings {
    Settings::parse(&Args::parse_from(["linnet-init"])).unwrap()
}

fn auto(commands: &Scripted, ipv6: Ipv6) -> Result<Vec<String>, Error> {
    apply(&settings(), Choice::Auto, ipv6, commands)
}

#[test]
fn a_bare_namespace_gets_nft_in_both_families() {
    let commands = Scripted::default();
    let lines = auto(&commands, Ipv6::Routable).unwrap();
    assert_eq!(
        *commands.restored.borrow(),
        ["iptables-nft", "ip6tables-nft"]
    );
    assert!(lines[0].starts_with("IPv4: TCP redirected"), "{lines:?}");
    assert!(lines[1].starts_with("IPv6: TCP redirected"), "{lines:?}");
}

#[test]
fn the_backend_that_holds_rules_is_preferred_and_ours_count_most() {
    let foreign = "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n";
    let commands = Scripted::default().holding("iptables-legacy", foreign);
    auto(&commands, Ipv6::Routable).unwrap();
    assert_eq!(
        *commands.restored.borrow(),
        ["iptables-legacy", "ip6tables-legacy"]
    );

    let commands = Scripted::default()
        .holding("iptables-nft", foreign)
        .holding(
            "iptables-legacy",
            "*nat\n:LINNET_INBOUND - [0:0]\n-A PREROUTING -p tcp -j LINNET_INBOUND\nCOMMIT\n",
        );
    auto(&commands, Ipv6::Routable).unwrap();
    assert_eq!(commands.restored.borrow()[0], "iptables-legacy");
}

#[test]
fn legacy_is_used_where_nft_fails_and_the_log_says_why() {
    let commands = Scripted::default().failing(
        "iptables-nft-restore",
        Failure::Prints("Protocol not supported"),
    );
    let lines = auto(&commands, Ipv6::Routable).unwrap();
    assert_eq!(
        *commands.restored.borrow(),
        ["iptables-legacy", "ip6tables-legacy"]
    );
    assert!(lines[0].contains("Protocol not supported"), "{lines:?}");
}

#[test]
fn an_explicit_backend_is_the_only_one_tried() {
    let commands = Scripted::default().failing("iptables-legacy-save", NO_TABLE);
    let error = apply(&settings(), Choice::Legacy, Ipv6::Routable, &commands).unwrap_err();
    assert!(matches!(error, Error::Kernel { .. }), "{error}");
    assert!(
        error.to_string().contains("modprobe -a iptable_nat"),
        "{error}"
    );
    assert!(commands.restored.borrow().is_empty());
}

#[test]
fn a_missing_capability_is_named() {
    let commands = Scripted::default()
        .failing("iptables-nft-save", NO_CAPABILITY)
        .failing("iptables-legacy-save", NO_CAPABILITY);
    let error = auto(&commands, Ipv6::Routable).unwrap_err().to_string();
    assert!(
        error.contains("neither backend works") && error.contains("NET_ADMIN"),
        "{error}"
    );
}

#[test]
fn a_missing_program_is_named() {
    let commands = Scripted::default()
        .failing("iptables-nft-save", Failure::NotInstalled)
        .failing("iptables-legacy-save", Failure::NotInstalled);
    let error = auto(&commands, Ipv6::Routable).unwrap_err().to_string();
    assert!(
        error.contains("iptables-nft-save is not installed: use Linnet's init image"),
        "{error}"
    );
}

#[test]
fn rules_that_vanish_are_noticed() {
    let commands = Scripted::default().failing("iptables-nft-restore", Failure::LosesRules);
    let error = apply(&settings(), Choice::Nft, Ipv6::Routable, &commands).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotInPlace {
                family: Family::V4,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn ipv6_may_be_missing_but_not_open() {
    let broken = || {
        Scripted::default().failing(
            "ip6tables-nft-save",
            Failure::Prints("Table does not exist"),
        )
    };
    let lines = auto(&broken(), Ipv6::Absent).unwrap();
    assert!(
        lines[1].starts_with("IPv6: the kernel has none"),
        "{lines:?}"
    );
    let lines = auto(&broken(), Ipv6::LinkLocal).unwrap();
    assert!(lines[1].starts_with("IPv6: not redirected"), "{lines:?}");
    let error = auto(&broken(), Ipv6::Routable).unwrap_err();
    assert!(matches!(error, Error::Kernel { .. }), "{error}");
}

#[test]
fn ipv6_scopes_are_told_apart() {
    let loopback = "00000000000000000000000000000001 01 80 10 80       lo\n";
    let link = "fe8000000000000000000000000000ff 02 40 20 80     eth0\n";
    let global = "fd000198001801280000000000000002 02 40 00 82     eth0\n";
    assert_eq!(Ipv6::parse(""), Ipv6::LinkLocal);
    assert_eq!(Ipv6::parse(&format!("{loopback}{link}")), Ipv6::LinkLocal);
    assert_eq!(
        Ipv6::parse(&format!("{loopback}{link}{global}")),
        Ipv6::Routable
    );
}
