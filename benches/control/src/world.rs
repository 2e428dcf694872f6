//! The cluster that the controller is told of: services of two endpoints each, a
//! route a service, all as manifests in a directory.

use std::{fmt::Write, fs, io, net::Ipv4Addr, path::Path};

pub(crate) const SERVICES: usize = 1000;
pub(crate) const ENDPOINTS_EACH: usize = 2;
const NAMESPACES: usize = 20;

pub(crate) fn namespace(service: usize) -> String {
    format!("team-{}", service % NAMESPACES)
}

pub(crate) fn name(service: usize) -> String {
    format!("service-{service}")
}

/// The service's virtual address.
pub(crate) fn cluster_ip(service: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, (service / 250) as u8, (service % 250 + 1) as u8)
}

/// The pod of an endpoint.
pub(crate) fn pod(service: usize, endpoint: usize) -> String {
    format!("{}-6f8d7c5b9-{endpoint:05}", name(service))
}

fn pod_ip(service: usize, endpoint: usize) -> Ipv4Addr {
    let number = service * ENDPOINTS_EACH + endpoint;
    Ipv4Addr::new(10, 1, (number / 250) as u8, (number % 250 + 1) as u8)
}

/// Writes all of it.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    for first in 0..NAMESPACES {
        let mut text = String::new();
        for service in (first..SERVICES).step_by(NAMESPACES) {
            // A String takes all that is written to it.
            let _ = write_service(&mut text, service);
        }
        fs::write(directory.join(format!("{}.yaml", namespace(first))), text)?;
    }
    for service in 0..SERVICES {
        write_route(directory, service, "first")?;
    }
    Ok(())
}

fn write_service(text: &mut String, service: usize) -> std::fmt::Result {
    let (namespace, name, ip) = (namespace(service), name(service), cluster_ip(service));
    write!(
        text,
        r"---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{clusterIP: {ip}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
"
    )?;
    for endpoint in 0..ENDPOINTS_EACH {
        let (pod, ip) = (pod(service, endpoint), pod_ip(service, endpoint));
        writeln!(
            text,
            "- {{addresses: [{ip}], targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}}}}}"
        )?;
    }
    for endpoint in 0..ENDPOINTS_EACH {
        let (pod, ip) = (pod(service, endpoint), pod_ip(service, endpoint));
        write!(
            text,
            r"---
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
  namespace: {namespace}
  labels: {{app: {name}, version: v{endpoint}, linnet.io/sidecar: injected}}
spec: {{serviceAccountName: {name}}}
status: {{podIP: {ip}}}
"
        )?;
    }
    Ok(())
}

/// Writes a service's route, told apart from other versions by its rule's name.
pub(crate) fn write_route(directory: &Path, service: usize, version: &str) -> io::Result<()> {
    let (namespace, name) = (namespace(service), name(service));
    let text = format!(
        r"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: [{name}]
  http:
  - name: {version}
    match: [{{uri: {{prefix: /api}}, headers: {{x-user: {{exact: tester}}}}}}]
    timeout: 3s
    retries: {{attempts: 2, perTryTimeout: 1s}}
    route: [{{destination: {{host: {name}}}}}]
  - route: [{{destination: {{host: {name}}}}}]
"
    );
    fs::write(directory.join(format!("route-{service}.yaml")), text)
}
