use super::*;
use linnet_mesh::{Inbound, ResourceRef};

fn rule() -> JwtRule {
    let source = ResourceRef {
        kind: "RequestAuthentication".into(),
        namespace: "shop".into(),
        name: "jwt".into(),
    };
    let mut places = Place::defaults();
    places.push(Place::Cookie("session".into()));
    JwtRule {
        issuer: "https://issuer".into(),
        audiences: vec!["shop".into()],
        keys: vec![
            Jwk {
                id: Some("a".into()),
                algorithm: Some(Algorithm::Ps384),
                key: PublicKey::rsa(&[1; 256], &[1, 0, 1]).unwrap(),
            },
            Jwk {
                id: None,
                algorithm: None,
                key: PublicKey::on("P-384", [&[4][..], &[7; 96]].concat()).unwrap(),
            },
        ],
        keys_from: "https://issuer/keys".into(),
        problem: None,
        places,
        forward: true,
        payload_header: Some(HeaderName::from_static("x-payload")),
        claim_headers: vec![(HeaderName::from_static("x-sub"), "sub".into())],
        space_delimited: vec!["roles".into()],
        ..JwtRule::refusing(source, 1, String::new())
    }
}

fn sent(rules: Vec<JwtRule>) -> proto::Inbound {
    (&Inbound {
        authentication: Authentication::new(rules).map(Arc::new),
        ..Inbound::default()
    })
        .into()
}

#[test]
fn rules_survive_the_wire() {
    let refusing = JwtRule::refusing(rule().source, 0, "the keys can't be fetched".into());
    for rules in [vec![], vec![refusing, rule()]] {
        let read = Inbound::try_from(sent(rules.clone())).unwrap();
        assert_eq!(
            read.authentication,
            Authentication::new(rules).map(Arc::new)
        );
    }
}

#[test]
fn a_message_with_a_damaged_rule_is_refused_as_a_whole() {
    let damage: [fn(&mut proto::JwtRule); 7] = [
        |rule| rule.source = None,
        |rule| rule.keys[0].algorithm = "HS256".into(),
        |rule| rule.keys[0].key = None,
        |rule| {
            let point = proto::CurveKey {
                name: "P-256".into(),
                point: vec![4; 64],
            };
            rule.keys[0].key = Some(proto::jwk::Key::Curve(point));
        },
        |rule| rule.places[0].kind = None,
        |rule| rule.payload_header = "not a header".into(),
        |rule| rule.claim_headers[0].name = String::new(),
    ];
    for (at, damage) in damage.into_iter().enumerate() {
        let mut message = sent(vec![rule()]);
        damage(&mut message.authentication[0]);
        assert!(Inbound::try_from(message).is_err(), "{at}");
    }
}
