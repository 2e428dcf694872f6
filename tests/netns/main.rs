//! Redirection for real: linnet-init's rules in the kernel, in namespaces of
//! their own. Root is needed, and without it these tests fail, they do not skip.
//!
//! Every answer names the listener that took the connection and where the
//! kernel says it was headed, so a test reads as "who got it".

mod doors;
mod namespace;

use namespace::{
    Link, NOBODY_V4, NOBODY_V6, Namespace, PEER, PEER_V4, PEER_V6, POD_V4, POD_V6, backends, socket,
};

/// What a listener answers for a connection headed to `address:port`.
fn by(listener: u16, address: &str, port: u16) -> Result<String, String> {
    Ok(format!("{listener} {}", socket(address, port)))
}

#[test]
fn without_rules_everything_reaches_its_destination() {
    let link = Link::new();
    for (pod, peer) in [(POD_V4, PEER_V4), (POD_V6, PEER_V6)] {
        assert_eq!(
            link.peer.tcp(pod, 8080).unwrap().split(' ').next(),
            Some("8080")
        );
        assert_eq!(
            link.pod.tcp(peer, 80).unwrap().split(' ').next(),
            Some("80")
        );
    }
    assert!(link.peer.tcp(POD_V4, 8082).is_err(), "nobody listens there");
}

#[test]
fn inbound_goes_to_the_sidecar() {
    for backend in backends() {
        let link = Link::redirected(backend, &[]);
        for pod in [POD_V4, POD_V6] {
            assert_eq!(link.peer.tcp(pod, 8080), by(15006, pod, 8080), "{backend}");
            assert_eq!(
                link.peer.tcp(pod, 8082),
                by(15006, pod, 8082),
                "{backend}: a port nobody listens on"
            );
        }
    }
}

#[test]
fn outbound_goes_to_the_sidecar() {
    for backend in backends() {
        let link = Link::redirected(backend, &[]);
        for peer in [PEER_V4, PEER_V6, NOBODY_V4, NOBODY_V6] {
            assert_eq!(link.pod.tcp(peer, 80), by(15001, peer, 80), "{backend}");
        }
    }
}

#[test]
fn the_sidecars_own_connections_go_straight_out() {
    for backend in backends() {
        let link = Link::redirected(backend, &[]);
        let sidecar = ["--reuid", "1337", "--regid", "1337"];
        for who in [&sidecar[..], &sidecar[..2], &sidecar[2..]] {
            for peer in [PEER_V4, PEER_V6] {
                assert_eq!(
                    link.pod.tcp_as(who, peer, 80),
                    by(80, peer, 80),
                    "{backend} {who:?}"
                );
            }
        }
        // To its own pod's app it must not meet itself again.
        for pod in [POD_V4, POD_V6] {
            assert_eq!(
                link.pod.tcp_as(&sidecar, pod, 8080),
                by(8080, pod, 8080),
                "{backend}"
            );
        }
        let somebody = ["--reuid", "1338", "--regid", "1338"];
        assert_eq!(
            link.pod.tcp_as(&somebody, PEER_V4, 80),
            by(15001, PEER_V4, 80),
            "{backend}"
        );
    }
}

#[test]
fn another_sidecar_user_and_other_listeners_can_be_chosen() {
    for backend in backends() {
        let link = Link::redirected(
            backend,
            &[
                "--proxy-uid",
                "2000",
                "--inbound-port",
                "8081",
                "--outbound-port",
                "9090",
            ],
        );
        let sidecar = ["--reuid", "2000", "--regid", "0"];
        assert_eq!(
            link.peer.tcp(POD_V4, 8080),
            by(8081, POD_V4, 8080),
            "{backend}"
        );
        assert_eq!(
            link.peer.tcp(POD_V4, 8081),
            by(8081, POD_V4, 8081),
            "{backend}: straight to the listener"
        );
        assert_eq!(
            link.pod.tcp(PEER_V4, 80),
            by(9090, PEER_V4, 80),
            "{backend}"
        );
        assert_eq!(
            link.pod.tcp_as(&sidecar, PEER_V4, 80),
            by(80, PEER_V4, 80),
            "{backend}"
        );
        let former = ["--reuid", "1337", "--regid", "1337"];
        assert_eq!(
            link.pod.tcp_as(&former, PEER_V4, 80),
            by(9090, PEER_V4, 80),
            "{backend}"
        );
    }
}

#[test]
fn loopback_to_self_is_left_alone() {
    for backend in backends() {
        let link = Link::redirected(backend, &[]);
        for own in ["127.0.0.1", "::1", POD_V4, POD_V6] {
            assert_eq!(link.pod.tcp(own, 8080), by(8080, own, 8080), "{backend}");
        }
    }
}

#[test]
fn the_sidecars_ports_alone_are_left_alone() {
    for backend in backends() {
        let link = Link::redirected(backend, &[]);
        for (pod, peer) in [(POD_V4, PEER_V4), (POD_V6, PEER_V6)] {
            assert_eq!(
                link.peer.tcp(pod, 15020),
                by(15020, pod, 15020),
                "{backend}: metrics in"
            );
            assert_eq!(
                link.pod.tcp(peer, 15020),
                by(15020, peer, 15020),
                "{backend}: metrics out"
            );
            assert_eq!(
                link.peer.tcp(pod, 15006),
                by(15006, pod, 15006),
                "{backend}: straight to the listener"
            );
            for port in [15000, 15021, 15050, 15099] {
                assert_eq!(
                    link.peer.tcp(pod, port),
                    by(15006, pod, port),
                    "{backend}: no port of the sidecar's for others"
                );
                assert_eq!(
                    link.pod.tcp(peer, port),
                    by(15001, peer, port),
                    "{backend}: nor on the way out"
                );
            }
        }
    }
}

#[test]
fn skipped_ports_and_cidrs_are_left_alone() {
    for backend in backends() {
        let link = Link::redirected(
            backend,
            &[
                "--skip-inbound-ports",
                "9090,8000-8080",
                "--skip-outbound-ports",
                "443,3300-3310",
            ],
        );
        for (pod, peer) in [(POD_V4, PEER_V4), (POD_V6, PEER_V6)] {
            assert_eq!(link.peer.tcp(pod, 9090), by(9090, pod, 9090), "{backend}");
            assert_eq!(
                link.peer.tcp(pod, 8080),
                by(8080, pod, 8080),
                "{backend}: end of a range"
            );
            assert_eq!(
                link.peer.tcp(pod, 8081),
                by(15006, pod, 8081),
                "{backend}: past the range"
            );
            assert_eq!(link.pod.tcp(peer, 443), by(443, peer, 443), "{backend}");
            assert_eq!(
                link.pod.tcp(peer, 3306),
                by(3306, peer, 3306),
                "{backend}: within a range"
            );
            assert_eq!(link.pod.tcp(peer, 80), by(15001, peer, 80), "{backend}");
        }

        let skipped = format!("{PEER_V4}/32,{PEER_V6}/128");
        let link = Link::redirected(backend, &["--skip-outbound-cidrs", &skipped]);
        for (peer, nobody) in [(PEER_V4, NOBODY_V4), (PEER_V6, NOBODY_V6)] {
            assert_eq!(link.pod.tcp(peer, 80), by(80, peer, 80), "{backend}");
            assert_eq!(link.pod.tcp(nobody, 80), by(15001, nobody, 80), "{backend}");
        }
    }
}

#[test]
fn includes_narrow_what_is_redirected() {
    for backend in backends() {
        let link = Link::redirected(
            backend,
            &[
                "--include-inbound-ports",
                "8080",
                "--include-outbound-cidrs",
                &format!("{NOBODY_V4}/32,{NOBODY_V6}/128"),
                "--include-outbound-ports",
                "3306",
            ],
        );
        for (pod, peer, nobody) in [(POD_V4, PEER_V4, NOBODY_V4), (POD_V6, PEER_V6, NOBODY_V6)] {
            assert_eq!(link.peer.tcp(pod, 8080), by(15006, pod, 8080), "{backend}");
            assert_eq!(link.peer.tcp(pod, 8081), by(8081, pod, 8081), "{backend}");
            assert_eq!(link.pod.tcp(nobody, 80), by(15001, nobody, 80), "{backend}");
            assert_eq!(link.pod.tcp(peer, 80), by(80, peer, 80), "{backend}");
            assert_eq!(
                link.pod.tcp(peer, 3306),
                by(15001, peer, 3306),
                "{backend}: a port wherever it is"
            );
        }
    }
}

#[test]
fn datagrams_pass() {
    for backend in backends() {
        let link = Link::redirected(backend, &[]);
        for (pod, peer) in [(POD_V4, PEER_V4), (POD_V6, PEER_V6)] {
            assert_eq!(
                link.pod.udp(peer, 53),
                Ok("53".to_owned()),
                "{backend}: a DNS query out"
            );
            assert_eq!(
                link.peer.udp(pod, 53),
                Ok("53".to_owned()),
                "{backend}: one in"
            );
        }
        assert_eq!(
            link.pod.udp("127.0.0.1", 53),
            Ok("53".to_owned()),
            "{backend}: to a resolver beside the app"
        );
    }
}

#[test]
fn running_again_changes_nothing() {
    for backend in backends() {
        let link = Link::redirected(backend, &["--skip-inbound-ports", "22"]);
        let once = link.rules(backend);
        assert!(
            once.contains("-A LINNET_INBOUND") && once.contains("--dport 22"),
            "{once}"
        );
        link.init(backend, &["--skip-inbound-ports", "22"]).unwrap();
        assert_eq!(link.rules(backend), once, "{backend}");
        link.init("auto", &["--skip-inbound-ports", "22"]).unwrap();
        assert_eq!(
            link.rules(backend),
            once,
            "{backend}: auto finds the backend in use"
        );
        assert_eq!(
            link.peer.tcp(POD_V4, 8080),
            by(15006, POD_V4, 8080),
            "{backend}"
        );
    }
}

#[test]
fn running_with_other_settings_replaces_the_rules_and_nobody_elses() {
    for backend in backends() {
        let link = Link::redirected(backend, &["--skip-inbound-ports", "8080"]);
        let iptables = format!("iptables-{backend}");
        let foreign = "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE";
        let words: Vec<&str> = ["-t", "nat"]
            .into_iter()
            .chain(foreign.split(' '))
            .collect();
        link.pod.must(&iptables, &words);
        link.pod
            .must(&iptables, &["-t", "nat", "-N", "LINNET_FORMER"]);
        link.pod.must(
            &iptables,
            &[
                "-t",
                "nat",
                "-I",
                "PREROUTING",
                "-p",
                "tcp",
                "-j",
                "LINNET_FORMER",
            ],
        );
        link.init(backend, &["--skip-inbound-ports", "9090"])
            .unwrap();
        assert_eq!(
            link.peer.tcp(POD_V4, 8080),
            by(15006, POD_V4, 8080),
            "{backend}"
        );
        assert_eq!(
            link.peer.tcp(POD_V4, 9090),
            by(9090, POD_V4, 9090),
            "{backend}"
        );
        let rules = link.rules(backend);
        assert!(rules.contains(foreign), "{rules}");
        assert!(
            !rules.contains("LINNET_FORMER") && !rules.contains("--dport 8080"),
            "{rules}"
        );
    }
}

#[test]
fn auto_follows_the_rules_that_are_there() {
    for backend in backends() {
        let link = Link::new();
        let iptables = format!("iptables-{backend}");
        link.pod.must(
            &iptables,
            &[
                "-t",
                "nat",
                "-A",
                "POSTROUTING",
                "-s",
                "192.0.2.0/24",
                "-j",
                "MASQUERADE",
            ],
        );
        link.init("auto", &[]).unwrap();
        assert!(
            link.rules(backend)
                .contains("-A PREROUTING -p tcp -j LINNET_INBOUND"),
            "{backend}"
        );
        assert_eq!(
            link.peer.tcp(POD_V6, 8080),
            by(15006, POD_V6, 8080),
            "{backend}"
        );
    }
}

#[test]
fn a_read_only_root_file_system_is_enough() {
    for backend in backends() {
        let link = Link::new();
        let script =
            format!("mount -t tmpfs -o ro tmpfs /run && exec {PEER} init --backend {backend}");
        link.pod.must("unshare", &["--mount", "sh", "-c", &script]);
        assert_eq!(
            link.peer.tcp(POD_V4, 8080),
            by(15006, POD_V4, 8080),
            "{backend}"
        );
    }
}

#[test]
fn a_missing_capability_is_an_error_that_names_it() {
    for backend in backends() {
        let pod = Namespace::new("pod");
        let error = pod
            .run(
                "setpriv",
                &[
                    "--bounding-set",
                    "-net_admin",
                    PEER,
                    "init",
                    "--backend",
                    backend,
                ],
            )
            .unwrap_err();
        assert!(
            error.contains("securityContext.capabilities.add [NET_ADMIN, NET_RAW]"),
            "{backend}: {error}"
        );
    }
}

#[test]
fn a_dry_run_prints_and_changes_nothing() {
    let link = Link::new();
    let printed = link.init("auto", &["--dry-run"]).unwrap();
    assert!(
        printed.contains("# IPv4\n*nat\n") && printed.contains("# IPv6\n*nat\n"),
        "{printed}"
    );
    assert_eq!(link.peer.tcp(POD_V4, 8080), by(8080, POD_V4, 8080));
}
