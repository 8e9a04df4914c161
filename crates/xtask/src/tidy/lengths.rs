//! How long a file and a function may be. Nothing good is forced by a limit, but a limit makes one look.

use super::Finding;
use super::source::{Kind, Token, past_closing, tokens};
use super::tree::Tree;

const N_FILE_LINES_MAX: usize = 900;
const N_FUNCTION_LINES_MAX: usize = 100;

/// What may be longer, how long, and why. An entry that is no longer needed is a breach too: the list only shrinks.
const RATCHET: &[Longer] = &[];

struct Longer {
    path: &'static str,
    /// The name of a function; empty for the file itself.
    function: &'static str,
    n_lines_max: usize,
    #[expect(dead_code, reason = "the reason is for the reader of the list")]
    reason: &'static str,
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    check_with(tree, RATCHET)
}

fn check_with(tree: &Tree, ratchet: &[Longer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_needed = vec![false; ratchet.len()];
    for (path, text) in tree.files() {
        if !path.ends_with(".rs") && !path.ends_with(".py") {
            continue;
        }
        let mut measured = vec![Measured {
            function: "",
            line: 1,
            n_lines: text.lines().count(),
        }];
        if path.ends_with(".rs") {
            measured.extend(functions(&tokens(text)));
        }
        for Measured {
            function,
            line,
            n_lines,
        } in measured
        {
            let usual_max = if function.is_empty() {
                N_FILE_LINES_MAX
            } else {
                N_FUNCTION_LINES_MAX
            };
            let entry = ratchet
                .iter()
                .position(|longer| longer.path == path && longer.function == function);
            let n_lines_max = entry.map_or(usual_max, |i| ratchet[i].n_lines_max);
            if let Some(i) = entry {
                is_needed[i] |= n_lines > usual_max;
            }
            if n_lines > n_lines_max {
                let what = if function.is_empty() {
                    "the file".to_owned()
                } else {
                    format!("fn {function}")
                };
                let message =
                    format!("{what} has {n_lines} lines, more than {n_lines_max}: split it");
                findings.push(Finding::new(path, line, message));
            }
        }
    }
    for (longer, _) in ratchet
        .iter()
        .zip(is_needed)
        .filter(|(_, is_needed)| !is_needed)
    {
        let message = format!(
            "its entry {:?} in the list of longer ones is no longer needed",
            longer.function
        );
        findings.push(Finding::new(longer.path, 1, message));
    }
    findings
}

struct Measured<'a> {
    function: &'a str,
    line: usize,
    n_lines: usize,
}

/// The functions that have a body, from the line of `fn` to that of the closing bracket.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Measured<'a>> {
    let mut measured = Vec::new();
    for i in 0..tokens.len() {
        let Some(Token {
            kind: Kind::Word(function),
            ..
        }) = tokens.get(i + 1)
        else {
            continue;
        };
        if !tokens[i].is_word("fn") {
            continue;
        }
        let mut at = i + 2;
        while let Some(token) = tokens.get(at) {
            match token.kind {
                // Declared, not defined.
                Kind::Mark(';') => break,
                Kind::Mark('(' | '[') => at = past_closing(tokens, at),
                Kind::Mark('{') => {
                    let closing = tokens[past_closing(tokens, at) - 1];
                    let line = tokens[i].line;
                    let n_lines = closing.line - line + 1;
                    measured.push(Measured {
                        function,
                        line,
                        n_lines,
                    });
                    break;
                }
                _ => at += 1,
            }
        }
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fails, passes};
    use super::*;

    const LIB: &str = "crates/graph/src/lib.rs";

    fn function_of(n_lines: usize) -> String {
        format!(
            "//! Job.\nfn long(a: [u8; 4]) {{\n{}}}\n",
            "    f();\n".repeat(n_lines - 2)
        )
    }

    #[test]
    fn what_fits_passes() {
        let text = function_of(N_FUNCTION_LINES_MAX);
        let file = "//! Job.\n".repeat(N_FILE_LINES_MAX);
        passes(
            check,
            &[
                (LIB, &text),
                ("tests/a.rs", &file),
                ("tests/test_a.py", &file),
            ],
        );
        passes(check, &[("docs/long.md", &"text\n".repeat(5000))]);
    }

    #[test]
    fn a_long_function_fails_at_its_first_line() {
        let text = function_of(N_FUNCTION_LINES_MAX + 1);
        fails(check, &[(LIB, &text)], &[(LIB, 2, "fn long has 101 lines")]);
    }

    #[test]
    fn a_long_file_fails() {
        let file = "x\n".repeat(N_FILE_LINES_MAX + 1);
        fails(
            check,
            &[("tests/a.py", &file)],
            &[("tests/a.py", 1, "901 lines")],
        );
    }

    #[test]
    fn the_ratchet_allows_what_it_names_and_nothing_it_need_not() {
        let ratchet = [Longer {
            path: LIB,
            function: "long",
            n_lines_max: 120,
            reason: "a test",
        }];
        let n_findings = |n_lines: usize| {
            let text = function_of(n_lines);
            check_with(&Tree::from_files(&[(LIB, &text)]), &ratchet).len()
        };
        assert_eq!(n_findings(120), 0);
        assert_eq!(n_findings(121), 1, "longer than its entry allows");
        assert_eq!(n_findings(100), 1, "the entry is not needed");
    }
}
