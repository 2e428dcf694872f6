//! Regular expressions that take a bounded time and a bounded memory, whoever wrote them.
//!
//! The engine is linear in the text, like RE2. What an expression takes once it is
//! compiled is counted, and paid from a [`Budget`]: its compiled size may be what the
//! budget has left. One process keeps each expression once, whoever asks for it, and so
//! much of all together ([`OF_PROCESS`]). What matching needs besides (a lazy automaton
//! grows with the texts it sees) is kept by each thread for all expressions together,
//! and what has not been used for longest goes first ([`OF_THREAD`]).

mod scratch;

use regex_automata::{
    meta,
    nfa::thompson::WhichCaptures,
    util::{captures::Captures, iter::Searcher, syntax},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

pub use scratch::OF_THREAD;

/// Longest pattern, bytes: reading one takes up to three kilobytes a byte for a moment.
pub const LONGEST: usize = 2048;
/// Compiled expressions of one resource, bytes.
pub const OF_RESOURCE: usize = 5 << 20;
/// Compiled expressions of all resources of a namespace, bytes.
pub const OF_NAMESPACE: usize = 8 << 20;
/// Compiled expressions of all resources that a controller has in force, bytes.
pub const OF_CONTROLLER: usize = 32 << 20;
/// What each namespace has of its own, whatever the others have taken of that, bytes.
pub const FLOOR_OF_NAMESPACE: usize = 256 << 10;
/// Compiled expressions that any process keeps, bytes: what a controller has in force,
/// and as much again that is about to replace it. So a sidecar can hold what a controller
/// accepts.
pub const OF_PROCESS: usize = 2 * OF_CONTROLLER;
/// What the smallest expression takes: the engine does not count its own parts and pools,
/// bytes.
const OF_EACH: usize = 8 << 10;
/// One automaton of an expression, bytes; the engine makes two of each.
const OF_AUTOMATON: usize = 1 << 20;
/// The same where the groups are asked for, since these multiply what matching takes.
const OF_AUTOMATON_WITH_GROUPS: usize = 128 << 10;
/// Most groups of an expression whose groups are asked for; nine can be referred to.
const MOST_GROUPS: usize = 20;
/// What a lazy automaton may keep of what it has worked out, bytes.
const LAZY: usize = 256 << 10;

/// Why an expression is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// It can't be read.
    #[error("{0}")]
    Syntax(String),
    /// The pattern is too long.
    #[error("it has {0} bytes; at most {LONGEST} are taken")]
    Long(usize),
    /// It has too many groups.
    #[error("it has {0} groups; at most {MOST_GROUPS} are taken")]
    Groups(usize),
    /// It takes more than a budget has left, or than one expression may.
    #[error("compiled, it takes more than the {left} bytes {of}")]
    Large {
        /// What was left.
        left: usize,
        /// Of what.
        of: &'static str,
    },
    /// One before it was too much, so it was not even compiled.
    #[error("nothing is left for it, since one before it takes too much")]
    Spent,
}

/// What an expression is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Use {
    /// It must match all of a text.
    Whole,
    /// It must match somewhere in a text.
    Anywhere,
    /// It is searched for with its groups.
    Replace,
}

/// A compiled expression, shared by all who ask for the same.
#[derive(Clone)]
pub struct Regex(Arc<Compiled>);

struct Compiled {
    id: u64,
    usage: Use,
    pattern: Box<str>,
    engine: meta::Regex,
    size: usize,
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.0.usage == other.0.usage && self.0.pattern == other.0.pattern
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Regex").field(&self.0.pattern).finish()
    }
}

/// What compiled expressions may take together.
#[derive(Debug)]
pub struct Budget {
    left: usize,
    used: usize,
    of: &'static str,
    /// Something found no room. Nothing more is compiled then, since the whole is refused.
    spent: bool,
    /// What is paid already: an expression costs its resource once.
    paid: HashMap<(Use, Box<str>), Regex>,
}

impl Budget {
    /// A budget of so many bytes; `of` says whose, as in "left of the namespace's".
    pub fn new(bytes: usize, of: &'static str) -> Self {
        Self {
            left: bytes,
            used: 0,
            of,
            spent: false,
            paid: HashMap::new(),
        }
    }

    /// The budget of one resource.
    pub fn of_resource() -> Self {
        Self::new(OF_RESOURCE, "left of the resource's")
    }

    /// Bytes that are spent.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Compiles an expression that must match all of a text.
    ///
    /// # Errors
    /// A pattern that can't be read, or that takes too much.
    pub fn whole(&mut self, pattern: &str) -> Result<Regex, RegexError> {
        self.compile(Use::Whole, pattern)
    }

    /// Compiles an expression that must match somewhere in a text.
    ///
    /// # Errors
    /// A pattern that can't be read, or that takes too much.
    pub fn anywhere(&mut self, pattern: &str) -> Result<Regex, RegexError> {
        self.compile(Use::Anywhere, pattern)
    }

    /// Compiles an expression whose matches are replaced.
    ///
    /// # Errors
    /// A pattern that can't be read, or that takes too much.
    pub fn replace(&mut self, pattern: &str) -> Result<Regex, RegexError> {
        self.compile(Use::Replace, pattern)
    }

    fn compile(&mut self, usage: Use, pattern: &str) -> Result<Regex, RegexError> {
        let key = (usage, Box::from(pattern));
        if let Some(paid) = self.paid.get(&key) {
            return Ok(paid.clone());
        }
        if self.spent {
            return Err(RegexError::Spent);
        }
        let compiled = known_or_compiled(usage, pattern, self.left);
        let regex = match compiled {
            Err(RegexError::Large { left, .. }) if left >= self.left => Err(self.spend_out()),
            Ok(regex) if regex.0.size > self.left => Err(self.spend_out()),
            // To find out what it would take is work, of which one is enough.
            Err(error @ RegexError::Large { .. }) => {
                self.spent = true;
                Err(error)
            }
            other => other,
        }?;
        let size = regex.0.size;
        self.left -= size;
        self.used += size;
        self.paid.insert(key, regex.clone());
        Ok(regex)
    }

    fn spend_out(&mut self) -> RegexError {
        self.spent = true;
        RegexError::Large {
            left: self.left,
            of: self.of,
        }
    }
}

impl Regex {
    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.0.pattern
    }

    /// Reports whether a text matches.
    pub fn is_match(&self, text: &str) -> bool {
        let input = regex_automata::Input::new(text).earliest(true);
        scratch::with(&self.0, |engine, scratch| {
            engine.search_half_with(scratch, &input).is_some()
        })
    }

    /// A text with each match replaced by what `replacement` adds for its groups.
    pub fn replace_all(
        &self,
        text: &str,
        replacement: impl Fn(&mut String, &dyn Fn(usize) -> Option<String>),
    ) -> String {
        scratch::with(&self.0, |engine, scratch| {
            let mut captures = engine.create_captures();
            let mut searcher = Searcher::new(regex_automata::Input::new(text));
            let (mut new, mut end) = (String::new(), 0);
            while let Some(found) = searcher.advance(|input| {
                engine.search_captures_with(scratch, input, &mut captures);
                Ok(captures.get_match())
            }) {
                new.push_str(&text[end..found.start()]);
                replacement(&mut new, &|group| group_of(&captures, text, group));
                end = found.end();
            }
            new.push_str(&text[end..]);
            new
        })
    }
}

fn group_of(captures: &Captures, text: &str, group: usize) -> Option<String> {
    let span = captures.get_group(group)?;
    Some(text[span.range()].to_owned())
}

/// All expressions of this process.
static KNOWN: Mutex<Option<Table>> = Mutex::new(None);
/// What they take, bytes.
static SIZE: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Bytes that the compiled expressions of this process take.
pub fn size() -> usize {
    SIZE.load(Ordering::Relaxed)
}

type Table = HashMap<(Use, Box<str>), Weak<Compiled>>;
type Known = MutexGuard<'static, Option<Table>>;

fn known() -> Known {
    // Nothing panics while it holds the lock.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known_or_compiled(usage: Use, pattern: &str, left: usize) -> Result<Regex, RegexError> {
    if pattern.len() > LONGEST {
        return Err(RegexError::Long(pattern.len()));
    }
    let key = (usage, Box::from(pattern));
    let find = |known: &Known| known.as_ref()?.get(&key)?.upgrade();
    if let Some(compiled) = find(&known()) {
        return Ok(Regex(compiled));
    }
    let engine = build(usage, pattern, left)?;
    let size = engine.memory_usage() + OF_EACH + 2 * pattern.len();
    let of_process = OF_PROCESS.saturating_sub(SIZE.fetch_add(size, Ordering::Relaxed));
    let compiled = Arc::new(Compiled {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        usage,
        pattern: pattern.into(),
        engine,
        size,
    });
    if size > of_process {
        // Dropped, it is not counted any more.
        drop(compiled);
        return Err(RegexError::Large {
            left: of_process,
            of: "left of this process's",
        });
    }
    let mut known = known();
    // Another thread may have been faster.
    if let Some(faster) = find(&known) {
        drop(known);
        return Ok(Regex(faster));
    }
    let map = known.get_or_insert_default();
    map.insert(key, Arc::downgrade(&compiled));
    Ok(Regex(compiled))
}

impl Drop for Compiled {
    fn drop(&mut self) {
        SIZE.fetch_sub(self.size, Ordering::Relaxed);
        let key = (self.usage, self.pattern.clone());
        let mut known = known();
        let map = known.get_or_insert_default();
        if map.get(&key).is_some_and(|weak| weak.strong_count() == 0) {
            map.remove(&key);
        }
    }
}

fn build(usage: Use, pattern: &str, left: usize) -> Result<meta::Regex, RegexError> {
    let wrong = |error: &dyn fmt::Display| RegexError::Syntax(last_line(&error.to_string()));
    // By itself first: the anchors around it must not change what it means.
    syntax::parse(pattern).map_err(|error| wrong(&error))?;
    let (most, captures) = match usage {
        Use::Whole | Use::Anywhere => (OF_AUTOMATON, WhichCaptures::Implicit),
        Use::Replace => (OF_AUTOMATON_WITH_GROUPS, WhichCaptures::All),
    };
    let most = most.min(left);
    let config = meta::Config::new()
        .nfa_size_limit(Some(most))
        .which_captures(captures)
        .hybrid_cache_capacity(LAZY)
        // Both are compiled ahead, and large for what they bring here.
        .dfa(false)
        .onepass(false);
    let mut builder = meta::Builder::new();
    builder.configure(config);
    let built = match usage {
        Use::Whole => builder.build(&format!("^(?:{pattern})$")),
        Use::Anywhere | Use::Replace => builder.build(pattern),
    };
    let engine = built.map_err(|error| match error.syntax_error() {
        Some(error) => wrong(error),
        None if error.size_limit().is_some() => RegexError::Large {
            left: most,
            of: "that one expression may take",
        },
        None => wrong(&error),
    })?;
    let groups = engine.captures_len() - 1;
    if usage == Use::Replace && groups > MOST_GROUPS {
        return Err(RegexError::Groups(groups));
    }
    Ok(engine)
}

/// The engine draws the pattern over several lines; an error is one line.
fn last_line(text: &str) -> String {
    let last = text.lines().last().unwrap_or(text).trim();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests;
