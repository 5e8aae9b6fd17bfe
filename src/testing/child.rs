//! Deeds that end the process: a test commits them in a process of its own.

use std::process::{Command, Output};

const CHILD: &str = "RINGWAY_TEST_IN_CHILD";

/// Runs the calling test, whose full name is `test`, again in a child process, and returns how that
/// ended. In the child it commits `deed` and returns `None`.
///
/// # Panics
///
/// If the process cannot be started.
pub fn in_child(test: &str, deed: impl FnOnce()) -> Option<Output> {
    if std::env::var_os(CHILD).is_some() {
        deed();
        return None;
    }
    let program = std::env::current_exe().expect("a test program has a path");
    let mut child = Command::new(program);
    Some(child.args(["--exact", test]).env(CHILD, "1").output().expect("it runs once more"))
}
