//! The files that the rules look at: those git tracks or would track, or a made-up set in tests.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

/// Text files by their path from the root, with forward slashes.
pub struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads the repository at `root`; files that are not text are left out.
    ///
    /// Files that git does not track yet but does not ignore either are read too: a breach is best found before
    /// the commit.
    pub fn read(root: &Path) -> io::Result<Tree> {
        let listing = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root)
            .output()?;
        if !listing.status.success() {
            return Err(io::Error::other(format!(
                "git ls-files: {}",
                String::from_utf8_lossy(&listing.stderr).trim()
            )));
        }
        let mut files = BTreeMap::new();
        for path in String::from_utf8_lossy(&listing.stdout).split_terminator('\0') {
            match std::fs::read(root.join(path)) {
                Ok(bytes) => {
                    if let Some(text) = text_of(bytes) {
                        files.insert(path.to_owned(), text);
                    }
                }
                // Tracked, but deleted in the checkout: not there to be checked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A submodule or a link to a folder.
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Tree { files })
    }

    #[cfg(test)]
    pub fn from_files(files: &[(&str, &str)]) -> Tree {
        Tree {
            files: files
                .iter()
                .map(|&(path, text)| (path.to_owned(), text.to_owned()))
                .collect(),
        }
    }

    /// All files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The files whose name ends so.
    pub fn files_ending(&self, suffix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(move |(path, _)| path.ends_with(suffix))
    }

    /// The files below a folder, given with a slash at its end.
    pub fn files_under(&self, folder: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files()
            .filter(move |(path, _)| path.starts_with(folder))
    }
}

fn text_of(bytes: Vec<u8>) -> Option<String> {
    if bytes.contains(&0) {
        return None;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_read() {
        assert_eq!(text_of(b"abc\n".to_vec()).as_deref(), Some("abc\n"));
        assert_eq!(text_of(b"a\0b".to_vec()), None);
        assert_eq!(text_of(vec![0xff, 0xfe]), None);
    }
}
