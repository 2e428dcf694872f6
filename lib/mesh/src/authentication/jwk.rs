//! Public keys (RFC 7517, 7518 and 8037), checked as far as that takes no
//! cryptography.
//!
//! There is no symmetric key: a token "signed" with one could be made by whoever
//! can check it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

/// Keys of one rule at most: a token that names none is tried with each.
pub const MOST_KEYS: usize = 32;
/// An RSA key's length, bytes: from 2048 bits (RFC 7518, 3.3) to 8192.
const RSA_LENGTHS: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "RFC 7518's and RFC 8037's own names")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    const NAMES: [(Self, &'static str); 9] = [
        (Self::Rs256, "RS256"),
        (Self::Rs384, "RS384"),
        (Self::Rs512, "RS512"),
        (Self::Ps256, "PS256"),
        (Self::Ps384, "PS384"),
        (Self::Ps512, "PS512"),
        (Self::Es256, "ES256"),
        (Self::Es384, "ES384"),
        (Self::EdDsa, "EdDSA"),
    ];

    /// The algorithm of a name; `none` and the symmetric ones are none.
    pub fn named(name: &str) -> Option<Self> {
        let mut names = Self::NAMES.iter();
        names.find(|(_, known)| *known == name).map(|(a, _)| *a)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        names
            .find(|(known, _)| *known == self)
            .map_or("", |(_, name)| name)
    }
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA, big-endian.
    Rsa {
        /// The modulus, without leading zeros.
        modulus: Vec<u8>,
        /// The exponent.
        exponent: Vec<u8>,
    },
    /// A point of P-256, uncompressed.
    P256(Vec<u8>),
    /// A point of P-384, uncompressed.
    P384(Vec<u8>),
    /// Ed25519.
    Ed25519(Vec<u8>),
}

/// A key that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

impl PublicKey {
    /// An RSA key.
    ///
    /// # Errors
    /// It is shorter than 2048 bits or longer than 8192, or its exponent is none.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, Unusable> {
        let trim = |number: &[u8]| -> Vec<u8> {
            let start = number.iter().position(|byte| *byte != 0);
            number[start.unwrap_or(number.len())..].to_vec()
        };
        let (modulus, exponent) = (trim(modulus), trim(exponent));
        if !RSA_LENGTHS.contains(&modulus.len()) {
            let bits = modulus.len() * 8;
            return Err(Unusable(format!(
                "its modulus has {bits} bits; RSA keys have from 2048 to 8192"
            )));
        }
        let odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
        if !odd || exponent == [1] || exponent.len() > 8 {
            return Err(Unusable("its exponent e is not one of RSA".to_owned()));
        }
        Ok(Self::Rsa { modulus, exponent })
    }

    /// A key of a named curve, as [`PublicKey::curve`] names it and
    /// [`PublicKey::point`] gives it.
    ///
    /// # Errors
    /// The curve is not known, or the point is of another length.
    pub fn on(curve: &str, point: Vec<u8>) -> Result<Self, Unusable> {
        let length = match curve {
            "P-256" => 65,
            "P-384" => 97,
            "Ed25519" => 32,
            other => {
                return Err(Unusable(format!(
                    "its curve {other:?} is not one of P-256, P-384 and Ed25519"
                )));
            }
        };
        let marked = curve == "Ed25519" || point.first() == Some(&4);
        if point.len() != length || !marked {
            return Err(Unusable(format!("it is not a point of {curve}")));
        }
        Ok(match curve {
            "P-256" => Self::P256(point),
            "P-384" => Self::P384(point),
            _ => Self::Ed25519(point),
        })
    }

    /// The curve of a key that has one.
    pub fn curve(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "",
            Self::P256(_) => "P-256",
            Self::P384(_) => "P-384",
            Self::Ed25519(_) => "Ed25519",
        }
    }

    /// Its point; RSA has none.
    pub fn point(&self) -> &[u8] {
        match self {
            Self::Rsa { .. } => &[],
            Self::P256(point) | Self::P384(point) | Self::Ed25519(point) => point,
        }
    }

    /// Whether tokens signed so can be of this key.
    pub fn is_of(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        match algorithm {
            A::Rs256 | A::Rs384 | A::Rs512 | A::Ps256 | A::Ps384 | A::Ps512 => {
                matches!(self, Self::Rsa { .. })
            }
            A::Es256 => matches!(self, Self::P256(_)),
            A::Es384 => matches!(self, Self::P384(_)),
            A::EdDsa => matches!(self, Self::Ed25519(_)),
        }
    }
}

/// A public key with what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    /// Its name.
    pub id: Option<String>,
    /// The one algorithm it is for; `None`: whichever it can be of.
    pub algorithm: Option<Algorithm>,
    /// The key.
    pub key: PublicKey,
}

impl Jwk {
    /// Whether a token that names this key and algorithm may be of this key.
    pub fn is_for(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        let named = self.id.as_deref().zip(id).is_none_or(|(own, id)| own == id);
        let meant = self.algorithm.is_none_or(|only| only == algorithm);
        named && meant && self.key.is_of(algorithm)
    }
}

/// Text that holds no usable keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is no JWKS.
    #[error("is not a JWKS, a JSON object {{\"keys\": […]}}: {0}")]
    NotJwks(String),
    /// It has no key that could be used.
    #[error("has no usable key{0}")]
    NoKey(String),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    n: String,
    e: String,
    crv: String,
    x: String,
    y: String,
    d: Option<Value>,
}

/// Reads a JWKS; and says of which keys in it no use is made, and why.
///
/// # Errors
/// Text that is no JWKS, or has no usable key.
pub fn read(text: &[u8]) -> Result<(Vec<Jwk>, Vec<String>), Invalid> {
    let set: Set =
        serde_json::from_slice(text).map_err(|error| Invalid::NotJwks(error.to_string()))?;
    let (mut keys, mut notes) = (Vec::new(), Vec::new());
    for (at, value) in set.keys.into_iter().enumerate() {
        let fields = Fields::deserialize(value).map_err(|error| error.to_string());
        let name = match &fields {
            Ok(Fields { kid: Some(kid), .. }) => format!("keys[{at}] ({kid})"),
            _ => format!("keys[{at}]"),
        };
        if fields.as_ref().is_ok_and(|fields| fields.d.is_some()) {
            notes.push(format!(
                "{name} holds the private key: whoever can read this can make tokens"
            ));
        }
        match fields.and_then(|fields| one(fields).map_err(|error| error.to_string())) {
            Ok(_) if keys.len() == MOST_KEYS => {
                notes.push(format!("{name} is one too many: {MOST_KEYS} are used"));
            }
            Ok(key) => keys.push(key),
            Err(reason) => notes.push(format!("{name} is not used: {reason}")),
        }
    }
    if keys.is_empty() {
        let reasons = notes.iter().map(|note| format!("; {note}"));
        return Err(Invalid::NoKey(reasons.collect()));
    }
    Ok((keys, notes))
}

fn one(fields: Fields) -> Result<Jwk, Unusable> {
    let unusable = |text: String| Err(Unusable(text));
    if let Some(purpose) = fields.purpose.filter(|purpose| purpose != "sig") {
        return unusable(format!("its use is {purpose:?}, not \"sig\""));
    }
    if fields
        .key_ops
        .is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
    {
        return unusable("its key_ops do not hold \"verify\"".to_owned());
    }
    let bytes = |name: &str, text: &str| {
        URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|_| Unusable(format!("its {name} is not base64url")))
    };
    let key = match fields.kty.as_str() {
        "RSA" => PublicKey::rsa(&bytes("n", &fields.n)?, &bytes("e", &fields.e)?)?,
        "EC" => {
            let mut point = vec![4];
            point.extend(bytes("x", &fields.x)?);
            point.extend(bytes("y", &fields.y)?);
            match fields.crv.as_str() {
                "Ed25519" => return unusable("Ed25519 is no curve of kty EC".to_owned()),
                curve => PublicKey::on(curve, point)?,
            }
        }
        "OKP" => match fields.crv.as_str() {
            "Ed25519" => PublicKey::on("Ed25519", bytes("x", &fields.x)?)?,
            other => return unusable(format!("its curve {other:?} is not Ed25519")),
        },
        "oct" => {
            return unusable(
                "it is symmetric: whoever can check tokens with it can make them".to_owned(),
            );
        }
        other => return unusable(format!("its kty {other:?} is not one of RSA, EC and OKP")),
    };
    let algorithm = match fields.alg {
        None => None,
        Some(name) => match Algorithm::named(&name) {
            Some(algorithm) if key.is_of(algorithm) => Some(algorithm),
            _ => return unusable(format!("its alg {name:?} is none that it can be for")),
        },
    };
    Ok(Jwk {
        id: fields.kid,
        algorithm,
        key,
    })
}
