//! The gateway as a process: its configuration, its metrics, its end.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringway::testing::TestCertificate;
use rustls::pki_types::CertificateDer;

use crate::{now, pause};

/// Settings that a test overrides.
pub struct Settings {
    pub pool: &'static str,
    /// Lines of `[limits]`.
    pub limits: &'static str,
    /// Lines of the listener's table.
    pub idle_timeout: &'static str,
    /// `timeout` of every upstream.
    pub timeout: &'static str,
    /// Maximum number of open files of the process.
    pub files_max: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pool: "16MiB",
            limits: "",
            idle_timeout: "30s",
            timeout: r#"{ connect = "2s", response = "10s", idle = "30s" }"#,
            files_max: None,
        }
    }
}

/// Returns an address of loopback that is free for UDP and TCP.
fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

pub struct Gateway {
    pub address: SocketAddr,
    pub certificate: CertificateDer<'static>,
    admin: SocketAddr,
    process: Child,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts a gateway that forwards everything to `origin`, and paths below `/NAME` to the
    /// upstream NAME.
    pub async fn start(settings: Settings, origin: SocketAddr) -> Gateway {
        Self::start_with(settings, &[("origin", origin)]).await
    }

    pub async fn start_with(settings: Settings, upstreams: &[(&str, SocketAddr)]) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let made = TestCertificate::new(&["localhost"]);
        made.write(folder.path());
        let address = free_address();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = folder.path().join("ringway.toml");
        std::fs::write(&file, configuration(&settings, upstreams, address, admin)).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args(["run", "--config"]).arg(&file).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log).env("RUST_BACKTRACE", "1");
        if let Some(files_max) = settings.files_max {
            let limit = libc::rlimit { rlim_cur: files_max, rlim_max: files_max };
            // SAFETY: only this system call is made between fork and exec, on a copy of `limit`.
            unsafe {
                command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
            }
        }
        let process = command.spawn().unwrap();
        let mut gateway = Gateway { address, certificate: made.der, admin, process, folder };
        let deadline = now() + Duration::from_secs(20);
        while gateway.page("/readyz").is_none_or(|page| !page.starts_with("HTTP/1.1 200")) {
            assert!(gateway.process.try_wait().unwrap().is_none(), "{}", gateway.log());
            assert!(now() < deadline, "not ready: {}", gateway.log());
            pause(20).await;
        }
        gateway
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Returns the sum of a metric's samples whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> u64 {
        sum(&self.page("/metrics").expect("the metrics page"), name, labels)
    }

    /// Returns the number of slots in use outside the kernel's receive queues.
    pub fn slots_out(&self) -> u64 {
        self.metric("pool_slots", "state=\"owned\"")
            + self.metric("pool_slots", "state=\"in_kernel\"")
    }

    /// Returns the figures that must be 0 when idle: exchanges, waiting requests, slots in use.
    pub fn unsettled(&self) -> Vec<(&'static str, u64)> {
        let page = self.page("/metrics").expect("the metrics page");
        let held = sum(&page, "pool_slots", "state=\"owned\"")
            + sum(&page, "pool_slots", "state=\"in_kernel\"");
        let figures = [
            ("connections", sum(&page, "connections_open", "")),
            ("exchanges", sum(&page, "exchanges_active", "")),
            ("waiting", sum(&page, "requests_waiting", "")),
            // The next batch of packets already has its slot.
            ("slots", held.saturating_sub(1)),
        ];
        figures.into_iter().filter(|(_, value)| *value > 0).collect()
    }

    /// Waits until everything is released, within the given seconds.
    pub async fn settle(&self, seconds: u64) {
        self.settle_but(seconds, &[]).await;
    }

    /// Does the same, except for figures that may remain.
    pub async fn settle_but(&self, seconds: u64, stays: &[&str]) {
        let deadline = now() + Duration::from_secs(seconds);
        loop {
            let mut left = self.unsettled();
            left.retain(|(name, _)| !stays.contains(name));
            if left.is_empty() {
                return;
            }
            assert!(now() < deadline, "not settled after {seconds} s: {left:?}\n{}", self.log());
            pause(100).await;
        }
    }

    /// Returns the resident memory in bytes.
    pub fn resident_len(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Returns the processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|text| text.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Asserts that the process does not spin: within a few seconds there is one in which it uses
    /// less than a tenth of one processor. Before that it may finish work in progress.
    pub async fn assert_at_rest(&self, when: &str) {
        let mut used = Vec::new();
        for _ in 0..6 {
            let before = self.cpu();
            pause(1000).await;
            used.push(self.cpu() - before);
            if used.last().is_some_and(|used| *used <= Duration::from_millis(100)) {
                return;
            }
        }
        panic!("{used:?} of processor time, second by second, {when}");
    }

    /// Terminates the process and checks its log.
    pub fn stop(mut self) {
        // SAFETY: the process is our child and not yet waited for, so the id is still its own.
        unsafe { libc::kill(self.process.id() as i32, libc::SIGINT) };
        let status = self.process.wait().unwrap();
        let log = self.log();
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let said = log.lines().filter(|line| !line.starts_with('{')).collect::<Vec<_>>();
            eprintln!("the gateway said:\n{}", said.join("\n"));
        }
        // Already waited for if the test passed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sum(page: &str, name: &str, labels: &str) -> u64 {
    let prefix = format!("ringway_{name}");
    let values: Vec<f64> = page
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        .map(|rest| rest.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!values.is_empty(), "no metric {name} with {labels}");
    values.iter().sum::<f64>() as u64
}

fn configuration(
    settings: &Settings,
    upstreams: &[(&str, SocketAddr)],
    address: SocketAddr,
    admin: SocketAddr,
) -> String {
    let Settings { pool, limits, idle_timeout, timeout, .. } = settings;
    let mut text = format!(
        r#"
[runtime]
workers = 1
pool = {{ per_worker = "{pool}", hugepages = "off" }}
[admin]
listen = "{admin}"
[[listeners]]
address = "{address}"
  [listeners.quic]
  idle_timeout = "{idle_timeout}"
[[certificates]]
hosts = ["localhost"]
cert = "chain.pem"
key = "key.pem"
[limits]
{limits}
"#
    );
    for (name, address) in upstreams.iter().rev() {
        let path = if *name == "origin" { "/" } else { &format!("/{name}") };
        write!(
            text,
            r#"
[[routes]]
match = {{ path_prefix = "{path}" }}
upstream = "{name}"
[upstreams.{name}]
endpoints = [{{ address = "{address}" }}]
timeout = {timeout}
"#
        )
        .unwrap();
    }
    text
}
