use super::*;
use linnet_mesh::{
    ResourceRef,
    authentication::{JwtRule, jwk},
};
use linnet_workload::token::{Issuer, with_secret};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

/// One rule, of tokens that `issuer` signs by these keys.
pub(crate) fn rules(jwks: &Value) -> Arc<Authentication> {
    let (keys, notes) = jwk::read(jwks.to_string().as_bytes()).unwrap();
    assert_eq!(notes, [""; 0]);
    let source = ResourceRef {
        kind: "RequestAuthentication".into(),
        namespace: "shop".into(),
        name: "jwt".into(),
    };
    let rule = JwtRule {
        issuer: "issuer".into(),
        keys,
        problem: None,
        ..JwtRule::refusing(source, 0, String::new())
    };
    Arc::new(Authentication::new(vec![rule]).unwrap())
}

fn claims() -> Value {
    json!({"iss": "issuer", "sub": "ann", "exp": NOW})
}

/// For whom a request with this token speaks.
fn ask(
    tokens: &Tokens,
    rules: &Arc<Authentication>,
    token: &str,
    now: u64,
) -> Result<Option<String>, Reason> {
    let mut headers = HeaderMap::new();
    let value = format!("Bearer {token}").parse().unwrap();
    headers.insert("authorization", value);
    let accepted = tokens.accept(rules, &headers, None, now);
    let accepted = accepted.map_err(|refused| refused.reason)?;
    Ok(accepted.unwrap().token.principal.clone())
}

fn remembered(tokens: &Tokens) -> usize {
    let known = tokens.known.borrow();
    known
        .as_ref()
        .map_or(0, |known| known.young.len() + known.old.len())
}

#[test]
fn signatures_of_each_algorithm_are_checked() {
    let (issuer, tokens) = (Issuer::default(), Tokens::default());
    let rules = rules(&issuer.jwks());
    for algorithm in [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ] {
        let token = issuer.token(algorithm, &claims());
        let accepted = ask(&tokens, &rules, &token, NOW);
        assert_eq!(accepted, Ok(Some("issuer/ann".into())), "{algorithm}");

        // Of the same keys' names, but another's keys.
        let forged = Issuer::default().token(algorithm, &claims());
        let refused = ask(&tokens, &rules, &forged, NOW);
        assert_eq!(refused, Err(Reason::Signature), "{algorithm}");
        // Other claims under the same signature.
        let more = issuer.token(algorithm, &json!({"iss": "issuer", "sub": "root"}));
        let (claimed, _) = more.rsplit_once('.').unwrap();
        let (_, signature) = token.rsplit_once('.').unwrap();
        for signature in [signature, "", "AA", "%"] {
            let refused = ask(&tokens, &rules, &format!("{claimed}.{signature}"), NOW);
            assert_eq!(refused, Err(Reason::Signature), "{algorithm} {signature}");
        }
    }
    assert_eq!(remembered(&tokens), 9, "what is refused is not remembered");
}

#[test]
fn a_public_key_is_no_secret_and_nothing_is_no_signature() {
    let (issuer, tokens) = (Issuer::default(), Tokens::default());
    let rules = rules(&issuer.jwks());
    let hs256 = json!({"alg": "HS256", "kid": "rsa"});
    let refused = |token: &str| ask(&tokens, &rules, token, NOW).unwrap_err();
    let der = with_secret(issuer.public_der(), &hs256, &claims());
    assert_eq!(refused(&der), Reason::Algorithm);
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let none = issuer.signed(&json!({"alg": name, "kid": "rsa"}), &claims());
        assert_eq!(refused(&none), Reason::Algorithm, "{name}");
    }
    // A key of one kind does not check what another kind's algorithm claims.
    let crossed = issuer.signed(&json!({"alg": "ES256", "kid": "p384"}), &claims());
    assert_eq!(refused(&crossed), Reason::NoSuchKey);
    let other = issuer.signed(&json!({"alg": "RS256", "kid": "gone"}), &claims());
    assert_eq!(refused(&other), Reason::NoSuchKey);
}

#[test]
fn what_is_remembered_ends_with_the_token_with_its_keys_and_in_number() {
    let (issuer, tokens) = (Issuer::default(), Tokens::default());
    let rules_now = rules(&issuer.jwks());
    let token = issuer.token("EdDSA", &claims());
    for _ in 0..2 {
        assert!(ask(&tokens, &rules_now, &token, NOW).is_ok());
    }
    assert_eq!(remembered(&tokens), 1);
    // The same rules in another message are the same.
    let again = rules(&issuer.jwks());
    assert!(ask(&tokens, &again, &token, NOW + 60).is_ok());
    assert_eq!(remembered(&tokens), 1);
    let late = ask(&tokens, &again, &token, NOW + 61);
    assert_eq!(late, Err(Reason::Expired));

    let rotated = rules(&Issuer::default().jwks());
    let refused = ask(&tokens, &rotated, &token, NOW);
    assert_eq!(refused, Err(Reason::Signature));
    assert_eq!(remembered(&tokens), 0);
    assert!(ask(&tokens, &rules_now, &token, NOW).is_ok());
    for number in 0..3 * GENERATION {
        let claims = json!({"iss": "issuer", "sub": number.to_string()});
        let token = issuer.token("EdDSA", &claims);
        assert!(ask(&tokens, &rules_now, &token, NOW).is_ok());
    }
    assert!(remembered(&tokens) <= 2 * GENERATION);
}

#[test]
fn a_token_in_the_query_is_taken_out_of_it() {
    let issuer = Issuer::default();
    let rules = rules(&issuer.jwks());
    let token = issuer.token("ES256", &json!({"iss": "issuer"}));
    for (sent, seen) in [
        (format!("/a%2Fb?access_token={token}"), "/a%2Fb"),
        (format!("/?x=1&access_token={token}&y"), "/?x=1&y"),
        (
            format!("http://shop/?access_token={token}&x=1"),
            "http://shop/?x=1",
        ),
    ] {
        let mut request = Request::get(sent).body(()).unwrap();
        let accepted = Tokens::default().authenticate(&rules, &request);
        edit(&rules, accepted.unwrap().as_ref(), &mut request);
        assert_eq!(request.uri(), seen);
    }
}
