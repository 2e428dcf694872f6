use super::*;
use crate::object::Object;
use serde::Deserialize;
use serde_json::Value;

const PROFILES: [Profile; 3] = [Profile::Minimal, Profile::Default, Profile::Demo];

fn golden(profile: Profile) -> Vec<Object> {
    let text = match profile {
        Profile::Minimal => include_str!("../../golden/minimal.yaml"),
        Profile::Default => include_str!("../../golden/default.yaml"),
        Profile::Demo => include_str!("../../golden/demo.yaml"),
    };
    serde_norway::Deserializer::from_str(text)
        .map(|document| Object::new(Value::deserialize(document).unwrap()).unwrap())
        .collect()
}

fn by_reference(mut objects: Vec<Object>) -> Vec<Object> {
    // The kinds' schemas are generated, and compared where they are.
    objects.retain(|object| object.kind() != "CustomResourceDefinition");
    objects.sort_by_key(|object| object.reference().to_string());
    objects
}

/// `golden/*.yaml` is what kubectl makes of the same folders;
/// `cli/golden/update` makes them again.
#[test]
fn profiles_render_as_kubectl_renders_them() {
    for profile in PROFILES {
        let ours = by_reference(render(profile, &Settings::default()).unwrap());
        let theirs = by_reference(golden(profile));
        let names = |objects: &[Object]| -> Vec<String> {
            objects
                .iter()
                .map(|object| object.reference().to_string())
                .collect()
        };
        assert_eq!(names(&ours), names(&theirs), "{profile:?}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(
                ours.value(),
                theirs.value(),
                "{profile:?} {}",
                ours.reference()
            );
        }
    }
}

fn rendered(typed: &[&str]) -> Vec<Object> {
    let typed: Vec<String> = typed.iter().map(|pair| (*pair).to_owned()).collect();
    render(Profile::Default, &Settings::parse(&typed).unwrap()).unwrap()
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object.kind() == kind && object.name() == name)
        .unwrap()
        .value()
}

fn variable<'a>(objects: &'a [Object], deployment: &str, name: &str) -> &'a str {
    let container =
        &find(objects, "Deployment", deployment)["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap();
    variables
        .iter()
        .find(|variable| variable["name"] == name)
        .unwrap()["value"]
        .as_str()
        .unwrap()
}

fn image<'a>(objects: &'a [Object], deployment: &str) -> &'a Value {
    &find(objects, "Deployment", deployment)["spec"]["template"]["spec"]["containers"][0]["image"]
}

#[test]
fn image_settings_reach_the_control_plane_and_the_sidecar() {
    let objects = rendered(&[
        "image.registry=registry.example.com:5000/mesh",
        "image.tag=1.2.3",
        "image.pullPolicy=Never",
    ]);
    assert_eq!(
        image(&objects, "linnet-identity"),
        "registry.example.com:5000/mesh/identity:1.2.3"
    );
    assert_eq!(
        variable(&objects, "linnet-injector", "LINNET_PROXY_IMAGE"),
        "registry.example.com:5000/mesh/proxy:1.2.3"
    );
    assert_eq!(
        variable(&objects, "linnet-injector", "LINNET_IMAGE_PULL_POLICY"),
        "Never"
    );
}

#[test]
fn every_key_changes_what_is_rendered() {
    let unchanged = rendered(&[]);
    for pair in [
        "clusterDomain=cluster.example.com",
        "identity.certificateLifetime=1m",
        "image.pullPolicy=Always",
        "image.registry=r.example.com",
        "image.tag=v9",
        "injector.failurePolicy=Ignore",
        "istioCompat=false",
        "log=warn",
        "nativeSidecar=false",
        "proxy.cpuLimit=1",
        "proxy.cpuRequest=",
        "proxy.memoryLimit=64Mi",
        "proxy.memoryRequest=64Mi",
        "replicas=5",
        "trustDomain=mesh.example.com",
        "webhook.apiServerCidrs=10.0.0.2/32",
    ] {
        assert_ne!(rendered(&[pair]), unchanged, "{pair}");
    }
}

#[test]
fn the_compatibility_namespace_can_be_declined() {
    let declined = rendered(&["istioCompat=false"]);
    assert!(
        declined
            .iter()
            .all(|object| object.name() != "istio-system")
    );
    let kept = rendered(&["istioCompat=true"]);
    find(&kept, "Namespace", "istio-system");
}

#[test]
fn a_later_setting_wins() {
    let objects = rendered(&["replicas=3", "replicas=4"]);
    assert_eq!(
        find(&objects, "Deployment", "linnet-controller")["spec"]["replicas"],
        4
    );
}

#[test]
fn all_wrong_settings_are_reported_at_once() {
    let typed = [
        "replicas",
        "replica=2",
        "replicas=0",
        "image.tag=a b",
        "identity.certificateLifetime=59s",
        "identity.certificateLifetime=é",
        "proxy.cpuLimit=much",
        "trustDomain=Not_A_Domain!",
    ]
    .map(str::to_owned);
    let errors: Vec<String> = Settings::parse(&typed)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(errors.len(), typed.len(), "{errors:#?}");
    assert!(errors[0].contains("key=value"));
    assert!(errors[1].contains("istioCompat") && errors[1].contains("replicas"));
    assert!(errors[2].contains("number from 1"));
}

#[test]
fn what_install_creates_can_be_recognised() {
    for object in rendered(&[]) {
        assert_eq!(
            object.value()["metadata"]["labels"]["app.kubernetes.io/part-of"],
            "linnet",
            "{}",
            object.reference()
        );
    }
}

#[test]
fn the_webhook_never_waits_on_system_namespaces() {
    let objects = rendered(&[]);
    let webhooks = find(&objects, "MutatingWebhookConfiguration", "linnet-injector")["webhooks"]
        .as_array()
        .unwrap();
    assert_eq!(webhooks.len(), 5);
    for webhook in webhooks {
        let excluded = &webhook["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(excluded["key"], "kubernetes.io/metadata.name");
        assert_eq!(excluded["operator"], "NotIn");
        for namespace in linnet_mesh::names::SYSTEM_NAMESPACES
            .iter()
            .chain([&linnet_mesh::names::CONTROL_PLANE_NAMESPACE])
        {
            let values = excluded["values"].as_array().unwrap();
            assert!(values.iter().any(|value| value == namespace), "{namespace}");
        }
    }
}

#[test]
fn containers_are_confined() {
    for object in rendered(&[]) {
        if object.kind() != "Deployment" {
            continue;
        }
        let pod = &object.value()["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        }
    }
}

/// Every pod of the control plane lets in what its Services and its probes'
/// port lead to, and no other port.
#[test]
fn network_policies_open_the_ports_that_are_served() {
    let objects = rendered(&[]);
    let everything_closed = &find(&objects, "NetworkPolicy", "linnet-nothing-else")["spec"];
    assert_eq!(everything_closed["podSelector"], serde_json::json!({}));
    assert_eq!(everything_closed.get("ingress"), None);
    let mut seen = 0;
    for deployment in objects.iter().filter(|o| o.kind() == "Deployment") {
        seen += 1;
        let template = &deployment.value()["spec"]["template"];
        let policy = &find(&objects, "NetworkPolicy", deployment.name())["spec"];
        assert_eq!(
            policy["podSelector"]["matchLabels"],
            deployment.value()["spec"]["selector"]["matchLabels"]
        );
        let mut open: Vec<&str> = policy["ingress"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|rule| rule["ports"].as_array().unwrap())
            .map(|port| port["port"].as_str().unwrap())
            .collect();
        let mut served: Vec<&str> = template["spec"]["containers"][0]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port["name"].as_str().unwrap())
            .collect();
        open.sort_unstable();
        served.sort_unstable();
        assert_eq!(open, served, "{}", deployment.name());
    }
    assert_eq!(seen, 3);
}

#[test]
fn the_webhooks_can_be_kept_to_the_api_servers() {
    let objects = rendered(&["webhook.apiServerCidrs=10.0.0.2/32, fd00::/64"]);
    let blocks = serde_json::json!([
        {"ipBlock": {"cidr": "10.0.0.2/32"}}, {"ipBlock": {"cidr": "fd00::/64"}},
    ]);
    let mut limited = Vec::new();
    for policy in objects.iter().filter(|o| o.kind() == "NetworkPolicy") {
        let rules = policy.value().pointer("/spec/ingress");
        for rule in rules.and_then(Value::as_array).into_iter().flatten() {
            if rule["ports"][0]["port"] == "webhook" {
                assert_eq!(rule["from"], blocks, "{}", policy.name());
                limited.push(policy.name().to_owned());
            } else {
                assert_ne!(rule["from"], blocks, "{}", policy.name());
            }
        }
    }
    limited.sort();
    assert_eq!(limited, ["linnet-controller", "linnet-injector"]);
    for wrong in [
        "",
        "10.0.0.2",
        "10.0.0.0/33",
        "api.example.com",
        "10.0.0.0/8,",
    ] {
        let pair = format!("webhook.apiServerCidrs={wrong}");
        assert!(Settings::parse(&[pair]).is_err(), "{wrong}");
    }
}
