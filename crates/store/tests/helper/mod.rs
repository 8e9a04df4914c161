//! Other processes for tests: this test binary once more, which runs one function and nothing else.

use std::process::{Command, ExitStatus, Stdio};

const ROLE: &str = "MANYHANDS_STORE_TEST_ROLE";

/// The role that this process was started in. `None`: it is the test run itself.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A command that starts this binary in a role; its test named `helper` plays it.
pub fn in_role(role: &str) -> Command {
    let binary = std::env::current_exe().expect("this binary is somewhere");
    let mut command = Command::new(binary);
    command
        .args(["--exact", "helper", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdout(Stdio::piped());
    command
}

/// Plays a role in another process to its end. What it prints is shown where it fails.
#[allow(dead_code)]
pub fn play(role: &str) {
    let output = in_role(role).output().expect("this binary starts");
    succeeded(output.status, &output.stdout);
}

#[allow(dead_code)]
pub fn succeeded(status: ExitStatus, stdout: &[u8]) {
    assert!(
        status.success(),
        "{status}\n{}",
        String::from_utf8_lossy(stdout)
    );
}
