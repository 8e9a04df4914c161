//! The environment of a whole program, as the program sees it: each case is a process of its own.

use manyhands::random::{BitGenerator, stream};
use std::collections::HashSet;
use std::process::{Command, Output};
use std::time::Duration;

/// Run by the other tests, with variables set.
#[test]
#[ignore = "no test: the tests start this program again with its name, under other variables"]
fn child() {
    let here = std::thread::current().id();
    let outcome = manyhands::map(0..40, |_| {
        std::thread::sleep(Duration::from_millis(2));
        std::thread::current().id()
    });
    match outcome {
        Ok(threads) => {
            let threads: HashSet<_> = threads.into_iter().collect();
            println!(
                "threads: {}, here: {}",
                threads.len(),
                threads.contains(&here)
            );
        }
        Err(error) => println!("error: {error}"),
    }
    let options = manyhands::Options::new();
    match options.map_seeded(0..20, |_, rng| rng.next_u64()) {
        Ok(drawn) => println!("drawn: {drawn:?}"),
        Err(error) => println!("not drawn: {error}"),
    }
}

fn output_with(variables: &[(&str, &str)]) -> String {
    let this_test = std::env::current_exe().expect("the path of this test");
    let Output { status, stdout, .. } = Command::new(this_test)
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env_remove("MANYHANDS_FORCE")
        .env_remove("MANYHANDS_SEED")
        .envs(variables.iter().copied())
        .output()
        .expect("the child runs");
    assert!(status.success());
    String::from_utf8(stdout).expect("text")
}

#[test]
fn the_environment_chooses_the_scheduler_and_the_workers() {
    let output = output_with(&[("MANYHANDS_SCHEDULER", "synchronous")]);
    assert!(output.contains("threads: 1, here: true"), "{output}");
    let variables = [
        ("MANYHANDS_SCHEDULER", "threads"),
        ("MANYHANDS_NUM_WORKERS", "3"),
    ];
    let output = output_with(&variables);
    assert!(output.contains("threads: 3, here: false"), "{output}");
}

#[test]
fn a_seed_gives_the_same_numbers_in_every_process() {
    let expected: Vec<_> = (0..20).map(|i| stream(7, i).next_u64()).collect();
    for (scheduler, n_workers) in [("synchronous", "1"), ("threads", "1"), ("threads", "3")] {
        let variables = [
            ("MANYHANDS_SCHEDULER", scheduler),
            ("MANYHANDS_NUM_WORKERS", n_workers),
            ("MANYHANDS_SEED", "7"),
        ];
        let output = output_with(&variables);
        assert!(
            output.contains(&format!("\ndrawn: {expected:?}")),
            "{output}"
        );
    }
    let output = output_with(&[]);
    assert!(
        output.contains("not drawn: a map with random numbers needs a seed"),
        "{output}"
    );
    let output = output_with(&[("MANYHANDS_SEED", "seven")]);
    assert!(
        output.contains(r#"MANYHANDS_SEED="seven" is not accepted"#),
        "{output}"
    );
}

#[test]
fn an_environment_that_is_not_accepted_is_an_error_of_each_run() {
    let output = output_with(&[("MANYHANDS_NUM_WORKERS", "four")]);
    let expected = r#"error: MANYHANDS_NUM_WORKERS="four" is not accepted."#;
    assert!(output.contains(expected), "{output}");
    let output = output_with(&[("MANYHANDS_SCHEDULER", "processes")]);
    assert!(output.contains("cannot leave its own"), "{output}");
}
