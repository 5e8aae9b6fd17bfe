//! A network namespace for the calling thread, with optional rate limiting and loss on its
//! loopback. It ends with the last process in it.

use std::process::Command;

/// Configuration of the loopback device.
pub struct Faults {
    /// UDP from this port is limited to this rate by a queue (`tbf`).
    pub shaped: (u16, &'static str),
    /// Percentage of the TCP segments from and to this port that are lost, except those that open a
    /// connection: they carry no data and their loss would cost a second each.
    pub lossy: (u16, u8),
}

/// Moves the thread, and all threads and processes it starts from now on, to a namespace of its
/// own. Returns false where that needs root; with CI set that is a failure.
pub fn enter() -> bool {
    // SAFETY: takes flags only and affects only this thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let error = std::io::Error::last_os_error();
        assert!(std::env::var_os("CI").is_none(), "skipped, and CI is set: no namespace: {error}");
        eprintln!("skipped: a network namespace needs root ({error})");
        return false;
    }
    command("ip link set lo up");
    true
}

impl Faults {
    pub fn apply(&self) {
        let (port, rate) = self.shaped;
        // All other traffic bypasses the classes, unshaped.
        command("tc qdisc add dev lo root handle 1: htb");
        command("tc class add dev lo parent 1: classid 1:1 htb rate 10gbit quantum 65536");
        command(&format!(
            "tc qdisc add dev lo parent 1:1 handle 10: tbf rate {rate} burst 128k latency 60ms"
        ));
        command(&format!(
            "tc filter add dev lo parent 1: protocol ip u32 match ip protocol 17 0xff \
             match ip sport {port} 0xffff flowid 1:1"
        ));
        let (port, percent) = self.lossy;
        command("nft add table ip faults");
        command("nft add chain ip faults out { type filter hook output priority 0; }");
        for side in ["sport", "dport"] {
            command(&format!(
                "nft add rule ip faults out tcp {side} {port} tcp flags & syn == 0 \
                 numgen random mod 100 < {percent} counter drop"
            ));
        }
    }

    /// Returns the datagrams delayed or dropped by the queue, and the segments lost.
    pub fn seen() -> (u64, u64) {
        let queue = command("tc -s qdisc show dev lo parent 1:1");
        let backlog = queue.split("overlimits ").nth(1).unwrap();
        let overlimits = backlog.split_whitespace().next().unwrap().parse().unwrap();
        let rules = command("nft list table ip faults");
        let lost = rules
            .split("packets ")
            .skip(1)
            .map(|rest| rest.split_whitespace().next().unwrap().parse::<u64>().unwrap());
        (overlimits, lost.sum())
    }
}

fn command(line: &str) -> String {
    let mut words = line.split_whitespace();
    let done = Command::new(words.next().unwrap()).args(words).output();
    let done = done.unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
