//! Discovery messages: what a controller that has been taken over may send a proxy,
//! and the other way round.

use bytes::Bytes;
use linnet_discovery::{Target, Update, proto};
use linnet_mesh::authorization::{Connection, Scope};
use prost::Message;

/// An update converts as a whole or not at all, and one that does is the same after
/// another trip.
pub fn discovery(data: &[u8]) {
    let _ = proto::ControllerMessage::decode(data);
    if let Ok(message) = proto::ProxyMessage::decode(data)
        && let Some(proto::proxy_message::Kind::Subscribe(targets)) = message.kind
    {
        for target in targets.targets {
            let _ = Target::try_from(target);
        }
    }
    match Update::decode(Bytes::copy_from_slice(data)) {
        Ok(update) => {
            let again = Update::decode(update.encode());
            assert_eq!(again.as_ref(), Ok(&update));
            used(&update);
        }
        Err(error) => assert!(!error.field.is_empty(), "{error}"),
    }
}

/// What was accepted can be asked.
fn used(update: &Update) {
    let Update::Inbound(inbound) = update else {
        return;
    };
    let connection = Connection {
        identity: None,
        source: [10, 0, 0, 9].into(),
        destination: ([10, 0, 0, 1], 8080).into(),
        server_name: None,
        federated: false,
    };
    if let Some(policies) = &inbound.authorization {
        for scope in [Scope::Enforced, Scope::WithDryRun] {
            policies.decide(scope, &connection, None);
        }
    }
    for port in 0..16 {
        inbound.mode(port);
    }
}
