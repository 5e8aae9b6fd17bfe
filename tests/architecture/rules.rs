//! The allowed dependencies between modules, and the modules that may use each external crate. A
//! dependency that is not listed here is a fault: either the code changes, or the dependency is
//! added here with its reason.

/// Leaves that every module may use: they know nothing of the program.
const LEAVES: &[&str] =
    &["account", "address", "base", "cid", "hugepages", "limits", "message", "metrics", "planted"];

/// Module -> the paths it may name besides the leaves and itself; a path includes everything below
/// it.
const ARROWS: &[(&str, &[&str])] = &[
    // The root: the map of modules, and the allocator that serves pool slots.
    ("lib", &["pool::PoolAllocator", "process"]),
    ("main", &["pool::PoolAllocator", "process"]),
    ("process", &["cli", "control", "worker", "host", "config", "tls", "pool", "demo"]),
    ("cli", &["config", "host"]),
    ("demo", &["config"]),
    // The control thread reaches a worker through its mailbox only; it needs the shared clock.
    // Before it runs, other handlers have the signals; a check tries the files that it would open.
    // It has certificates read again when their files change.
    (
        "control",
        &[
            "worker::mailbox",
            "config",
            "tls",
            "host::clock",
            "host::signals",
            "host::files",
            "host::inotify",
        ],
    ),
    // The module where both sides meet.
    ("worker", &["gateway", "ring", "pool", "host", "config", "tls", "quic", "proxy"]),
    // The protocol side. `quic`, `http3`, `http2`, `http1`, `proxy_protocol` and `proxy` never name
    // each other, with one exception: the proxy is a client of upstreams and uses their protocol's
    // codec. The gateway hands new TLS settings on to the engine.
    ("gateway", &["quic", "http3", "http2", "http1", "proxy_protocol", "proxy", "config", "tls"]),
    ("quic", &["tls", "config"]),
    ("http1", &[]),
    ("http2", &[]),
    ("http3", &[]),
    ("proxy_protocol", &[]),
    ("proxy", &["http1", "config"]),
    // The kernel side.
    ("ring", &["pool", "host"]),
    ("pool", &["host"]),
    ("host", &[]),
    // Leaves.
    ("tls", &["config"]),
    ("config", &[]),
    ("metrics", &[]),
    ("account", &[]),
    ("address", &[]),
    ("base", &[]),
    ("message", &[]),
    ("cid", &[]),
    ("hugepages", &[]),
    ("limits", &[]),
    ("planted", &[]),
];

/// Fixtures that test suites share: they may name anything, and only code for tests may name them.
pub const TESTING: &str = "testing";

/// External crate -> the modules that may use it.
const HOMES: &[(&str, &[&str])] = &[
    ("io_uring", &["host", "ring"]),
    ("inotify", &["host"]),
    ("libc", &["host", "pool", "ring"]),
    ("memmap2", &["host", "ring"]),
    ("libmimalloc_sys", &["pool"]),
    ("smallvec", &["gateway", "proxy", "quic"]),
    ("quinn_proto", &["quic"]),
    ("aws_lc_rs", &["quic", "tls"]),
    // quinn-proto's settings are made from a `rustls::ServerConfig`, which `tls` provides.
    ("rustls", &["tls", "quic"]),
    ("x509_parser", &["tls"]),
    ("data_encoding", &["tls"]),
    ("rcgen", &["tls"]),
    ("hdrhistogram", &["metrics"]),
    ("prometheus_client", &["metrics"]),
    ("tokio_uring", &["control"]),
    // In a worker, only for the channels of its mailbox; in `http2`, for the traits by which h2
    // reads and writes. The watch of folders waits on the control thread's runtime.
    ("tokio", &["process", "control", "demo", "worker", "host::inotify", "http2"]),
    ("h2", &["http2"]),
    ("hyper", &["control", "demo"]),
    ("hyper_util", &["control", "demo"]),
    ("http_body_util", &["control", "demo"]),
    ("serde_json", &["control"]),
    ("tracing_subscriber", &["cli"]),
    ("clap", &["cli"]),
    ("serde", &["control"]),
    ("toml", &["config"]),
    ("humantime", &["config", "control"]),
    ("bytesize", &["config"]),
    ("strsim", &["config"]),
    ("ipnet", &["config"]),
    ("httparse", &["http1"]),
    ("itoa", &["proxy"]),
    ("memchr", &["http1"]),
];

/// External crates that carry values between modules, or only observe.
const HOMELESS: &[&str] = &["bytes", "http", "tracing"];

/// State machines independent of the kernel: no unsafe code, clock, randomness, files, threads or
/// locks.
pub const PROTOCOL_SIDE: &[&str] =
    &["quic", "http3", "http2", "http1", "proxy_protocol", "proxy", "gateway", "message", "base"];

/// Modules that may contain unsafe code.
pub const KERNEL_SIDE: &[&str] = &["host", "pool", "ring"];

/// Paths that the protocol side never names.
pub const BANNED_PATHS: &[&str] = &[
    "std::fs",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "rand",
    "getrandom",
    "aws_lc_rs::rand",
];

/// Identifiers that the protocol side never uses, in any path.
pub const BANNED_WORDS: &[&str] = &[
    "async",
    "await",
    "Condvar",
    "Mutex",
    "OnceLock",
    "RwLock",
    "SystemRandom",
    "println",
    "thread_local",
    "unsafe",
];

/// The exceptions, by module.
pub const PERMITTED_WORDS: &[(&str, &str)] = &[
    // quinn-proto shares its log of used tokens between settings, and asks for `Sync`.
    ("quic::used_tokens", "Mutex"),
    // A `std::task::Waker` is `Sync`, and so is what it writes to.
    ("http2::wakers", "Mutex"),
];

/// Returns whether `from` may name `path` (below `crate`, joined by `::`).
pub fn arrow_is_drawn(from: &str, path: &str) -> bool {
    let top = path.split("::").next().unwrap_or(path);
    if from == top || from == TESTING || LEAVES.contains(&top) {
        return true;
    }
    let drawn = ARROWS.iter().find(|(module, _)| *module == from);
    drawn.is_some_and(|(_, targets)| targets.iter().any(|target| is_below(path, target)))
}

/// Returns whether the table has `module`: a new module must be added before it is used.
pub fn is_drawn(module: &str) -> bool {
    module == TESTING || ARROWS.iter().any(|(known, _)| *known == module)
}

/// Returns why the external crate `name` may not be used in `module` (`worker::mailbox`), or `None`
/// if it may.
pub fn homeless(name: &str, module: &str) -> Option<String> {
    if HOMELESS.contains(&name) || is_below(module, TESTING) {
        return None;
    }
    match HOMES.iter().find(|(known, _)| *known == name) {
        None => Some(format!("outside crate `{name}` has no home in tests/architecture/rules.rs")),
        Some((_, homes)) if homes.iter().any(|home| is_below(module, home)) => None,
        Some((_, homes)) => {
            Some(format!("outside crate `{name}` lives in {}, not here", homes.join(", ")))
        }
    }
}

/// Returns whether `path` is `prefix` or lies below it, by whole segments.
pub fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn the_dependency_table_has_no_cycle_and_no_bypass() {
    // If a module could reach itself through others, "side" would have no meaning.
    fn reaches(from: &str, wanted: &str, depth: usize) -> bool {
        assert!(depth < 20, "the table has a cycle at {from}");
        let Some((_, targets)) = ARROWS.iter().find(|(module, _)| *module == from) else {
            return false;
        };
        targets
            .iter()
            .map(|target| target.split("::").next().unwrap_or(target))
            .any(|target| target == wanted || reaches(target, wanted, depth + 1))
    }
    for (module, _) in ARROWS {
        assert!(!reaches(module, module, 0), "{module} reaches itself");
    }
    for kernel in KERNEL_SIDE {
        for protocol in PROTOCOL_SIDE {
            assert!(!reaches(kernel, protocol, 0), "{kernel} reaches {protocol}");
            assert!(!reaches(protocol, kernel, 0), "{protocol} reaches {kernel}");
        }
    }
}
