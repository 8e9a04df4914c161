//! Which crate may use which: dependencies point strictly downwards, and one crate knows Python.

use std::collections::BTreeMap;

use super::Finding;
use super::tree::Tree;

/// The floor of each crate, by its folder under `crates/`. A crate may use those on lower floors.
const FLOORS: &[(&str, u32)] = &[
    ("graph", 1),
    ("scheduler", 1),
    ("wire", 1),
    ("random", 1),
    ("xtask", 1),
    ("store", 2),
    ("checkpoint", 2),
    ("executor", 3),
    ("dashboard", 3),
    ("python", 4),
    ("manyhands", 4),
];

/// The uses that do not point downwards, each with its reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("scheduler", "graph", "what is scheduled is a graph"),
    (
        "xtask",
        "graph",
        "`simulate` makes random graphs; nothing uses xtask",
    ),
    (
        "xtask",
        "scheduler",
        "`simulate` drives the scheduler; nothing uses xtask",
    ),
    (
        "xtask",
        "executor",
        "`simulate` runs the simulated executor; nothing uses xtask",
    ),
];

/// Crates that decide and never do, and what they must not bring in to do it with.
const PURE: &[&str] = &["graph", "random", "scheduler", "wire"];
const IMPURE_PACKAGES: &[&str] = &[
    "getrandom",
    "libc",
    "mio",
    "nix",
    "rand",
    "rustix",
    "tokio",
    "tracing-subscriber",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let manifests: Vec<Manifest<'_>> = tree
        .files_under("crates/")
        .filter_map(|(path, text)| Manifest::parse(path, text))
        .collect();
    let folders: BTreeMap<&str, &str> = manifests
        .iter()
        .map(|manifest| (manifest.package, manifest.folder))
        .collect();
    let mut findings = Vec::new();
    for manifest in &manifests {
        let Some(floor) = floor_of(manifest.folder) else {
            let message = "this crate has no floor: give it one in crates/xtask/src/tidy/floors.rs";
            findings.push(Finding::new(manifest.path, 1, message));
            continue;
        };
        for dependency in &manifest.dependencies {
            let message = match folders.get(dependency.package) {
                Some(used) => breach_inside(manifest.folder, floor, used),
                None => breach_outside(manifest.folder, dependency),
            };
            if let Some(message) = message {
                findings.push(Finding::new(manifest.path, dependency.line, message));
            }
        }
    }
    findings
}

fn floor_of(folder: &str) -> Option<u32> {
    let &(_, floor) = FLOORS.iter().find(|(name, _)| *name == folder)?;
    Some(floor)
}

fn breach_inside(user: &str, floor: u32, used: &str) -> Option<String> {
    let is_exception = EXCEPTIONS
        .iter()
        .any(|&(from, to, _)| from == user && to == used);
    // A used crate without a floor is reported where it is declared.
    let used_floor = floor_of(used)?;
    if used_floor < floor || is_exception {
        return None;
    }
    let direction = if used_floor > floor {
        "climbs"
    } else {
        "goes sideways"
    };
    Some(format!(
        "the use of {used} (floor {used_floor}) by {user} (floor {floor}) {direction}; dependencies point downwards"
    ))
}

fn breach_outside(user: &str, dependency: &Dependency<'_>) -> Option<String> {
    let package = dependency.package;
    let knows_python = package.starts_with("pyo3") || package == "numpy";
    if knows_python && user != "python" {
        return Some(format!(
            "{user} uses {package}; only crates/python knows Python"
        ));
    }
    let is_test_only = dependency.section == "dev-dependencies";
    if PURE.contains(&user) && IMPURE_PACKAGES.contains(&package) && !is_test_only {
        return Some(format!(
            "{user} uses {package}, but {user} is pure: no clock, thread, file, socket or chance"
        ));
    }
    None
}

struct Manifest<'a> {
    path: &'a str,
    /// The name of the crate's folder.
    folder: &'a str,
    package: &'a str,
    dependencies: Vec<Dependency<'a>>,
}

struct Dependency<'a> {
    package: &'a str,
    section: &'a str,
    line: usize,
}

impl<'a> Manifest<'a> {
    /// Reads `crates/<folder>/Cargo.toml`; of TOML, what manifests written by hand use.
    fn parse(path: &'a str, text: &'a str) -> Option<Manifest<'a>> {
        let folder = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
        if folder.contains('/') {
            return None;
        }
        let mut manifest = Manifest {
            path,
            folder,
            package: folder,
            dependencies: Vec::new(),
        };
        let mut header = "";
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(inner) = line.strip_prefix('[') {
                header = inner.split(']').next().unwrap_or("").trim();
                // [dependencies.name], perhaps below [target.'cfg(...)'.
                if let Some((section, name)) = header.rsplit_once('.') {
                    manifest.add(section, name, i + 1);
                }
            } else if let Some((key, value)) = line.split_once('=') {
                let (key, value) = (key.trim(), value.trim());
                if header == "package" && key == "name" {
                    manifest.package = value.trim_matches('"');
                } else {
                    let renamed = value.split_once("package").and_then(|(_, rest)| {
                        rest.trim_start().strip_prefix('=')?.split('"').nth(1)
                    });
                    let name = key.split('.').next().unwrap_or(key);
                    manifest.add(header, renamed.unwrap_or(name), i + 1);
                }
            }
        }
        Some(manifest)
    }

    fn add(&mut self, header: &'a str, name: &'a str, line: usize) {
        let sections = ["dev-dependencies", "build-dependencies", "dependencies"];
        let is_section =
            |section: &&str| header == *section || header.ends_with(&format!(".{section}"));
        if let Some(section) = sections.into_iter().find(is_section) {
            let package = name.trim_matches(['"', '\'']);
            self.dependencies.push(Dependency {
                package,
                section,
                line,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fails, passes};
    use super::*;

    const GRAPH: (&str, &str) = (
        "crates/graph/Cargo.toml",
        "[package]\nname = \"manyhands-graph\"\n",
    );
    const EXECUTOR: (&str, &str) = (
        "crates/executor/Cargo.toml",
        "[package]\nname = \"manyhands-executor\"\n\n[dependencies]\nmanyhands-graph.workspace = true\nrustix = \"1\"\n",
    );

    #[test]
    fn downwards_and_the_named_exceptions_pass() {
        let scheduler = (
            "crates/scheduler/Cargo.toml",
            "[package]\nname = \"manyhands-scheduler\"\n[dependencies]\nmanyhands-graph = { workspace = true }\n\
             smallvec = \"1\"\n[dev-dependencies]\nrand = \"0.9\"\n",
        );
        let python = (
            "crates/python/Cargo.toml",
            "[package]\nname = \"manyhands-python\"\n[dependencies]\nmanyhands-executor.workspace = true\npyo3 = \"0.30\"\n",
        );
        passes(check, &[GRAPH, EXECUTOR, scheduler, python]);
    }

    #[test]
    fn climbing_fails_in_every_kind_of_section() {
        for section in [
            "[dependencies]\nmanyhands-executor.workspace = true\n",
            "[dev-dependencies]\nmanyhands-executor = { path = \"../executor\" }\n",
            "[target.'cfg(unix)'.dependencies]\nmanyhands-executor = { path = \"../executor\" }\n",
            "[build-dependencies]\nhidden = { package = \"manyhands-executor\", path = \"../executor\" }\n",
        ] {
            let text = format!("[package]\nname = \"manyhands-graph\"\n{section}");
            let graph = ("crates/graph/Cargo.toml", text.as_str());
            fails(check, &[graph, EXECUTOR], &[(graph.0, 4, "climbs")]);
        }
        let graph = (
            "crates/graph/Cargo.toml",
            "[package]\nname = \"manyhands-graph\"\n[dependencies.manyhands-executor]\npath = \"../executor\"\n",
        );
        fails(check, &[graph, EXECUTOR], &[(graph.0, 3, "climbs")]);
    }

    #[test]
    fn sideways_fails() {
        let wire = (
            "crates/wire/Cargo.toml",
            "[package]\nname = \"manyhands-wire\"\n[dependencies]\nmanyhands-graph.workspace = true\n",
        );
        fails(check, &[GRAPH, wire], &[(wire.0, 4, "goes sideways")]);
    }

    #[test]
    fn a_crate_without_a_floor_fails() {
        let attic = ("crates/attic/Cargo.toml", "[package]\nname = \"attic\"\n");
        fails(check, &[attic], &[(attic.0, 1, "no floor")]);
    }

    #[test]
    fn python_outside_its_crate_fails() {
        let executor = (
            "crates/executor/Cargo.toml",
            "[package]\nname = \"manyhands-executor\"\n[dependencies]\npyo3-ffi = \"0.30\"\n",
        );
        fails(check, &[executor], &[(executor.0, 4, "only crates/python")]);
    }

    #[test]
    fn a_pure_crate_with_the_means_to_act_fails() {
        let wire = (
            "crates/wire/Cargo.toml",
            "[package]\nname = \"manyhands-wire\"\n[dependencies]\nrustix.workspace = true\n",
        );
        fails(check, &[wire], &[(wire.0, 4, "pure")]);
    }
}
