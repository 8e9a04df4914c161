//! The rule on where `unsafe` may stand: ARCHITECTURE.md lists the places, and the list is true.

use super::Finding;
use super::source::{past_closing, tokens};
use super::tree::Tree;

const LISTED_IN: &str = "ARCHITECTURE.md";
/// How the item of the list begins that names the places, each in backticks.
const OPENING: &str = "* `unsafe` stands in";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let used: Vec<(&str, usize)> = tree
        .files_ending(".rs")
        .filter_map(|(path, text)| Some((path, first_allowance(text)?)))
        .collect();
    let Some((line, places)) = listed(tree) else {
        let Some(&(path, line)) = used.first() else {
            return Vec::new();
        };
        let message = format!("`unsafe` is allowed here, and {LISTED_IN} lists no places for it");
        return vec![Finding::new(path, line, message)];
    };
    let unlisted = used
        .iter()
        .filter(|(path, _)| !places.iter().any(|place| is_in(path, place)))
        .map(|&(path, line)| {
            let message =
                format!("`unsafe` is allowed here, and {LISTED_IN} does not name the place");
            Finding::new(path, line, message)
        });
    let unused = places
        .iter()
        .filter(|place| !used.iter().any(|(path, _)| is_in(path, place)))
        .map(|place| {
            let message = format!("there is no `unsafe` in {place} any more");
            Finding::new(LISTED_IN, line, message)
        });
    unlisted.chain(unused).collect()
}

/// Whether a path is that place or lies in it.
fn is_in(path: &str, place: &str) -> bool {
    let rest = path.strip_prefix(place.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The line of the first `allow` or `expect` that names `unsafe_code`, alone or among others.
fn first_allowance(text: &str) -> Option<usize> {
    let tokens = tokens(text);
    let is_allowance = |at: &usize| {
        let is_level = tokens[*at].is_word("allow") || tokens[*at].is_word("expect");
        let is_list = tokens.get(at + 1).is_some_and(|next| next.is_mark('('));
        is_level && is_list && {
            let inside = &tokens[at + 1..past_closing(&tokens, at + 1)];
            inside.iter().any(|token| token.is_word("unsafe_code"))
        }
    };
    let found = (0..tokens.len()).find(is_allowance)?;
    Some(tokens[found].line)
}

/// The line of the list, and the places that it names.
fn listed(tree: &Tree) -> Option<(usize, Vec<&str>)> {
    let (_, text) = tree.files().find(|(path, _)| *path == LISTED_IN)?;
    let start = text.find(OPENING)?;
    let item = &text[start + OPENING.len()..];
    let ends = ["\n*", "\n\n"].map(|end| item.find(end).unwrap_or(item.len()));
    let item = &item[..ends[0].min(ends[1])];
    let places = item.split('`').skip(1).step_by(2);
    let is_path = |place: &&str| place.starts_with("crates/");
    let line = text[..start].lines().count() + 1;
    Some((line, places.filter(is_path).collect()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fails, passes};
    use super::*;

    const USED: (&str, &str) = (
        "crates/a/src/lib.rs",
        "//! Job.\n#[allow(unsafe_code)]\nfn f() {}\n",
    );

    fn list(places: &str) -> String {
        format!("# A\n\n* Other.\n* `unsafe` stands in {places}, with its\n  proof.\n* More.\n")
    }

    #[test]
    fn a_list_that_is_true_passes() {
        for places in [
            "`crates/a`",
            "`crates/a/`",
            "`crates/a/src/lib.rs`",
            "`crates/a` (see `f`)",
        ] {
            passes(check, &[USED, (LISTED_IN, &list(places))]);
        }
        passes(
            check,
            &[("crates/b/src/lib.rs", "//! allow(unsafe_code)\n")],
        );
    }

    #[test]
    fn every_form_of_an_allowance_is_seen() {
        for text in [
            "#![allow(unsafe_code)]\n",
            "#[expect(unsafe_code)]\nfn f() {}\n",
            "#[allow(dead_code, unsafe_code)]\nfn f() {}\n",
            "#[expect(unsafe_code, reason = \"proof (there)\")]\nfn f() {}\n",
            "#[cfg_attr(unix, allow(clippy::all, unsafe_code))]\nfn f() {}\n",
        ] {
            let used = ("crates/b/src/lib.rs", text);
            let list = list("`crates/a`");
            let expected = ("crates/b/src/lib.rs", 1, "does not name");
            fails(check, &[USED, used, (LISTED_IN, &list)], &[expected]);
        }
        passes(
            check,
            &[(
                "crates/b/src/lib.rs",
                "#[allow(dead_code)]\nfn unsafe_code() {}\n",
            )],
        );
    }

    #[test]
    fn a_place_is_a_whole_name() {
        let other = ("crates/a2/src/lib.rs", "#![allow(unsafe_code)]\n");
        let expected = ("crates/a2/src/lib.rs", 1, "does not name");
        fails(
            check,
            &[USED, other, (LISTED_IN, &list("`crates/a`"))],
            &[expected],
        );
    }

    #[test]
    fn the_list_ends_with_its_item() {
        let other = ("crates/b/src/lib.rs", "#![allow(unsafe_code)]\n");
        let expected = ("crates/b/src/lib.rs", 1, "does not name");
        for more in [
            "\n`crates/b` is safe.\n\n* More.\n",
            "* `crates/b` is safe.\n\nMore.\n",
        ] {
            let text = format!("* `unsafe` stands in `crates/a`.\n{more}");
            fails(check, &[USED, other, (LISTED_IN, &text)], &[expected]);
        }
    }

    #[test]
    fn a_place_that_is_not_listed_fails() {
        let text = list("`crates/a`");
        let other = ("crates/b/src/lib.rs", "#![allow(unsafe_code)]\n");
        let expected = ("crates/b/src/lib.rs", 1, "does not name");
        fails(check, &[USED, other, (LISTED_IN, &text)], &[expected]);
        fails(check, &[USED], &[(USED.0, 2, "lists no places")]);
    }

    #[test]
    fn a_place_without_unsafe_fails() {
        let text = list("`crates/a` and `crates/b`");
        let expected = (LISTED_IN, 4, "crates/b");
        fails(check, &[USED, (LISTED_IN, &text)], &[expected]);
    }
}
