//! Every target on its corpus, and on variations of it that are the same in each
//! run: what CI sees of the fuzzer. What libFuzzer finds goes into the corpus.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a failure is a panic with a line number"
)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};

/// Longest variation, bytes.
const LONGEST: usize = 16 * 1024;

#[test]
fn detection() {
    run("detection", linnet_fuzz::detection, 20_000);
}

#[test]
fn hello() {
    run("hello", linnet_fuzz::hello, 5_000);
}

#[test]
fn shared() {
    run("shared", linnet_fuzz::shared, 5_000);
}

#[test]
fn tls() {
    run("tls", linnet_fuzz::tls, 500);
}

#[test]
fn http1() {
    run("http1", linnet_fuzz::http1, 1_000);
}

#[test]
fn admission_review() {
    run("admission_review", linnet_fuzz::admission_review, 3_000);
}

#[test]
fn certificate_request() {
    run(
        "certificate_request",
        linnet_fuzz::certificate_request,
        5_000,
    );
}

#[test]
fn spiffe_id() {
    run("spiffe_id", linnet_fuzz::spiffe_id, 20_000);
}

#[test]
fn authorization() {
    run("authorization", linnet_fuzz::authorization, 5_000);
}

#[test]
fn discovery() {
    run("discovery", linnet_fuzz::discovery, 10_000);
}

fn run(target: &str, body: fn(&[u8]), cases: u64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "{} has nothing", folder.display());
    for (file, data) in files.iter().zip(&corpus) {
        one(body, data, &file.display().to_string());
    }
    for case in 0..cases {
        let mut chance = Chance(case.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let data = variation(&corpus, &mut chance);
        one(body, &data, &format!("case {case}"));
    }
}

fn one(body: fn(&[u8]), data: &[u8], name: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(data))) {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failed");
        fs::write(&file, data).unwrap();
        eprintln!("{name}: its {} bytes are in {}", data.len(), file.display());
        resume_unwind(panic);
    }
}

/// Xorshift: the same choices in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit.max(1)
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let longest = if self.below(4) == 0 { length } else { 16 };
        start..(start + self.below(longest + 1)).min(length)
    }
}

fn variation(corpus: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    const TELLING: [&[u8]; 12] = [
        b"\0",
        b"\xff\xff\xff\xff",
        b"\r\n",
        b"\n",
        b" ",
        b":",
        b"/",
        b"..",
        b"%2f",
        b"\x80",
        b"{",
        b"*",
    ];
    let mut data = corpus[chance.below(corpus.len())].clone();
    for _ in 0..=chance.below(4) {
        match chance.below(6) {
            0 if !data.is_empty() => {
                let at = chance.below(data.len());
                data[at] ^= 1 << chance.below(8);
            }
            1 if !data.is_empty() => {
                let at = chance.below(data.len());
                data[at] = u8::try_from(chance.below(256)).unwrap();
            }
            2 => {
                let range = chance.range(data.len());
                data.drain(range);
            }
            3 => {
                let copy = data[chance.range(data.len())].to_vec();
                let at = chance.below(data.len() + 1);
                data.splice(at..at, copy);
            }
            4 => {
                let at = chance.below(data.len() + 1);
                data.splice(at..at, TELLING[chance.below(TELLING.len())].to_vec());
            }
            _ => {
                let other = &corpus[chance.below(corpus.len())];
                let part = other[chance.range(other.len())].to_vec();
                let range = chance.range(data.len());
                data.splice(range, part);
            }
        }
    }
    data.truncate(LONGEST);
    data
}
