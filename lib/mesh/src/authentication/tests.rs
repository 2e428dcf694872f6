use super::*;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

/// Takes the signature `ok:<key's place>` and no other.
struct Fake;

impl Verifier for Fake {
    fn verifies(&self, _: usize, key: usize, _: Algorithm, _: &[u8], signature: &str) -> bool {
        signature == format!("ok{key}")
    }
}

fn signed(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

fn good(claims: &Value) -> String {
    signed(&json!({"alg": "RS256", "kid": "a"}), claims, "ok0")
}

fn claims() -> Value {
    json!({"iss": "issuer", "sub": "ann", "exp": NOW + 10})
}

fn key(id: Option<&str>) -> Jwk {
    Jwk {
        id: id.map(str::to_owned),
        algorithm: None,
        key: PublicKey::rsa(&[1; 256], &[1, 0, 1]).unwrap(),
    }
}

fn rule() -> JwtRule {
    let source = ResourceRef {
        kind: "RequestAuthentication".into(),
        namespace: "shop".into(),
        name: "jwt".into(),
    };
    JwtRule {
        issuer: "issuer".into(),
        keys: vec![key(Some("a")), key(Some("b"))],
        problem: None,
        ..JwtRule::refusing(source, 0, String::new())
    }
}

fn header(name: &'static str, prefix: &str) -> Place {
    Place::Header {
        name: HeaderName::from_static(name),
        prefix: prefix.into(),
    }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

/// What becomes of a request.
fn outcome(
    rules: Vec<JwtRule>,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Option<Token>, Reason> {
    let all = Authentication::new(rules).unwrap();
    let found = all.find(headers, query).map_err(|refusal| refusal.reason)?;
    found
        .map(|found| all.check(&found, NOW, &Fake).map_err(|r| r.reason))
        .transpose()
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}"))])
}

fn refusal(rule: JwtRule, token: &str) -> Option<Reason> {
    outcome(vec![rule], &bearer(token), None).err()
}

#[test]
fn a_request_without_a_token_passes_and_has_no_principal() {
    for lines in [
        &[][..],
        &[("authorization", "Basic YTpi")],
        &[("x-token", "a.b.c")],
        &[("cookie", "access_token=a.b.c")],
    ] {
        assert_eq!(
            outcome(vec![rule()], &headers(lines), Some("a=b")),
            Ok(None)
        );
    }
}

#[test]
fn an_accepted_token_says_for_whom_it_speaks() {
    let token = outcome(vec![rule()], &bearer(&good(&claims())), None);
    let token = token.unwrap().unwrap();
    assert_eq!(token.principal.as_deref(), Some("issuer/ann"));
    let nobody = good(&json!({"iss": "issuer", "sub": ""}));
    let token = outcome(vec![rule()], &bearer(&nobody), None);
    assert_eq!(token.unwrap().unwrap().principal, None);
}

#[test]
fn what_is_wrong_with_a_token_is_told() {
    let of = |header: Value| signed(&header, &claims(), "ok0");
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for (token, expected) in [
        (String::new(), Reason::Malformed),
        ("x".to_owned(), Reason::Malformed),
        ("a.b.c".to_owned(), Reason::Malformed),
        (good(&claims()) + ".x", Reason::Malformed),
        (
            format!("{}.{}.ok0", part("[]"), part("{}")),
            Reason::Malformed,
        ),
        (
            format!("{}.{}.ok0", part("{\"alg\":\"RS256\"}"), part("1")),
            Reason::Malformed,
        ),
        ("x".repeat(LONGEST_TOKEN + 1), Reason::TooLong),
        (of(json!({"alg": "none", "kid": "a"})), Reason::Algorithm),
        (of(json!({"alg": "None"})), Reason::Algorithm),
        (of(json!({"alg": "HS256", "kid": "a"})), Reason::Algorithm),
        (of(json!({"alg": "ES256", "kid": "a"})), Reason::NoSuchKey),
        (of(json!({"alg": "RS256", "kid": "c"})), Reason::NoSuchKey),
        (of(json!({"alg": "RS256", "kid": "b"})), Reason::Signature),
        (
            of(json!({"alg": "RS256", "crit": ["b64"], "b64": false})),
            Reason::Critical,
        ),
        (good(&json!({"iss": "other", "sub": "ann"})), Reason::Issuer),
        (good(&json!({"sub": "ann"})), Reason::Issuer),
        (good(&json!({"iss": ["issuer"]})), Reason::Issuer),
    ] {
        let refused = outcome(vec![rule()], &bearer(&token), None);
        assert_eq!(
            refused.err(),
            Some(expected),
            "{}",
            &token[..token.len().min(80)]
        );
    }
}

#[test]
fn tokens_hold_in_their_time_and_a_minute_around_it() {
    for (at, expected) in [
        (json!({"exp": NOW - 60}), None),
        (json!({"exp": NOW - 61}), Some(Reason::Expired)),
        (json!({"exp": 0}), Some(Reason::Expired)),
        (json!({"exp": -1}), Some(Reason::Expired)),
        (json!({"exp": u64::MAX}), None),
        (json!({"exp": 1e300}), None),
        (
            json!({"exp": (NOW + 10).to_string()}),
            Some(Reason::Malformed),
        ),
        (json!({"nbf": NOW + 60}), None),
        (json!({"nbf": NOW + 61}), Some(Reason::NotYet)),
        (json!({"nbf": true}), Some(Reason::Malformed)),
        (json!({}), None),
    ] {
        let mut claims = json!({"iss": "issuer"});
        claims
            .as_object_mut()
            .unwrap()
            .extend(at.as_object().unwrap().clone());
        assert_eq!(refusal(rule(), &good(&claims)), expected, "{at}");
    }
}

#[test]
fn a_token_is_for_one_of_the_audiences() {
    let rule = || JwtRule {
        audiences: vec!["shop".into(), "bank".into()],
        ..rule()
    };
    for (aud, expected) in [
        (json!("shop"), None),
        (json!(["x", "bank"]), None),
        (json!("shop2"), Some(Reason::Audience)),
        (json!([]), Some(Reason::Audience)),
        (json!({"shop": 1}), Some(Reason::Audience)),
        (Value::Null, Some(Reason::Audience)),
    ] {
        let token = good(&json!({"iss": "issuer", "aud": aud}));
        assert_eq!(refusal(rule(), &token), expected, "{aud}");
    }
}

#[test]
fn keys_are_chosen_by_name_and_those_without_one_are_tried() {
    let with = |keys: Vec<Jwk>| JwtRule { keys, ..rule() };
    let token = |kid: Value, signature| {
        let mut header = json!({"alg": "PS512"});
        if !kid.is_null() {
            header["kid"] = kid;
        }
        signed(&header, &claims(), signature)
    };
    let keys = || vec![key(Some("a")), key(None), key(Some("b"))];
    for (kid, signature, expected) in [
        (json!("a"), "ok0", None),
        (json!("a"), "ok1", None),
        (json!("a"), "ok2", Some(Reason::Signature)),
        (Value::Null, "ok2", None),
        (json!("z"), "ok1", None),
    ] {
        assert_eq!(refusal(with(keys()), &token(kid, signature)), expected);
    }
    let only = Jwk {
        algorithm: Some(Algorithm::Rs256),
        ..key(None)
    };
    assert_eq!(
        refusal(with(vec![only]), &token(Value::Null, "ok0")),
        Some(Reason::NoSuchKey)
    );
    assert_eq!(
        refusal(with(vec![]), &good(&claims())),
        Some(Reason::NoKeys)
    );
}

#[test]
fn tokens_are_found_where_the_rules_look() {
    let token = good(&claims());
    let at = |place: Place| JwtRule {
        places: vec![place],
        ..rule()
    };
    let cookie = || at(Place::Cookie("session".into()));
    let parameter = || at(Place::Parameter("jwt token".into()));
    let accepted = |rule: JwtRule, headers: &HeaderMap, query: Option<&str>| {
        outcome(vec![rule], headers, query).unwrap().is_some()
    };
    assert!(accepted(
        rule(),
        &headers(&[("authorization", &format!("bEARER  {token} "))]),
        None
    ));
    assert!(accepted(
        rule(),
        &HeaderMap::new(),
        Some(&format!("a&access_token={token}"))
    ));
    assert!(accepted(
        at(header("x-jwt", "")),
        &headers(&[("x-jwt", &token)]),
        None
    ));
    assert!(accepted(
        at(header("x-jwt", "v1:")),
        &headers(&[("x-jwt", &format!("v1:{token}"))]),
        None
    ));
    assert!(!accepted(
        at(header("x-jwt", "v1:")),
        &headers(&[("x-jwt", &token)]),
        None
    ));
    assert!(
        !accepted(at(header("x-jwt", "")), &bearer(&token), None),
        "not a default place"
    );
    let cookies = format!("a=b; session=\"{token}\"; c");
    assert!(accepted(
        cookie(),
        &headers(&[("cookie", "a=1"), ("cookie", &cookies)]),
        None
    ));
    for query in ["jwt%20token=", "x=1&jwt+token="] {
        assert!(accepted(
            parameter(),
            &HeaderMap::new(),
            Some(&format!("{query}{token}"))
        ));
    }
}

#[test]
fn a_request_has_one_token() {
    let (token, other) = (
        good(&claims()),
        good(&json!({"iss": "issuer", "sub": "bob"})),
    );
    let line = |token: &str| format!("Bearer {token}");
    let query = |token: &str| format!("access_token={token}");
    let twice = headers(&[
        ("authorization", &line(&token)),
        ("authorization", &line(&token)),
    ]);
    assert_eq!(outcome(vec![rule()], &twice, None), Err(Reason::Several));
    let joined = bearer(&format!("{token}, Bearer {token}"));
    assert_eq!(outcome(vec![rule()], &joined, None), Err(Reason::Malformed));
    for (second, expected) in [(&other, Err(Reason::Several)), (&token, Ok(true))] {
        let got = outcome(vec![rule()], &bearer(&token), Some(&query(second)));
        assert_eq!(got.map(|token| token.is_some()), expected);
    }
    // The second rule's place does not count for the first one's token.
    let second = JwtRule {
        issuer: "other".into(),
        places: vec![header("x-jwt", "")],
        ..rule()
    };
    let elsewhere = headers(&[("x-jwt", &token)]);
    assert_eq!(
        outcome(vec![rule(), second], &elsewhere, None),
        Err(Reason::Issuer)
    );
}

#[test]
fn one_of_several_rules_of_an_issuer_suffices() {
    let strict = JwtRule {
        audiences: vec!["bank".into()],
        position: 1,
        ..rule()
    };
    let token = bearer(&good(&claims()));
    let taken = outcome(vec![strict.clone(), rule()], &token, None);
    assert_eq!(taken.unwrap().unwrap().rule, 1);
    let all = Authentication::new(vec![strict.clone(), strict]).unwrap();
    let found = all.find(&token, None).unwrap().unwrap();
    assert_eq!(
        all.check(&found, NOW, &Fake).unwrap_err().by(),
        "RequestAuthentication shop/jwt, spec.jwtRules[1]: it is for another audience"
    );
}

#[test]
fn what_stands_in_for_a_policy_takes_no_token_and_leaves_the_others_theirs() {
    let stands_in = JwtRule::refusing(rule().source, 0, "it can't be compiled".into());
    let token = good(&claims());
    assert_eq!(refusal(stands_in.clone(), &token), Some(Reason::NoKeys));
    let nobody_s = good(&json!({"iss": ""}));
    assert_eq!(refusal(stands_in.clone(), &nobody_s), Some(Reason::NoKeys));
    assert_eq!(
        outcome(vec![stands_in.clone()], &HeaderMap::new(), None),
        Ok(None)
    );
    let both = outcome(vec![stands_in, rule()], &bearer(&token), None);
    assert!(both.unwrap().is_some());
}

#[test]
fn the_application_is_told_what_rules_say_and_nothing_that_a_caller_says() {
    let rule = JwtRule {
        payload_header: Some(HeaderName::from_static("x-payload")),
        claim_headers: [
            ("x-sub", "sub"),
            ("x-role", "realm.role"),
            ("x-dotted", "a.b"),
            ("x-list", "list"),
            ("x-age", "age"),
        ]
        .map(|(name, claim)| (HeaderName::from_static(name), claim.to_owned()))
        .into(),
        ..rule()
    };
    let claims = json!({"iss": "issuer", "sub": "ann", "realm": {"role": "root"}, "a.b": true, "list": [1], "age": 7});
    let token = good(&claims);
    let all = Authentication::new(vec![rule.clone()]).unwrap();
    let forged = [
        ("x-sub", "root"),
        ("x-payload", "e30"),
        ("x-list", "1"),
        ("x-other", "1"),
    ];
    let mut sent = headers(&forged);
    all.edit(&mut sent, None);
    assert_eq!(sent, headers(&[("x-other", "1")]), "without a token too");

    let mut sent = headers(&forged);
    sent.extend(bearer(&token));
    let request = sent.clone();
    let query = format!("a=1&access_token={token}&b=%20");
    let found = all.find(&request, Some(&query)).unwrap().unwrap();
    let accepted = all.check(&found, NOW, &Fake).unwrap();
    all.edit(&mut sent, Some((&accepted, &found.at)));
    let payload = token.split('.').nth(1).unwrap();
    let told = [
        ("x-payload", payload),
        ("x-sub", "ann"),
        ("x-role", "root"),
        ("x-dotted", "true"),
        ("x-age", "7"),
        ("x-other", "1"),
    ];
    assert_eq!(sent, headers(&told), "and the token stays here");
    assert_eq!(
        all.edited_query(&query, &accepted, &found.at).as_deref(),
        Some("a=1&b=%20")
    );

    let all = Authentication::new(vec![JwtRule {
        forward: true,
        ..rule
    }])
    .unwrap();
    let mut sent = request.clone();
    all.edit(&mut sent, Some((&accepted, &found.at)));
    assert_eq!(sent["authorization"], request["authorization"]);
    assert_eq!(all.edited_query(&query, &accepted, &found.at), None);
}

#[test]
fn a_cookie_is_taken_out_from_between_others() {
    let rule = JwtRule {
        places: vec![Place::Cookie("jwt".into())],
        ..rule()
    };
    let token = good(&claims());
    for (before, after) in [
        (format!("a=1; jwt={token}; b=2"), Some("a=1; b=2")),
        (format!("jwt={token}"), None),
    ] {
        let all = Authentication::new(vec![rule.clone()]).unwrap();
        let request = headers(&[("cookie", &before)]);
        let found = all.find(&request, None).unwrap().unwrap();
        let accepted = all.check(&found, NOW, &Fake).unwrap();
        let mut sent = request.clone();
        all.edit(&mut sent, Some((&accepted, &found.at)));
        let left = sent.get("cookie").map(|value| value.to_str().unwrap());
        assert_eq!(left, after);
    }
}

#[test]
fn lists_in_text_are_lists() {
    let rule = JwtRule {
        space_delimited: vec!["roles".into()],
        ..rule()
    };
    let claims = json!({"iss": "issuer", "scope": "read write", "roles": "a b", "name": "a b"});
    let token = outcome(vec![rule], &bearer(&good(&claims)), None)
        .unwrap()
        .unwrap();
    let has = |name: &str, word: &str| token.claims.any(&[name.to_owned()], |text| text == word);
    assert!(has("scope", "write") && has("roles", "b") && has("name", "a b"));
    assert!(!has("scope", "read write") && !has("name", "b"));
}

#[test]
fn keys_that_can_t_be_used_are_named() {
    let n = URL_SAFE_NO_PAD.encode([1_u8; 256]);
    let short = URL_SAFE_NO_PAD.encode([1_u8; 128]);
    let x = URL_SAFE_NO_PAD.encode([1_u8; 32]);
    let set = json!({"keys": [
        {"kty": "RSA", "kid": "good", "n": n, "e": "AQAB", "alg": "RS256", "use": "sig"},
        {"kty": "EC", "crv": "P-256", "x": x, "y": x},
        {"kty": "OKP", "crv": "Ed25519", "x": x, "d": x},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "RSA", "n": short, "e": "AQAB"},
        {"kty": "RSA", "n": n, "e": "AQAB", "alg": "HS256"},
        {"kty": "RSA", "n": n, "e": "AQAB", "use": "enc"},
        {"kty": "RSA", "n": n, "e": "AA"},
        {"kty": "EC", "crv": "P-521", "x": x, "y": x},
        {"kty": "EC", "crv": "P-384", "x": x, "y": x},
        {"kty": "RSA", "n": 5},
        {"kty": "RSA", "n": "%", "e": "AQAB"},
        {"kty": "RSA", "n": n, "e": "AQAB", "key_ops": ["sign"]},
        "key",
    ]});
    let (keys, notes) = jwk::read(set.to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0].id.as_deref(), Some("good"));
    for (note, expected) in notes.iter().zip([
        "keys[2] holds the private key",
        "keys[3] (shared) is not used: it is symmetric",
        "keys[4] is not used: its modulus has 1024 bits",
        "keys[5] is not used: its alg \"HS256\"",
        "keys[6] is not used: its use is \"enc\"",
        "keys[7] is not used: its exponent",
        "keys[8] is not used: its curve \"P-521\"",
        "keys[9] is not used: it is not a point of P-384",
        "keys[10] is not used: ",
        "keys[11] is not used: its n is not base64url",
        "keys[12] is not used: its key_ops",
        "keys[13] is not used: ",
    ]) {
        assert!(note.starts_with(expected), "{note}");
    }
    assert_eq!(notes.len(), 12);
    assert!(!notes.concat().contains("c2VjcmV0"), "no secret is told");
    let many =
        json!({"keys": vec![json!({"kty": "RSA", "n": n, "e": "AQAB"}); jwk::MOST_KEYS + 1]});
    let (keys, notes) = jwk::read(many.to_string().as_bytes()).unwrap();
    assert_eq!((keys.len(), notes.len()), (jwk::MOST_KEYS, 1));
    for bad in [
        "",
        "{}",
        "[]",
        "{\"keys\": 1}",
        "{\"keys\": []}",
        "{\"keys\": [{\"kty\": \"oct\"}]}",
    ] {
        assert!(jwk::read(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn keys_that_nobody_has_fetched_since_are_those_of_before() {
    let from = |url: &str, keys: Vec<Jwk>| JwtRule {
        keys_from: url.into(),
        problem: keys.is_empty().then(|| "not yet".to_owned()),
        keys,
        ..rule()
    };
    let all = |rules| Authentication::new(rules).unwrap();
    let before = all(vec![from("a", vec![key(Some("old"))])]);
    let kept = |rule: JwtRule| all(vec![rule]).with_keys_of(&before).rules()[0].clone();
    let same = kept(from("a", vec![]));
    assert_eq!(
        (same.keys.clone(), same.problem.clone()),
        (vec![key(Some("old"))], None)
    );
    let newer = vec![key(Some("new"))];
    assert_eq!(kept(from("a", newer.clone())).keys, newer);
    let others = JwtRule {
        issuer: "other".into(),
        ..from("a", vec![])
    };
    for rule in [from("b", vec![]), from("", vec![]), others] {
        assert_eq!(kept(rule).keys, []);
    }
}

/// What CGI reads as the header of a token is no token to the sidecar, so it is none to
/// the application; and behind a body there is none at all.
#[test]
fn no_other_spelling_of_a_token_s_header_comes_through() {
    let rule = JwtRule {
        places: vec![
            header("x-jwt-token", ""),
            header("authorization", "Bearer "),
        ],
        ..rule()
    };
    let all = Authentication::new(vec![rule]).unwrap();
    for spelling in ["x_jwt_token", "x.jwt-token", "x-jwt~token", "x|jwt|token"] {
        let mut sent = headers(&[(spelling, "forged"), ("x-other", "1"), ("xyjwt-token", "1")]);
        all.edit(&mut sent, None);
        let left = headers(&[("x-other", "1"), ("xyjwt-token", "1")]);
        assert_eq!(sent, left, "{spelling}");
        assert!(all.owns(&HeaderName::from_static(spelling)), "{spelling}");
    }
    assert!(all.owns(&HeaderName::from_static("x-jwt-token")));
    assert!(!all.owns(&HeaderName::from_static("x-jwt-tokens")));
    // What is no token is the application's, as it was sent.
    let mut sent = headers(&[("x-jwt-token", "a"), ("authorization", "Basic b")]);
    let before = sent.clone();
    all.edit(&mut sent, None);
    assert_eq!(sent, before);
}

/// What a common application reads as a token is one, however it is spelled.
#[test]
fn a_token_has_several_spellings() {
    let rules = Authentication::new([rule()]).unwrap();
    for (header, query) in [
        ("Bearer a.b.c", None),
        ("Bearer  a.b.c", None),
        ("bearer\ta.b.c", None),
        ("\u{a0}Bearer\u{a0}a.b.c\u{85}", None),
        ("", Some("access_token=a.b.c")),
        ("", Some("x=1&access_token=a.b.c")),
        ("", Some("x=1;access_token=a.b.c")),
        ("", Some("access%5Ftoken=a.b.c")),
        ("", Some("%20access_token=a.b.c")),
        ("", Some("access.token=a.b.c")),
        ("", Some("access[token=a.b.c")),
    ] {
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            let bytes: Vec<u8> = header.chars().map(|c| u8::try_from(c).unwrap()).collect();
            let value = http::HeaderValue::from_bytes(&bytes).unwrap();
            headers.insert(http::header::AUTHORIZATION, value);
        }
        let found = rules.find(&headers, query).unwrap();
        assert_eq!(
            found.map(|f| f.text).as_deref(),
            Some("a.b.c"),
            "{header} {query:?}"
        );
    }
    for query in ["token=a.b.c", "x=access_token", "access-token=a.b.c"] {
        assert!(
            rules
                .find(&HeaderMap::new(), Some(query))
                .unwrap()
                .is_none()
        );
    }
    let kept = place::without_parameters(
        "a=1;access.token=a.b.c;b=2&access_token=d&c=3",
        &["access_token"],
    );
    assert_eq!(kept, "a=1;b=2&c=3");
}
