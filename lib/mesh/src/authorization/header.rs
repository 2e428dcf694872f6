//! A condition on a header, by every way in which applications read one.
//!
//! A field may stand there several times, with a list in one line, and CGI and WSGI
//! take `x_role` and `x.role` for `x-role`. What is not sure is never to the caller's advantage: an
//! ALLOW rule must fit each line, and a DENY rule fits if any line, any part of a list
//! or the joined lines do. A value that is not UTF-8 is also read as Latin-1, as Node, Java
//! and Python's WSGI do. Cookies that HTTP/2 has cut apart are one line.

use super::{
    HttpRequest,
    pattern::{Match, Pattern},
};
use crate::field::{joined, reads_as};
use http::{HeaderName, HeaderValue, header::COOKIE};
use std::{borrow::Cow, iter};

/// Reports whether a request's header is as a rule demands.
pub(super) fn fits(
    request: &HttpRequest<'_>,
    name: &HeaderName,
    demand: &Match<Pattern>,
    denies: bool,
) -> bool {
    let mut spelt = lines(request, name);
    let Some(first) = spelt.next() else {
        return demand.holds(|_| false);
    };
    let second = spelt.next();
    if second.is_none() && first.exact && !first.text.contains(',') {
        return demand.holds(|pattern| pattern.fits_present(&first.text));
    }
    let lines: Vec<Line<'_>> = [Some(first), second]
        .into_iter()
        .flatten()
        .chain(spelt)
        .collect();
    let texts: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
    let named = lines.iter().any(|line| line.exact);
    let hits = |list: &[Pattern], text: &str| list.iter().any(|p| p.fits_present(text));
    let possibly = |list: &[Pattern]| each_reading(&texts, |text| hits(list, text));
    if denies {
        let none_is_sure = named && texts.iter().all(|text| hits(&demand.none, text));
        (demand.any.is_empty() || possibly(&demand.any))
            && (demand.none.is_empty() || !none_is_sure)
    } else {
        let any_is_sure = named && texts.iter().all(|text| hits(&demand.any, text));
        (demand.any.is_empty() || any_is_sure) && !possibly(&demand.none)
    }
}

struct Line<'a> {
    text: Cow<'a, str>,
    /// The name is the one that the policy writes.
    exact: bool,
}

fn lines<'a>(request: &'a HttpRequest<'_>, name: &'a HeaderName) -> impl Iterator<Item = Line<'a>> {
    let headers = request.headers;
    let cookies = (*name == COOKIE).then(|| joined(headers, name)).flatten();
    let others = headers
        .iter()
        .filter(move |_| *name != COOKIE)
        .filter(|(other, _)| reads_as(other.as_str(), name.as_str()))
        .map(move |(other, value): (&HeaderName, &HeaderValue)| {
            (Cow::Borrowed(value.as_bytes()), other == name)
        });
    let all = cookies.map(|cookies| (cookies, true)).into_iter();
    all.chain(others).flat_map(|(value, exact)| {
        let (text, latin_1) = texts(value);
        let line = move |text| Line { text, exact };
        iter::once(line(text)).chain(latin_1.map(line))
    })
}

/// Returns a value as text, and where it is not UTF-8, as Latin-1 besides.
fn texts(value: Cow<'_, [u8]>) -> (Cow<'_, str>, Option<Cow<'_, str>>) {
    let owned = match value {
        Cow::Borrowed(bytes) => match str::from_utf8(bytes) {
            Ok(text) => return (Cow::Borrowed(text), None),
            Err(_) => bytes.to_vec(),
        },
        Cow::Owned(bytes) => bytes,
    };
    let latin_1 = || owned.iter().copied().map(char::from).collect();
    match str::from_utf8(&owned) {
        Ok(text) => (Cow::Owned(text.to_owned()), None),
        Err(_) => (
            Cow::Owned(String::from_utf8_lossy(&owned).into_owned()),
            Some(Cow::Owned(latin_1())),
        ),
    }
}

/// Reports whether a line, a part of a line's list, or all lines together fit.
fn each_reading(lines: &[&str], fits: impl Fn(&str) -> bool) -> bool {
    let parts = |line: &&str| line.contains(',') && line.split(',').any(|part| fits(part.trim()));
    lines.iter().any(|line| fits(line) || parts(line))
        || (lines.len() > 1 && [",", ", "].iter().any(|comma| fits(&lines.join(comma))))
}
