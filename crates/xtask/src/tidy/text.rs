//! Rules on any text: no path of somebody's machine, no stray whitespace; Python files open with their job.

use super::Finding;
use super::tree::Tree;

pub(super) fn check_python_docs(tree: &Tree) -> Vec<Finding> {
    tree.files_ending(".py")
        // An empty file only marks a package.
        .filter(|(_, text)| !text.trim().is_empty())
        .filter(|(_, text)| {
            let first = text
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with('#'));
            let opens = ["\"\"\"", "r\"\"\"", "'''", "r'''"];
            !first.is_some_and(|line| opens.iter().any(|open| line.starts_with(open)))
        })
        .map(|(path, _)| Finding::new(path, 1, "open the file with a docstring on its job"))
        .collect()
}

/// Folders that exist on one machine only, in two parts so that this file does not name them itself.
const MACHINE_FOLDERS: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/tmp", "/t/"),
    ("/Us", "ers/"),
];
const HOMES: &str = "/home/";

pub(super) fn check_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        for (i, line) in text.lines().enumerate() {
            if let Some(folder) = machine_path(line) {
                let message = format!("{folder} is a path of one machine");
                findings.push(Finding::new(path, i + 1, message));
            }
        }
    }
    findings
}

fn machine_path(line: &str) -> Option<String> {
    let folders = MACHINE_FOLDERS
        .iter()
        .map(|(head, tail)| (format!("{head}{tail}"), false))
        .chain([(HOMES.to_owned(), true)]);
    for (folder, needs_name) in folders {
        for (at, _) in line.match_indices(&folder) {
            let before = line[..at].chars().next_back();
            let after = line[at + folder.len()..].chars().next();
            // The end of a longer path, a relative one, or an address.
            let is_inside = before.is_some_and(|c| c.is_alphanumeric() || "_-.~/".contains(c));
            let is_named = after.is_some_and(|c| c.is_alphanumeric());
            if !is_inside && (is_named || !needs_name) {
                return Some(folder);
            }
        }
    }
    None
}

pub(super) fn check_whitespace(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        for (i, line) in text.split('\n').enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(Finding::new(
                    path,
                    i + 1,
                    "whitespace at the end of the line",
                ));
            }
        }
        let n_lines = text.lines().count();
        if !text.is_empty() && !text.ends_with('\n') {
            findings.push(Finding::new(
                path,
                n_lines,
                "no newline at the end of the file",
            ));
        } else if text.ends_with("\n\n") {
            findings.push(Finding::new(
                path,
                n_lines,
                "an empty line at the end of the file",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fails, passes};
    use super::*;

    #[test]
    fn python_opens_with_its_job() {
        passes(
            check_python_docs,
            &[
                ("a.py", "\"\"\"Job.\"\"\"\n"),
                (
                    "b.py",
                    "#!/usr/bin/env python3\n# A word first.\n\nr\"\"\"Job.\n\nMore.\n\"\"\"\n",
                ),
                ("c/__init__.py", ""),
                ("d.pyi", "x: int\n"),
            ],
        );
        fails(
            check_python_docs,
            &[("a.py", "import os\n")],
            &[("a.py", 1, "docstring")],
        );
        fails(
            check_python_docs,
            &[("a.py", "# Job.\nx = 1\n")],
            &[("a.py", 1, "docstring")],
        );
    }

    #[test]
    fn paths_of_every_machine_pass() {
        let text = "see docs/wo/rk/, ~/root/, /home/<name>, /home/, /proc/self, /tmp/x, https://a.b/home/you\n";
        passes(check_paths, &[("README.md", text)]);
        let inside = format!("cgroup{}{}x\n", "/ro", "ot/");
        passes(check_paths, &[("README.md", &inside)]);
    }

    #[test]
    fn paths_of_one_machine_fail() {
        for (head, tail) in MACHINE_FOLDERS {
            let text = format!("fine\nopen({head}{tail}x)\n");
            fails(
                check_paths,
                &[("a.py", &text)],
                &[("a.py", 2, "one machine")],
            );
        }
        let text = format!("{HOMES}{}\n", "somebody");
        fails(
            check_paths,
            &[("a.md", &text)],
            &[("a.md", 1, "one machine")],
        );
    }

    #[test]
    fn whitespace_is_where_it_belongs() {
        passes(check_whitespace, &[("a.md", "a\n\nb\n"), ("empty", "")]);
        fails(
            check_whitespace,
            &[("a.md", "a\nb \n")],
            &[("a.md", 2, "end of the line")],
        );
        fails(
            check_whitespace,
            &[("a.md", "a\r\n")],
            &[("a.md", 1, "end of the line")],
        );
        fails(
            check_whitespace,
            &[("a.md", "a\nb")],
            &[("a.md", 2, "no newline")],
        );
        fails(
            check_whitespace,
            &[("a.md", "a\n\n")],
            &[("a.md", 2, "empty line")],
        );
    }
}
