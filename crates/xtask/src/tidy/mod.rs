//! The rules of the repository that no compiler checks. A rule is a function from a tree of files to findings,
//! so that its tests are made-up trees: one that passes, one that fails.

mod floors;
mod lengths;
mod purity;
mod rust;
mod source;
mod text;
mod tree;
mod unsafe_places;

use std::path::Path;
use std::process::ExitCode;

use tree::Tree;

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Finding {
        Finding {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: &[Rule] = &[
    floors::check,
    purity::check,
    rust::check_module_docs,
    rust::check_macros,
    rust::check_unsafe,
    unsafe_places::check,
    lengths::check,
    text::check_python_docs,
    text::check_paths,
    text::check_whitespace,
];

/// Checks the repository this program was built from.
pub fn command() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = match Tree::read(&root) {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("tidy: cannot read the repository: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    findings.sort();
    for finding in &findings {
        println!("{}:{}: {}", finding.path, finding.line, finding.message);
    }
    let n_files = tree.files().count();
    if findings.is_empty() {
        println!("tidy: {n_files} files hold to the rules");
        ExitCode::SUCCESS
    } else {
        println!("tidy: {} breaches in {n_files} files", findings.len());
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod testing {
    //! How the tests of the rules say what a tree should give.

    use super::{Finding, Rule, Tree};

    /// Runs one rule on a made-up tree.
    pub fn findings(rule: Rule, files: &[(&str, &str)]) -> Vec<Finding> {
        rule(&Tree::from_files(files))
    }

    /// The rule has nothing to say about this tree.
    #[track_caller]
    pub fn passes(rule: Rule, files: &[(&str, &str)]) {
        assert_eq!(findings(rule, files), []);
    }

    /// The rule finds exactly this: `path:line` and a part of the message, in any order.
    #[track_caller]
    pub fn fails(rule: Rule, files: &[(&str, &str)], expected: &[(&str, usize, &str)]) {
        let found = findings(rule, files);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for &(path, line, message) in expected {
            assert!(
                found.iter().any(|finding| finding.path == path
                    && finding.line == line
                    && finding.message.contains(message)),
                "no finding at {path}:{line} says {message:?}: {found:#?}"
            );
        }
    }
}
