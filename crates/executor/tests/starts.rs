//! Workers that are not ready in time: nobody waits for them for ever.

mod memory;

use manyhands_executor::Failure;
use manyhands_executor::processes::WorkerCommand;
use memory::{Call, command, finish, pool_with, stock, submit};
use std::ffi::OsString;
use std::time::Duration;

/// Has a shell do this before it becomes what the command would start.
fn first(script: &str, command: WorkerCommand) -> WorkerCommand {
    let mut args = vec!["-c".into(), format!(r#"{script}; exec "$0" "$@""#).into()];
    args.push(command.program);
    args.extend(command.args);
    WorkerCommand {
        program: OsString::from("sh"),
        args,
        env: command.env,
    }
}

#[test]
fn when_none_is_ready_in_time_the_job_fails_and_says_so() {
    for script in ["sleep 1000", "kill -STOP $$"] {
        let stock = stock(1 << 20);
        let late = first(script, command("memory::worker_process"));
        let pool = pool_with(late, &stock, 2, Duration::from_millis(50));
        let function = pool.function(b"", &[], None);
        let (job, calls) = submit(&pool, &stock, function, vec![Call::Look]);
        let failure = finish(&job, &calls).expect_err("no worker is ever ready");
        let Failure::NoWorkers(text) = failure else {
            panic!("{script}: {failure:?}");
        };
        assert!(text.contains("was not ready after 50ms"), "{text}");
    }
}

#[test]
fn another_takes_the_place_of_one_that_stopped_while_it_started() {
    let folder = std::env::temp_dir().join(format!("manyhands-starts-{}", std::process::id()));
    // Only one of all that start can make it.
    let script = format!(
        "if mkdir '{}' 2> /dev/null; then kill -STOP $$; fi",
        folder.display()
    );
    let stock = stock(1 << 20);
    let stops = first(&script, command("memory::worker_process"));
    let pool = pool_with(stops, &stock, 1, Duration::from_secs(3));
    let function = pool.function(b"", &[], None);
    let (job, calls) = submit(&pool, &stock, function, vec![Call::Look]);
    let outcomes = finish(&job, &calls);
    assert!(folder.is_dir(), "no worker has stopped");
    std::fs::remove_dir(&folder).expect("it is there");
    assert_eq!(outcomes.expect("the next worker does it").len(), 1);
}
