//! The crates that decide use no clock, thread, file, socket, process or environment. Their tests may.

use super::Finding;
use super::source::{Kind, Token, past_closing, tokens};
use super::tree::Tree;

const PURE_SOURCES: &[&str] = &[
    "crates/graph/src/",
    "crates/scheduler/src/",
    "crates/wire/src/",
];

/// What is out of bounds, as paths; what lies below one is out of bounds too.
const FORBIDDEN: &[&[&str]] = &[
    &["std", "env"],
    &["std", "fs"],
    &["std", "io"],
    &["std", "net"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "time", "UNIX_EPOCH"],
];

/// Clocks by their bare names, for `use std::time;` and then `time::Instant`.
const FORBIDDEN_WORDS: &[&str] = &["Instant", "SystemTime"];

const FORBIDDEN_MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "thread_local"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let sources: Vec<(&str, &str)> = PURE_SOURCES
        .iter()
        .flat_map(|folder| tree.files_under(folder))
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect();
    let test_only: Vec<String> = sources
        .iter()
        .flat_map(|(path, text)| test_modules(path, &tokens(text)))
        .collect();
    let is_test_only = |path: &str| test_only.iter().any(|module| is_module_file(path, module));
    sources
        .into_iter()
        .filter(|(path, _)| !is_test_only(path))
        .flat_map(|(path, text)| check_source(path, &without_tests(&tokens(text))))
        .collect()
}

fn check_source(path: &str, tokens: &[Token<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let Kind::Word(word) = token.kind else {
            continue;
        };
        let offence = if word == "std" {
            let mut paths = Vec::new();
            expand(tokens, i, &[], &mut paths);
            let forbidden =
                |path: &Vec<&str>| FORBIDDEN.iter().any(|prefix| path.starts_with(prefix));
            paths
                .into_iter()
                .find(forbidden)
                .map(|path| path.join("::"))
        } else if FORBIDDEN_WORDS.contains(&word) && !follows_std_path(tokens, i) {
            Some(word.to_owned())
        } else {
            let is_macro = tokens.get(i + 1).is_some_and(|next| next.is_mark('!'));
            (is_macro && FORBIDDEN_MACROS.contains(&word)).then(|| format!("{word}!"))
        };
        if let Some(offence) = offence {
            let message =
                format!("{offence} in a pure crate: events in, commands out, nothing else");
            findings.push(Finding::new(path, token.line, message));
        }
    }
    findings
}

/// Whether the word ends a path or a `use` tree that started with `std`, and so is reported there.
fn follows_std_path(tokens: &[Token<'_>], at: usize) -> bool {
    let statement_start = tokens[..at]
        .iter()
        .rposition(|token| token.is_mark(';') || token.is_word("use"));
    tokens[statement_start.unwrap_or(0)..at]
        .iter()
        .any(|token| token.is_word("std"))
}

/// Adds every path that the expression path or `use` tree starting at `at` names; returns the index past it.
fn expand<'a>(
    tokens: &[Token<'a>],
    at: usize,
    before: &[&'a str],
    paths: &mut Vec<Vec<&'a str>>,
) -> usize {
    let mut path = before.to_vec();
    let mut at = at;
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::Word(word) => path.push(word),
            Kind::Mark('{') => {
                let end = past_closing(tokens, at);
                let mut inner = at + 1;
                while inner < end - 1 {
                    inner = expand(tokens, inner, &path, paths) + 1;
                }
                return end;
            }
            Kind::Mark(_) => break,
        }
        let is_joined = tokens.get(at + 1).is_some_and(|t| t.is_mark(':'))
            && tokens.get(at + 2).is_some_and(|t| t.is_mark(':'));
        at += 1;
        if !is_joined {
            break;
        }
        at += 2;
    }
    // An `as name`, which ends at the comma or the bracket.
    while tokens
        .get(at)
        .is_some_and(|t| !before.is_empty() && !t.is_mark(',') && !t.is_mark('}'))
    {
        at += 1;
    }
    paths.push(path);
    at
}

/// Whether `#[cfg(test)]` starts here.
fn is_test_attribute(tokens: &[Token<'_>]) -> bool {
    let expected = [
        Kind::Mark('#'),
        Kind::Mark('['),
        Kind::Word("cfg"),
        Kind::Mark('('),
        Kind::Word("test"),
        Kind::Mark(')'),
        Kind::Mark(']'),
    ];
    tokens.len() >= expected.len()
        && tokens
            .iter()
            .zip(expected)
            .all(|(token, kind)| token.kind == kind)
}

/// The index past the item that starts at `at`: past its body, or past its semicolon.
fn past_item(tokens: &[Token<'_>], at: usize) -> usize {
    let mut i = at;
    while let Some(token) = tokens.get(i) {
        match token.kind {
            Kind::Mark(';') => return i + 1,
            Kind::Mark('{') => return past_closing(tokens, i),
            Kind::Mark('(' | '[') => i = past_closing(tokens, i),
            _ => i += 1,
        }
    }
    tokens.len()
}

const TEST_ATTRIBUTE_LENGTH: usize = 7;

fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        if is_test_attribute(&tokens[i..]) {
            i = past_item(tokens, i + TEST_ATTRIBUTE_LENGTH);
        } else {
            kept.push(tokens[i]);
            i += 1;
        }
    }
    kept
}

/// The modules that this file declares for tests only and keeps in a file of their own, as paths without `.rs`.
fn test_modules(path: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let folder = if matches!(name, "lib" | "main" | "mod") {
        folder
    } else {
        stem
    };
    let mut modules = Vec::new();
    for i in 0..tokens.len() {
        let item = i + TEST_ATTRIBUTE_LENGTH;
        if !is_test_attribute(&tokens[i..]) {
            continue;
        }
        let words = &tokens[item..past_item(tokens, item)];
        let module = words.iter().position(|token| token.is_word("mod"));
        if let Some(at) = module
            && let Some(Token {
                kind: Kind::Word(module),
                ..
            }) = words.get(at + 1)
            && words.last().is_some_and(|token| token.is_mark(';'))
        {
            modules.push(format!("{folder}/{module}"));
        }
    }
    modules
}

fn is_module_file(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fails, passes};
    use super::*;

    const LIB: &str = "crates/scheduler/src/lib.rs";

    #[test]
    fn durations_collections_and_tests_pass() {
        let text = "use std::{collections::HashMap, time::Duration};\n\
                    // std::fs in a comment\n\
                    const NAME: &str = \"std::fs\";\n\
                    fn f(d: std::time::Duration) {}\n\
                    #[cfg(test)]\nmod tests { use std::time::Instant; fn g() { println!(); std::thread::yield_now() } }\n\
                    #[cfg(test)]\nmod story;\n";
        let story = ("crates/scheduler/src/story.rs", "use std::fs;\n");
        let executor = ("crates/executor/src/lib.rs", "use std::thread;\n");
        let bench = (
            "crates/scheduler/benches/core.rs",
            "use std::time::Instant;\n",
        );
        passes(check, &[(LIB, text), story, executor, bench]);
    }

    #[test]
    fn each_way_of_naming_what_is_forbidden_fails() {
        for line in [
            "use std::thread;",
            "use std::{collections::HashMap, fs::File};",
            "use std::{cmp, time::{Duration, Instant}};",
            "use std::time::{Duration, SystemTime as Clock};",
            "use ::std::net::TcpStream;",
            "fn f() { let now = std::time::Instant::now(); }",
            "fn f() { time::Instant::now(); }",
            "fn f() { std::env::var(NAME); }",
            "fn f() { println!(); }",
            "fn f() -> std::io::Result<()> { Ok(()) }",
        ] {
            fails(check, &[(LIB, line)], &[(LIB, 1, "pure crate")]);
        }
    }

    #[test]
    fn a_module_that_is_not_for_tests_only_is_checked() {
        let story = ("crates/scheduler/src/story.rs", "\nuse std::fs;\n");
        fails(
            check,
            &[(LIB, "mod story;\n"), story],
            &[(story.0, 2, "std::fs")],
        );
    }
}
