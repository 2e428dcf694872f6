//! Tokens that nobody issued, or not for this. The policy wants a token of
//! `issuer` for `shop`; nothing of a refused request may reach the application.

use crate::{
    app::App,
    support::Mesh,
    wire::{peer, send},
};
use linnet_proxy::server::Running;
use linnet_workload::token::{Issuer, with_secret};
use serde_json::{Value, json};
use std::time::SystemTime;

/// A workload, its application and the policies before it.
struct Guarded {
    mesh: Mesh,
    app: App,
    server: Running,
    issuer: Issuer,
    _controller: linnet_controller::Running,
    _signal: linnet_runtime::drain::Signal,
    _files: tempfile::TempDir,
}

/// What a request says besides its host.
struct Attempt {
    target: String,
    headers: String,
}

impl Guarded {
    async fn start() -> Self {
        Self::by("{from: [{source: {requestPrincipals: ['issuer/*']}}]}").await
    }

    /// With one rule that allows.
    async fn by(rule: &str) -> Self {
        let (mesh, issuer) = (Mesh::new(), Issuer::default());
        let files = tempfile::tempdir().unwrap();
        let policies = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt}}\n\
             spec: {{jwtRules: [{{issuer: issuer, audiences: [shop], jwks: '{}', outputPayloadToHeader: x-jwt-payload, outputClaimToHeaders: [{{header: x-user, claim: sub}}]}}]}}\n\
             ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: guard}}\n\
             spec: {{rules: [{rule}]}}\n",
            issuer.jwks()
        );
        std::fs::write(files.path().join("policies.yaml"), policies).unwrap();
        let (controller, signal) = mesh.controller(files.path()).await;
        let app = App::start().await;
        let inbound = format!("127.0.0.1:0={}", app.address);
        let address = controller.discovery_address;
        let server = mesh.start_told("payment", inbound, address).await;
        Self {
            mesh,
            app,
            server,
            issuer,
            _controller: controller,
            _signal: signal,
            _files: files,
        }
    }

    async fn get(&self, attempt: &Attempt) -> String {
        let Attempt { target, headers } = attempt;
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n{headers}\r\n");
        let stream = peer(&self.mesh, self.server.inbound[0], b"linnet/http1").await;
        send(stream, request.as_bytes()).await
    }

    /// Each attempt is refused by 401, and an honest token is served.
    async fn refuses(&self, attempts: Vec<Attempt>) {
        for attempt in attempts {
            let answer = self.get(&attempt).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
            assert!(answer.contains("www-authenticate: Bearer error=\"invalid_token\""));
        }
        assert!(self.app.seen().is_empty(), "{:?}", self.app.targets());
        let honest = self.issuer.token("ES256", &claims());
        let answer = self.get(&bearer(&honest)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn claims() -> Value {
    json!({"iss": "issuer", "sub": "ann", "aud": "shop", "exp": now() + 600})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn bearer(token: &str) -> Attempt {
    Attempt {
        target: "/".into(),
        headers: format!("authorization: Bearer {token}\r\n"),
    }
}

macro_rules! refused_tokens {
    ($($test:ident: $attempts:expr),* $(,)?) => {$(
        #[tokio::test]
        async fn $test() {
            let guarded = Guarded::start().await;
            let attempts: fn(&Issuer) -> Vec<Attempt> = $attempts;
            guarded.refuses(attempts(&guarded.issuer)).await;
        }
    )*};
}

refused_tokens! {
    a_token_without_a_signature_is_none: |issuer| {
        ["none", "None", "NONE", "nOnE", ""]
            .map(|alg| bearer(&issuer.signed(&json!({"alg": alg, "kid": "rsa"}), &claims())))
            .into()
    },
    a_public_key_is_not_taken_for_a_secret: |issuer| {
        let header = json!({"alg": "HS256", "kid": "rsa"});
        let jwks = issuer.jwks().to_string();
        [issuer.public_der(), jwks.as_bytes(), b""]
            .map(|secret| bearer(&with_secret(secret, &header, &claims())))
            .into()
    },
    an_expired_token_is_refused: |issuer| {
        let expired = with("exp", json!(now() - 120));
        let later = with("nbf", json!(now() + 120));
        vec![bearer(&issuer.token("RS256", &expired)), bearer(&issuer.token("RS256", &later))]
    },
    a_token_for_somebody_else_is_refused: |issuer| {
        [json!("bank"), json!(["bank", "shop2"]), json!({"shop": 1}), Value::Null]
            .map(|aud| bearer(&issuer.token("EdDSA", &with("aud", aud))))
            .into()
    },
    a_token_of_another_issuer_is_refused: |issuer| {
        ["other", "", "issuer/", "ISSUER"]
            .map(|name| bearer(&issuer.token("PS256", &with("iss", json!(name)))))
            .into()
    },
    a_token_that_others_signed_is_refused: |_| {
        let forger = Issuer::default();
        ["RS256", "PS512", "ES256", "ES384", "EdDSA"]
            .map(|alg| bearer(&forger.token(alg, &claims())))
            .into()
    },
    a_token_names_a_key_of_its_issuer: |issuer| {
        let jwk = Issuer::default().jwks()["keys"][1].clone();
        [
            json!({"alg": "RS256", "kid": "gone"}),
            json!({"alg": "ES256", "kid": "p384"}),
            json!({"alg": "ES256", "kid": "../../dev/null"}),
            json!({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}),
            json!({"alg": "ES256", "kid": "own", "jwk": jwk}),
            json!({"alg": "ES256", "kid": "own", "jku": "http://127.0.0.1/keys"}),
        ]
        .map(|header| bearer(&issuer.signed(&header, &claims())))
        .into()
    },
    what_was_signed_can_not_be_changed: |issuer| {
        let token = issuer.token("ES384", &claims());
        let (_, signature) = token.rsplit_once('.').unwrap();
        let other = issuer.token("ES384", &with("sub", json!("root")));
        let (claimed, _) = other.rsplit_once('.').unwrap();
        [
            format!("{claimed}.{signature}"),
            format!("{claimed}."),
            claimed.to_owned(),
            format!("{token}A"),
            format!("{token}=="),
            format!("{token}.{signature}"),
        ]
        .map(|token| bearer(&token))
        .into()
    },
    a_giant_token_is_not_read: |issuer| {
        let giant = with("fill", json!("x".repeat(20_000)));
        vec![bearer(&issuer.token("EdDSA", &giant)), bearer(&"A.".repeat(9000))]
    },
    what_is_no_token_is_refused: |_| {
        ["x", "..", "e30.e30.e30", "{}.{}.x", "\u{e9}", "[[[[.[[[[.[[[["]
            .map(bearer)
            .into()
    },
    a_request_does_not_have_two_tokens: |issuer| {
        let honest = issuer.token("ES256", &claims());
        let other = issuer.token("ES256", &with("sub", json!("root")));
        let line = |token: &str| format!("authorization: Bearer {token}\r\n");
        let at = |target: String, headers: String| Attempt { target, headers };
        vec![
            at("/".into(), line(&honest) + &line(&other)),
            at("/".into(), line(&honest) + &line(&honest)),
            at("/".into(), line("x") + &line(&honest)),
            at("/".into(), line(&format!("{honest}, Bearer {other}"))),
            at(format!("/?access_token={other}"), line(&honest)),
            at(format!("/?access_token={honest}&access_token={other}"), String::new()),
            at(format!("/?access_token={honest}&access%5Ftoken={other}"), String::new()),
        ]
    },
}

/// Neither the claims of a token nor the absence of one can be told by a caller.
#[tokio::test]
async fn a_caller_does_not_say_what_its_token_claims() {
    let guarded = Guarded::start().await;
    let none = Attempt {
        target: "/".into(),
        headers: "x-user: root\r\n".into(),
    };
    let answer = guarded.get(&none).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let mut honest = bearer(&guarded.issuer.token("ES256", &claims()));
    honest.headers += "x-user: root\r\nX-User: admin\r\n";
    let answer = guarded.get(&honest).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = guarded.app.seen();
    assert_eq!(seen[0].values("x-user"), ["ann"]);
    assert_eq!(
        seen[0].values("authorization"),
        [""; 0],
        "it goes no further"
    );
}

/// `Connection` names what the next hop is not told: not what the sidecar says of a token.
#[tokio::test]
async fn a_caller_can_not_have_its_claims_taken_off() {
    let guarded = Guarded::start().await;
    let mut honest = bearer(&guarded.issuer.token("ES256", &claims()));
    honest.headers += "connection: x-user, x-jwt-payload\r\nx-user: root\r\nx_user: root\r\n";
    let answer = guarded.get(&honest).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = guarded.app.seen();
    assert_eq!(seen[0].values("x-user"), ["ann"]);
    assert_eq!(seen[0].values("x-jwt-payload").len(), 1);
    assert!(seen[0].values("x_user").is_empty(), "{seen:?}");
}

/// A policy that goes by a claim's header goes by the token.
#[tokio::test]
async fn a_policy_by_a_claim_s_header_goes_by_the_token() {
    let rule = "{when: [{key: 'request.headers[x-user]', values: [root]}]}";
    let guarded = Guarded::by(rule).await;
    let user = "x-user: root\r\n".to_owned();
    let none = Attempt {
        target: "/".into(),
        headers: user.clone(),
    };
    let mut ann = bearer(&guarded.issuer.token("ES256", &claims()));
    ann.headers += &user;
    for attempt in [none, ann] {
        let answer = guarded.get(&attempt).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    assert!(guarded.app.seen().is_empty());
    let root = guarded.issuer.token("ES256", &with("sub", json!("root")));
    let answer = guarded.get(&bearer(&root)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
