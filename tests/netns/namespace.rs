//! A pod and its neighbour: two network namespaces joined by a veth pair, with
//! the same addresses in every test, and gone when the test ends.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what cannot be set up fails the test that asked for it"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The pod's addresses. The benchmarking range is nobody's on the internet.
pub(crate) const POD_V4: &str = "198.18.128.2";
pub(crate) const POD_V6: &str = "fd00:198:18:128::2";
/// The neighbour's addresses.
pub(crate) const PEER_V4: &str = "198.18.128.1";
pub(crate) const PEER_V6: &str = "fd00:198:18:128::1";
/// An address on the link that nobody holds, as a service's address is.
pub(crate) const NOBODY_V4: &str = "198.18.128.77";
pub(crate) const NOBODY_V6: &str = "fd00:198:18:128::77";

/// Runs a program to its end; its standard output, or its standard error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run {program}: {error}; install iproute2, iptables and util-linux")
        });
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn must(program: &str, arguments: &[&str]) -> String {
    run(program, arguments).unwrap_or_else(|error| {
        panic!(
            "{program} {} failed (these tests need root): {error}",
            arguments.join(" ")
        )
    })
}

/// A network namespace, removed on drop.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "linnet-{role}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        must("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.must("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs a program inside.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let net = format!("--net=/run/netns/{}", self.name);
        run("nsenter", &[&[net.as_str(), program], arguments].concat())
    }

    pub(crate) fn must(&self, program: &str, arguments: &[&str]) -> String {
        self.run(program, arguments).unwrap_or_else(|error| {
            panic!(
                "{program} {} in {}: {error}",
                arguments.join(" "),
                self.name
            )
        })
    }

    /// Starts listeners inside and returns once they are bound.
    pub(crate) fn serve(&self, tcp: &str, udp: &str) -> Servers {
        self.start(&[PEER, "serve", "--tcp", tcp, "--udp", udp], &[])
    }

    /// Starts a role of the peer inside, and returns once it is ready.
    pub(crate) fn start(&self, command: &[&str], environment: &[(&str, String)]) -> Servers {
        let mut process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let servers = Servers { process };
        assert_eq!(
            line, "ready\n",
            "the listeners in {} did not start",
            self.name
        );
        servers
    }

    /// What answers a TCP connection from inside.
    pub(crate) fn tcp(&self, address: &str, port: u16) -> Result<String, String> {
        self.tcp_as(&[], address, port)
    }

    /// The same, with the process changed by `setpriv`'s arguments.
    pub(crate) fn tcp_as(
        &self,
        setpriv: &[&str],
        address: &str,
        port: u16,
    ) -> Result<String, String> {
        let target = socket(address, port);
        let ask = [PEER, "tcp", &target];
        let answer = match setpriv {
            [] => self.run(ask[0], &ask[1..]),
            _ => self.run("setpriv", &[setpriv, &["--clear-groups"], &ask].concat()),
        };
        answer.map(|line| line.trim().to_owned())
    }

    /// What answers a datagram from inside.
    pub(crate) fn udp(&self, address: &str, port: u16) -> Result<String, String> {
        self.run(PEER, &["udp", &socket(address, port)])
            .map(|line| line.trim().to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("network namespace {} is left behind: {error}", self.name);
        }
    }
}

/// The program that plays every role inside a namespace.
pub(crate) const PEER: &str = env!("CARGO_BIN_EXE_netns-peer");

/// Listeners in a namespace, stopped on drop.
pub(crate) struct Servers {
    process: Child,
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Either failure means that the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `address:port`, bracketed where it must be.
pub(crate) fn socket(address: &str, port: u16) -> String {
    let address: std::net::IpAddr = address.parse().unwrap();
    std::net::SocketAddr::new(address, port).to_string()
}

/// A pod with its two sidecar listeners, a metrics port and an app, and a
/// neighbour that serves too.
pub(crate) struct Link {
    // Processes end before their namespaces go: fields drop in order.
    _servers: [Servers; 2],
    pub(crate) pod: Namespace,
    pub(crate) peer: Namespace,
}

impl Link {
    /// Both ends up, nothing redirected yet.
    pub(crate) fn new() -> Self {
        Self::with_listeners(
            "15000,15001,15006,15020,15050,15099,8080,8081,9090",
            "53,15001,15006",
        )
    }

    /// The same, with these ports served in the pod.
    pub(crate) fn with_listeners(tcp: &str, udp: &str) -> Self {
        let (pod, peer) = (Namespace::new("pod"), Namespace::new("peer"));
        must(
            "ip",
            &[
                "link", "add", "eth0", "netns", &pod.name, "type", "veth", "peer", "name", "eth0",
                "netns", &peer.name,
            ],
        );
        for (namespace, v4, v6) in [(&pod, POD_V4, POD_V6), (&peer, PEER_V4, PEER_V6)] {
            namespace.must(
                "ip",
                &["address", "add", &format!("{v4}/24"), "dev", "eth0"],
            );
            // Without duplicate address detection the address works at once.
            namespace.must(
                "ip",
                &[
                    "address",
                    "add",
                    &format!("{v6}/64"),
                    "dev",
                    "eth0",
                    "nodad",
                ],
            );
            namespace.must("ip", &["link", "set", "eth0", "up"]);
        }
        let servers = [pod.serve(tcp, udp), peer.serve("80,443,3306,15020", "53")];
        Self {
            _servers: servers,
            pod,
            peer,
        }
    }

    /// The same with linnet-init's rules.
    pub(crate) fn redirected(backend: &str, arguments: &[&str]) -> Self {
        let link = Self::new();
        link.init(backend, arguments)
            .unwrap_or_else(|error| panic!("linnet-init ({backend}): {error}"));
        link
    }

    /// Runs linnet-init in the pod.
    pub(crate) fn init(&self, backend: &str, arguments: &[&str]) -> Result<String, String> {
        self.pod
            .run(PEER, &[&["init", "--backend", backend], arguments].concat())
    }

    /// The pod's rules of one backend, both families, without what changes by
    /// itself: dates and counters.
    pub(crate) fn rules(&self, backend: &str) -> String {
        let mut rules = String::new();
        for family in ["iptables", "ip6tables"] {
            let saved = self.pod.must(&format!("{family}-{backend}-save"), &[]);
            for line in saved.lines().filter(|line| !line.starts_with('#')) {
                rules.push_str(line.split(" [").next().unwrap_or(line));
                rules.push('\n');
            }
        }
        rules
    }
}

/// The backends of this machine's kernel; at least one, or the test fails.
pub(crate) fn backends() -> Vec<&'static str> {
    let probe = Namespace::new("probe");
    let mut found = Vec::new();
    for backend in ["nft", "legacy"] {
        match probe.run(&format!("iptables-{backend}"), &["-t", "nat", "-S"]) {
            Ok(_) => found.push(backend),
            Err(error) => {
                eprintln!("backend {backend} is not tested, the kernel has none: {error}");
            }
        }
    }
    assert!(
        !found.is_empty(),
        "the kernel has neither backend of iptables"
    );
    found
}
