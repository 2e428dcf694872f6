//! An issuer of tokens, made on the spot, for the tests of other crates: it signs
//! what it is told to, wrong or right.
#![allow(
    clippy::expect_used,
    reason = "for tests alone, in which a panic is a failure"
)]

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Private keys of each kind: `rsa`, `p256`, `p384` and `ed25519` are their ids.
pub struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Default for Issuer {
    fn default() -> Self {
        const MADE: &str = "a key can be made";
        let p256 = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let p384 = &ECDSA_P384_SHA384_FIXED_SIGNING;
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect(MADE),
            p256: EcdsaKeyPair::generate(p256).expect(MADE),
            p384: EcdsaKeyPair::generate(p384).expect(MADE),
            ed25519: Ed25519KeyPair::generate().expect(MADE),
        }
    }
}

impl Issuer {
    /// The public keys, as a JWKS.
    pub fn jwks(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = |key: &EcdsaKeyPair, kid: &str, curve: &str| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "kid": kid, "crv": curve, "x": text(x), "y": text(y)})
        };
        let (n, e) = self.rsa_numbers();
        json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "n": text(n), "e": text(e)},
            point(&self.p256, "p256", "P-256"),
            point(&self.p384, "p384", "P-384"),
            {"kty": "OKP", "kid": "ed25519", "crv": "Ed25519", "x": text(self.ed25519.public_key().as_ref())},
        ]})
    }

    /// The RSA key's public half in DER, which some mistake for a secret.
    pub fn public_der(&self) -> &[u8] {
        self.rsa.public_key().as_ref()
    }

    /// Modulus and exponent, from PKCS #1: SEQUENCE, INTEGER of 257 bytes with a
    /// leading zero, INTEGER of 3.
    fn rsa_numbers(&self) -> (&[u8], &[u8]) {
        let der = self.public_der();
        (&der[9..265], &der[267..270])
    }

    /// A token of these claims, signed by the key that the algorithm is for.
    pub fn token(&self, algorithm: &str, claims: &Value) -> String {
        let key = match algorithm {
            "ES256" => "p256",
            "ES384" => "p384",
            "EdDSA" => "ed25519",
            _ => "rsa",
        };
        self.signed(&json!({"alg": algorithm, "kid": key}), claims)
    }

    /// A token of this header, signed as its `alg` says; an `alg` that is not known
    /// is not signed.
    pub fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = self.signature(header["alg"].as_str().unwrap_or_default(), &message);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn signature(&self, algorithm: &str, message: &str) -> Vec<u8> {
        const SIGNED: &str = "a key of one's own signs";
        let random = SystemRandom::new();
        let message = message.as_bytes();
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            let signed = self.rsa.sign(encoding, &random, message, &mut signature);
            signed.expect(SIGNED);
            signature
        };
        let curve = |key: &EcdsaKeyPair| key.sign(&random, message).expect(SIGNED);
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => curve(&self.p256).as_ref().to_vec(),
            "ES384" => curve(&self.p384).as_ref().to_vec(),
            "EdDSA" => self.ed25519.sign(message).as_ref().to_vec(),
            _ => Vec::new(),
        }
    }
}

/// A token signed by a shared secret, HS256.
pub fn with_secret(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = unsigned(header, claims);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let signature = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}
