//! Rules on Rust files: each opens with its job, explains its `unsafe`, and leaves nothing unfinished.

use super::Finding;
use super::source::tokens;
use super::tree::Tree;

pub(super) fn check_module_docs(tree: &Tree) -> Vec<Finding> {
    tree.files_ending(".rs")
        .filter(|(_, text)| {
            let first = text.lines().map(str::trim).find(|line| !line.is_empty());
            !first.is_some_and(|line| line.starts_with("//! ") || line.starts_with("/*! "))
        })
        .map(|(path, _)| {
            Finding::new(
                path,
                1,
                "open the file with a sentence on its job (`//! ...`)",
            )
        })
        .collect()
}

/// Macros that mark something unfinished. Clippy knows them too, but not behind every `cfg`.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

pub(super) fn check_macros(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files_ending(".rs") {
        let tokens = tokens(text);
        for pair in tokens.windows(2) {
            if let Some(name) = UNFINISHED.iter().find(|name| pair[0].is_word(name))
                && pair[1].is_mark('!')
            {
                findings.push(Finding::new(
                    path,
                    pair[0].line,
                    format!("{name}! is left over"),
                ));
            }
        }
    }
    findings
}

pub(super) fn check_unsafe(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files_ending(".rs") {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let tokens = tokens(text);
        for pair in tokens.windows(2) {
            let is_claim = pair[1].is_mark('{') || pair[1].is_word("impl");
            if pair[0].is_word("unsafe") && is_claim && !is_explained(&lines, pair[0].line - 1) {
                let message = "say above this `unsafe` why it is sound (`// SAFETY: ...`)";
                findings.push(Finding::new(path, pair[0].line, message));
            }
        }
    }
    findings
}

/// Whether a SAFETY comment stands on the line `at`, or above the statement that the line belongs to.
fn is_explained(lines: &[&str], at: usize) -> bool {
    let says_why = |line: &str| {
        line.split_once("//")
            .is_some_and(|(_, comment)| comment.contains("SAFETY:"))
    };
    if says_why(lines[at]) {
        return true;
    }
    for line in lines[..at].iter().rev() {
        if says_why(line) {
            return true;
        }
        let is_comment_or_attribute = line.starts_with("//") || line.starts_with("#[");
        let ends_something = line.is_empty() || line.ends_with([';', '{', '}']);
        if ends_something && !is_comment_or_attribute {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fails, passes};
    use super::*;

    const LIB: &str = "crates/store/src/lib.rs";

    #[test]
    fn a_file_opens_with_its_job() {
        passes(
            check_module_docs,
            &[(LIB, "//! Shared memory.\n\nfn f() {}\n")],
        );
        fails(
            check_module_docs,
            &[(LIB, "fn f() {}\n")],
            &[(LIB, 1, "its job")],
        );
        fails(
            check_module_docs,
            &[(LIB, "// Shared memory.\n")],
            &[(LIB, 1, "its job")],
        );
        fails(check_module_docs, &[(LIB, "")], &[(LIB, 1, "its job")]);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        passes(
            check_macros,
            &[(LIB, "// todo!()\nfn todo() { let s = \"dbg!(1)\"; }\n")],
        );
        for name in UNFINISHED {
            let text = format!("fn f() {{\n    {name}!()\n}}\n");
            fails(check_macros, &[(LIB, &text)], &[(LIB, 2, "left over")]);
        }
    }

    #[test]
    fn unsafe_is_explained() {
        for text in [
            "// SAFETY: it is mapped.\nunsafe { f() }\n",
            "// SAFETY: it is mapped\n// for the whole call.\n#[allow(unsafe_code)]\nunsafe impl Send for A {}\n",
            "// SAFETY: it is mapped.\nlet x =\n    unsafe { f() };\n",
            "unsafe { f() } // SAFETY: it is mapped.\n",
            "/// # Safety\n/// Mapped.\nunsafe fn f() {}\n",
            "let s = \"unsafe { }\";\n",
        ] {
            passes(check_unsafe, &[(LIB, text)]);
        }
        for (text, line) in [
            ("unsafe { f() }\n", 1),
            ("// It is mapped.\nunsafe impl Send for A {}\n", 2),
            ("// SAFETY: it is mapped.\nlet x = 1;\nunsafe { f() }\n", 3),
            ("// SAFETY: it is mapped.\n\nunsafe { f() }\n", 3),
        ] {
            fails(
                check_unsafe,
                &[(LIB, text)],
                &[(LIB, line, "why it is sound")],
            );
        }
    }
}
