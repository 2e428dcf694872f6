//! From text to an expression.

use super::{Attribute, Expression, NotUnderstood, Operator, Value};
use crate::regexes::Budget;
use http::HeaderName;
use std::{iter::Peekable, time::Duration, vec::IntoIter};

/// The longest expression, bytes.
const LONGEST: usize = 4096;
/// How deep parentheses and negations may be nested.
const DEEPEST: usize = 32;
/// What all `matches` may take in memory once they are compiled, bytes.
const REGEXES: usize = 256 << 10;

type Result<T> = std::result::Result<T, NotUnderstood>;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(i64),
    /// An operator or a parenthesis.
    Sign(&'static str),
}

/// Longest first, so that `<=` is not taken for `<`.
const SIGNS: [&str; 17] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ",", ".", "-", "?",
];

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(NotUnderstood(reason.into()))
}

/// Reads an expression, and the headers that it asks for.
pub(super) fn expression(text: &str, headers: &mut Vec<HeaderName>) -> Result<Expression> {
    if text.len() > LONGEST {
        return refuse(format!("it is longer than {LONGEST} bytes"));
    }
    let mut reader = Reader {
        tokens: tokens(text)?.into_iter().peekable(),
        headers,
        depth: 0,
        regexes: Budget::new(REGEXES, "left of the filter's"),
    };
    let root = reader.or()?;
    match reader.tokens.next() {
        None => Ok(root),
        Some(more) => refuse(format!(
            "{} is not expected where it stands",
            name_of(&more)
        )),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => quoted(rest, first)?,
            '0'..='9' => {
                let length = rest
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len());
                match rest[..length].parse() {
                    Ok(number) => (Token::Number(number), length),
                    Err(_) => return refuse(format!("{} is too large", &rest[..length])),
                }
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let length = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                (Token::Name(rest[..length].to_owned()), length)
            }
            other => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (Token::Sign(sign), sign.len()),
                None => return refuse(format!("{other:?} is not understood")),
            },
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A text in quotes, and how long it is with them.
fn quoted(text: &str, quote: char) -> Result<(Token, usize)> {
    let mut content = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((Token::Text(content), at + 1)),
            '\\' => match characters.next() {
                Some((_, escaped @ ('\\' | '\'' | '"'))) => content.push(escaped),
                Some((_, 'n')) => content.push('\n'),
                Some((_, 't')) => content.push('\t'),
                // Of regular expressions, which authors often forget to double.
                Some((_, other)) => content.extend(['\\', other]),
                None => break,
            },
            _ => content.push(character),
        }
    }
    refuse("a quote is not closed")
}

fn name_of(token: &Token) -> String {
    match token {
        Token::Name(name) => name.clone(),
        Token::Text(text) => format!("{text:?}"),
        Token::Number(number) => number.to_string(),
        Token::Sign(sign) => format!("\"{sign}\""),
    }
}

struct Reader<'a> {
    tokens: Peekable<IntoIter<Token>>,
    headers: &'a mut Vec<HeaderName>,
    depth: usize,
    regexes: Budget,
}

/// The left or right side of a comparison.
enum Operand {
    Attribute(Attribute),
    Literal(Value<'static>),
    /// A condition in itself.
    Condition(Expression),
    /// `request.headers`, of which one is asked for with `in`.
    Headers,
}

impl Reader<'_> {
    fn is(&mut self, sign: &str) -> bool {
        let found = matches!(self.tokens.peek(), Some(Token::Sign(next)) if *next == sign);
        if found {
            self.tokens.next();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.is(sign) {
            return Ok(());
        }
        match self.tokens.peek() {
            Some(other) => refuse(format!("\"{sign}\" is expected before {}", name_of(other))),
            None => refuse(format!("\"{sign}\" is expected at the end")),
        }
    }

    fn or(&mut self) -> Result<Expression> {
        let mut left = self.and()?;
        while self.is("||") {
            left = Expression::Or(Box::new([left, self.and()?]));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression> {
        let mut left = self.unary()?;
        while self.is("&&") {
            left = Expression::And(Box::new([left, self.unary()?]));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return refuse(format!("it is nested deeper than {DEEPEST}"));
        }
        let read = if self.is("!") {
            let inner = self.unary()?;
            Ok(Expression::Not(Box::new(inner)))
        } else {
            self.comparison()
        };
        self.depth -= 1;
        read
    }

    fn comparison(&mut self) -> Result<Expression> {
        let left = self.operand()?;
        const OPERATORS: [(&str, Operator); 6] = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::AtMost),
            (">=", Operator::AtLeast),
            ("<", Operator::Less),
            (">", Operator::More),
        ];
        for (sign, operator) in OPERATORS {
            if self.is(sign) {
                let right = self.operand()?;
                return compare(left, operator, right);
            }
        }
        if self.tokens.peek() == Some(&Token::Name("in".to_owned())) {
            self.tokens.next();
            return self.contained(left);
        }
        match left {
            Operand::Condition(condition) => Ok(condition),
            Operand::Literal(Value::Bool(constant)) => Ok(Expression::Constant(constant)),
            Operand::Attribute(attribute) if kind(attribute) == Kind::Bool => {
                Ok(Expression::Is(attribute))
            }
            _ => refuse("it is no condition: compare it with something"),
        }
    }

    /// What stands behind `in`.
    fn contained(&mut self, left: Operand) -> Result<Expression> {
        match left {
            Operand::Literal(Value::Text(name)) => {
                let named = self.operand()?;
                let Operand::Headers = named else {
                    return refuse("a text can be looked for in request.headers alone");
                };
                Ok(Expression::Has(self.header(&name)?))
            }
            Operand::Attribute(attribute) => {
                self.expect("[")?;
                let mut literals = Vec::new();
                while !self.is("]") {
                    let Operand::Literal(literal) = self.operand()? else {
                        return refuse("a list has literals");
                    };
                    same_kind(attribute, &literal)?;
                    literals.push(literal);
                    if !self.is(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                Ok(Expression::In(attribute, literals))
            }
            _ => refuse("\"in\" wants an attribute or a header's name before it"),
        }
    }

    fn operand(&mut self) -> Result<Operand> {
        if self.is("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(Operand::Condition(inner));
        }
        if self.is("-") {
            return match self.tokens.next() {
                Some(Token::Number(number)) => Ok(Operand::Literal(Value::Number(-number))),
                _ => refuse("a number is expected behind \"-\""),
            };
        }
        match self.tokens.next() {
            Some(Token::Number(number)) => Ok(Operand::Literal(Value::Number(number))),
            Some(Token::Text(text)) => Ok(Operand::Literal(Value::Text(text.into()))),
            Some(Token::Name(name)) => self.named(&name),
            Some(other) => refuse(format!(
                "{} is not expected where it stands",
                name_of(&other)
            )),
            None => refuse("something is missing at the end"),
        }
    }

    fn named(&mut self, name: &str) -> Result<Operand> {
        match name {
            "true" => return Ok(Operand::Literal(Value::Bool(true))),
            "false" => return Ok(Operand::Literal(Value::Bool(false))),
            "has" => {
                self.expect("(")?;
                let Operand::Attribute(attribute) = self.operand()? else {
                    return refuse("has() asks for an attribute");
                };
                self.expect(")")?;
                return Ok(Operand::Condition(Expression::Has(attribute)));
            }
            "duration" => {
                let text = self.argument()?;
                let period = period(&text)?;
                return Ok(Operand::Literal(Value::Duration(period)));
            }
            _ => {}
        }
        self.expect(".")?;
        let Some(Token::Name(field)) = self.tokens.next() else {
            return refuse(format!("a name is expected behind {name}."));
        };
        let path = format!("{name}.{field}");
        let attribute = if path == "request.headers" {
            if !self.is("[") {
                return Ok(Operand::Headers);
            }
            let Some(Token::Text(header)) = self.tokens.next() else {
                return refuse("request.headers wants a header's name in quotes");
            };
            self.expect("]")?;
            self.header(&header)?
        } else {
            self.attribute(&path)?
        };
        if !self.is(".") {
            return Ok(Operand::Attribute(attribute));
        }
        let Some(Token::Name(method)) = self.tokens.next() else {
            return refuse(format!("a name is expected behind {path}."));
        };
        self.call(attribute, &path, &method).map(Operand::Condition)
    }

    fn attribute(&mut self, path: &str) -> Result<Attribute> {
        Ok(match path {
            "response.code" => Attribute::ResponseCode,
            "response.grpc_status" => Attribute::GrpcStatus,
            "response.size" => Attribute::ResponseSize,
            "request.size" => Attribute::RequestSize,
            "request.duration" => Attribute::Duration,
            "request.method" => Attribute::Method,
            "request.path" => Attribute::Path,
            "request.url_path" => Attribute::UrlPath,
            "request.query" => Attribute::Query,
            "request.host" => Attribute::Host,
            "request.protocol" => Attribute::Protocol,
            "request.id" => self.header("x-request-id")?,
            "request.useragent" => self.header("user-agent")?,
            "request.referer" => self.header("referer")?,
            "connection.mtls" => Attribute::Mtls,
            "connection.uri_san_peer_certificate" => Attribute::PeerIdentity,
            "connection.uri_san_local_certificate" => Attribute::OwnIdentity,
            "source.address" => Attribute::SourceAddress,
            "upstream.address" => Attribute::UpstreamAddress,
            _ => return refuse(format!("the attribute {path} is not known here")),
        })
    }

    fn header(&mut self, name: &str) -> Result<Attribute> {
        let Ok(name) = HeaderName::try_from(name) else {
            return refuse(format!("{name:?} is not a header's name"));
        };
        let known = self.headers.iter().position(|known| *known == name);
        Ok(Attribute::Header(known.unwrap_or_else(|| {
            self.headers.push(name);
            self.headers.len() - 1
        })))
    }

    fn call(&mut self, attribute: Attribute, path: &str, method: &str) -> Result<Expression> {
        if kind(attribute) != Kind::Text {
            return refuse(format!("{path} is no text, so it has no {method}()"));
        }
        let argument = self.argument()?;
        Ok(match method {
            "startsWith" => Expression::Starts(attribute, argument),
            "endsWith" => Expression::Ends(attribute, argument),
            "contains" => Expression::Contains(attribute, argument),
            "matches" => match self.regexes.anywhere(&argument) {
                Ok(regex) => Expression::Matches(attribute, regex),
                Err(error) => {
                    return refuse(format!(
                        "{argument:?} is not a usable regular expression: {error}"
                    ));
                }
            },
            _ => return refuse(format!("{method}() is not known here")),
        })
    }

    fn argument(&mut self) -> Result<String> {
        self.expect("(")?;
        let Some(Token::Text(argument)) = self.tokens.next() else {
            return refuse("a text in quotes is expected in the parentheses");
        };
        self.expect(")")?;
        Ok(argument)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Bool,
    Duration,
}

const fn kind(attribute: Attribute) -> Kind {
    match attribute {
        Attribute::ResponseCode
        | Attribute::GrpcStatus
        | Attribute::ResponseSize
        | Attribute::RequestSize => Kind::Number,
        Attribute::Duration => Kind::Duration,
        Attribute::Mtls => Kind::Bool,
        Attribute::Method
        | Attribute::Path
        | Attribute::UrlPath
        | Attribute::Query
        | Attribute::Host
        | Attribute::Protocol
        | Attribute::Header(_)
        | Attribute::PeerIdentity
        | Attribute::OwnIdentity
        | Attribute::SourceAddress
        | Attribute::UpstreamAddress => Kind::Text,
    }
}

fn same_kind(attribute: Attribute, literal: &Value<'_>) -> Result<()> {
    let given = match literal {
        Value::Number(_) => Kind::Number,
        Value::Text(_) => Kind::Text,
        Value::Bool(_) => Kind::Bool,
        Value::Duration(_) => Kind::Duration,
    };
    let (what, example) = match kind(attribute) {
        wanted if wanted == given => return Ok(()),
        Kind::Number => ("a number", "500"),
        Kind::Text => ("a text", "'GET'"),
        Kind::Bool => ("true or false", "true"),
        Kind::Duration => ("a period", "duration('1s')"),
    };
    refuse(format!(
        "what is {what} is compared with one, as in {example}"
    ))
}

fn compare(left: Operand, operator: Operator, right: Operand) -> Result<Expression> {
    let (attribute, operator, literal) = match (left, right) {
        (Operand::Attribute(attribute), Operand::Literal(literal)) => {
            (attribute, operator, literal)
        }
        (Operand::Literal(literal), Operand::Attribute(attribute)) => {
            (attribute, operator.swapped(), literal)
        }
        _ => return refuse("an attribute can be compared with a literal alone"),
    };
    same_kind(attribute, &literal)?;
    let ordered = !matches!(operator, Operator::Equal | Operator::NotEqual);
    if ordered && kind(attribute) == Kind::Bool {
        return refuse("true and false have no order");
    }
    Ok(Expression::Compare(attribute, operator, literal))
}

/// A period as CEL writes it: `1s`, `250ms`, `1.5s`, `2m`.
fn period(text: &str) -> Result<Duration> {
    const UNITS: [(&str, f64); 5] = [
        ("ms", 1e-3),
        ("us", 1e-6),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let read = UNITS.iter().find_map(|(unit, seconds)| {
        let count: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Duration::try_from_secs_f64(count * seconds).ok()
    });
    match read {
        Some(period) => Ok(period),
        None => refuse(format!("{text:?} is no period like 1s or 250ms")),
    }
}
