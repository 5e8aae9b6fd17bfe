//! The process: parses arguments, loads the configuration, checks the host, binds, starts the
//! workers and runs the control thread until they have ended.

mod reload;
mod sizing;

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc::{self, UnboundedSender};

use crate::cli::{self, Command, Exit, LevelHandle};
use crate::config::{
    self, Account, Accounts, AdminAddress, Config, EndpointAddress, Listener, Log, Runtime,
};
use crate::control::{
    self, Control, ControlSettings, ExitReason, Links, ReloadResult, ShutdownSettings, Source,
};
use crate::demo::Demonstration;
use crate::host::capacity::Capacity;
use crate::host::probe::{self, HostFacts};
use crate::host::socket::offload::Offload;
use crate::host::socket::{EdgeGroup, ListenerGroup, SocketGroup, Transports};
use crate::host::{accounts, clock, cpu, eventfd, files, privileges, signals};
use crate::limits::REGION_COUNT_MAX;
use crate::pool::{RegionHandle, Regions};
use crate::tls::{self, ServerTls};
use crate::worker::mailbox::{
    AccessBatch, Edge, ListeningEdge, Mailbox, MailboxSender, Snapshot, WorkerEvent, mailbox,
};
use crate::worker::{self, ProcessKeys, WorkerSetup};
use reload::FileSource;
use sizing::Sizes;

/// The environment variable that makes other programs log the secrets of connections.
const KEY_LOG_VARIABLE: &str = "SSLKEYLOGFILE";

/// Runs the command that the command line names. Returns the exit code.
pub fn run() -> ExitCode {
    if let Err(error) = signals::catch_during_start() {
        let why = format!("signal handlers cannot be installed: {error}");
        return cli::refuse(Exit::Host, &why).into();
    }
    let outcome = cli::parse_or_print().and_then(|command| match command {
        Command::Version => {
            cli::print_version();
            Ok(())
        }
        Command::Check { config } => check(&config),
        Command::Run { config } => load(&config).and_then(|loaded| serve(loaded, None)),
        Command::Reload { config } => reload_running(&config),
        Command::Config { config, running } => print_config(&config, running),
        Command::Demonstration => demonstrate(),
    });
    outcome.err().unwrap_or(Exit::Success).into()
}

/// The configuration and what its files hold.
struct Loaded {
    /// The file, which a reload reads again. The demonstration has none.
    file: Option<PathBuf>,
    config: Config,
    tls: ServerTls,
    keys: ProcessKeys,
}

/// The accounts of this host.
const ACCOUNTS: Accounts = Accounts { user: accounts::find_user, group: accounts::find_group };

fn load(path: &Path) -> Result<Loaded, Exit> {
    let refuse = |why: &dyn std::fmt::Display| cli::refuse(Exit::Configuration, why);
    let config = config::load(path, ACCOUNTS).map_err(|errors| refuse(&errors))?;
    let tls = ServerTls::load(&config.certificates, config.tls.clone())
        .and_then(|tls| tls.with_client_auth(&config.listeners))
        .map_err(|error| refuse(&error))?;
    let mut keys = ProcessKeys::generate(tls::fill_random);
    if let Some(path) = &config.runtime.token_key {
        keys.token_key = tls::token_key(path).map_err(|error| refuse(&error))?;
    }
    Ok(Loaded { file: Some(path.to_owned()), config, tls, keys })
}

/// Returns the address of the admin endpoint that a file names, for the process that runs with it.
fn admin_address(path: &Path) -> Result<AdminAddress, Exit> {
    let refuse = |why: &dyn std::fmt::Display| cli::refuse(Exit::Configuration, why);
    let address = config::admin_address(path).map_err(|errors| refuse(&errors))?;
    address.ok_or_else(|| {
        let path = path.display();
        refuse(&format!(
            "{path}: admin.listen is \"off\", so the process cannot be asked; send it SIGHUP"
        ))
    })
}

/// Has the process that runs with this file reload it, and prints what changed.
fn reload_running(path: &Path) -> Result<(), Exit> {
    let address = admin_address(path)?;
    let report =
        control::client::reload(&address).map_err(|error| cli::refuse(Exit::Host, &error))?;
    for change in &report.changes {
        println!("{change}");
    }
    for warning in &report.warnings {
        eprintln!("ringway: warning: {warning}");
    }
    let refuse = |exit| Err(cli::refuse(exit, &report.errors.join("\n")));
    match report.result {
        ReloadResult::Applied => println!("ringway: generation {} runs", report.generation),
        ReloadResult::Unchanged => println!("ringway: nothing has changed"),
        ReloadResult::ConfigurationRefused => return refuse(Exit::Configuration),
        ReloadResult::HostRefused | ReloadResult::Incomplete => return refuse(Exit::Host),
    }
    Ok(())
}

/// Prints the effective configuration of a file, or of the process that runs with it.
fn print_config(path: &Path, of_running: bool) -> Result<(), Exit> {
    if of_running {
        let address = admin_address(path)?;
        let text = control::client::running_config(&address);
        print!("{}", text.map_err(|error| cli::refuse(Exit::Host, &error))?);
        return Ok(());
    }
    let config = config::load(path, ACCOUNTS);
    let config = config.map_err(|errors| cli::refuse(Exit::Configuration, &errors))?;
    print!("{}", config.effective());
    Ok(())
}

fn check(path: &Path) -> Result<(), Exit> {
    let Loaded { config, tls, .. } = load(path)?;
    for warning in warnings(&config, &tls) {
        eprintln!("ringway: warning: {warning}");
    }
    for warning in closed_certificates(&config, &tls) {
        eprintln!("ringway: warning: {warning}");
    }
    for summary in tls.summaries() {
        println!("ringway: {summary}");
    }
    check_logs(&config.log).map_err(|why| cli::refuse(Exit::Host, &why))?;
    let (capacity, sizes) = sizes(&config.runtime)?;
    println!("ringway: {}: configuration is valid", path.display());
    println!("ringway: this process may use {capacity}");
    println!("ringway: it would have {sizes}");
    for line in fixed_names(&config) {
        println!("ringway: {line}");
    }
    Ok(())
}

/// Returns a line for each name of an endpoint.
fn fixed_names(config: &Config) -> Vec<String> {
    let names = config.names().into_iter().map(|(name, addresses)| {
        let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        format!(
            "the endpoint {name} is {}: names are looked up when the configuration is loaded, and \
             not again until the next start or reload",
            addresses.join(", ")
        )
    });
    names.collect()
}

/// Returns a warning for each file of a certificate that the account of the process cannot read, so
/// that it cannot follow the file.
fn closed_certificates(config: &Config, tls: &ServerTls) -> Vec<String> {
    let Some(account) = &config.runtime.user else { return Vec::new() };
    let obstacle = |path: &Path| Some((path.to_owned(), files::obstacle(path, account.ids())?));
    let closed = tls.files().paths().filter_map(obstacle).map(|(path, obstacle)| {
        let (path, mode) = (path.display(), if obstacle.is_dir() { "rx" } else { "r" });
        format!(
            "{path} is closed to the user {}, so a change of it is used from the next start \
             on only; open it with `chgrp {} {at}` and `chmod g+{mode} {at}`",
            account.name,
            account.gid,
            at = obstacle.display()
        )
    });
    closed.collect()
}

/// Warns of files of certificates that this process cannot read any more.
fn warn_of_closed_certificates(config: &Config, tls: &ServerTls) {
    let unreadable = tls.files().unreadable();
    if unreadable.is_empty() {
        return;
    }
    for (path, error) in unreadable {
        tracing::warn!(
            "{} cannot be read after privileges were given up ({error}): a change of it is used \
             from the next start on only",
            path.display()
        );
    }
    closed_certificates(config, tls).iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// Tries the files that `run` would open and that need not exist. Leaves them as they are.
fn check_logs(log: &Log) -> Result<(), String> {
    if let Some(access) = &log.access {
        control::check_access_log(access).map_err(|error| error.to_string())?;
    }
    if let Some(path) = &log.tls_keys {
        files::try_append(path).map_err(|error| {
            let path = path.display();
            format!("the key log {path} cannot be opened: {error}; correct log.tls_keys")
        })?;
    }
    Ok(())
}

/// Returns the part of the host that this process may use, and the sizes that it takes of it.
fn sizes(runtime: &Runtime) -> Result<(Capacity, Sizes), Exit> {
    let capacity = Capacity::read()
        .map_err(|error| cli::refuse(Exit::Host, &format!("usable cores: {error}")))?;
    let sizes =
        Sizes::choose(runtime, &capacity).map_err(|error| cli::refuse(Exit::Host, &error))?;
    Ok((capacity, sizes))
}

/// Returns problems that an operator should fix although the program can run.
fn warnings(config: &Config, tls: &ServerTls) -> Vec<String> {
    let mut warnings = tls.warnings(clock::wall());
    warnings.extend(config.warnings());
    let endpoints = config.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
    for endpoint in endpoints {
        // One that is missing may be made later.
        if let EndpointAddress::Unix(path) = &endpoint.address
            && fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket())
        {
            warnings.push(format!(
                "the endpoint unix:{} is no socket, so connections to it are refused",
                path.display()
            ));
        }
    }
    if let Some(path) = &config.log.tls_keys {
        warnings.push(format!(
            "log.tls_keys is set: the secrets of EVERY connection are written to {}, and whoever \
             reads it can read the traffic. Remove the key unless you are debugging",
            path.display()
        ));
    } else if std::env::var_os(KEY_LOG_VARIABLE).is_some() {
        warnings.push(format!(
            "the environment variable {KEY_LOG_VARIABLE} is ignored: log.tls_keys in the \
             configuration names a file for the secrets of connections"
        ));
    }
    warnings
}

/// Runs the demonstration, which needs no configuration file.
fn demonstrate() -> Result<(), Exit> {
    let demonstration = Demonstration::bind().map_err(|error| {
        cli::refuse(Exit::Host, &format!("the built-in origin cannot be bound: {error}"))
    })?;
    let config = demonstration.config.clone();
    let tls = ServerTls::load(&config.certificates, config.tls.clone())
        .map_err(|error| cli::refuse(Exit::Configuration, &error))?;
    let keys = ProcessKeys::generate(tls::fill_random);
    serve(Loaded { file: None, config, tls, keys }, Some(demonstration))
}

/// Serves until a signal ends the process. A demonstration has an origin, and an invitation that is
/// printed once it serves; it runs without an admin endpoint if the endpoint's address is in use.
fn serve(loaded: Loaded, demonstration: Option<Demonstration>) -> Result<(), Exit> {
    let Loaded { file, config, tls, keys } = loaded;
    let log_level = cli::init_log(config.log.level);
    let refuse = |why: &dyn std::fmt::Display| cli::refuse(Exit::Host, why);
    check_host().map_err(|why| refuse(&why))?;
    let (capacity, sizes) = sizes(&config.runtime)?;
    tracing::info!("this process may use {capacity}: {sizes}");
    for line in fixed_names(&config) {
        tracing::info!("{line}");
    }
    for warning in warnings(&config, &tls) {
        tracing::warn!("{warning}");
    }
    let tls = match &config.log.tls_keys {
        Some(path) => tls.log_keys(path).map_err(|error| refuse(&error))?,
        None => tls,
    };
    tls.note_time(clock::wall());
    let control = Control::prepare(ControlSettings {
        admin: config.admin.clone(),
        admin_required: demonstration.is_none(),
        access: config.log.access.clone(),
        log_owner: config.runtime.user.as_ref().map(Account::ids),
        shutdown: ShutdownSettings {
            lame_duck: config.runtime.lame_duck,
            drain_timeout: config.runtime.drain_timeout,
            stop_timeout: config.runtime.stop_timeout,
        },
        invitation: demonstration.as_ref().map(Demonstration::invitation),
        version: env!("CARGO_PKG_VERSION"),
        clock: || (clock::now(), clock::wall()),
    })
    .map_err(|error| refuse(&error))?;
    let process = Process::bind(config, tls, keys, capacity, sizes).map_err(|why| refuse(&why))?;
    let workers = process.prepare_workers().map_err(|why| refuse(&why))?;
    give_up_privileges(&process.snapshot.config.runtime, demonstration.is_none())
        .map_err(|why| refuse(&why))?;
    warn_of_closed_certificates(&process.snapshot.config, &process.snapshot.tls);
    let _origin = demonstration
        .map(Demonstration::start)
        .transpose()
        .map_err(|error| refuse(&format!("the built-in origin cannot start: {error}")))?;
    let source = file.map(|path| process.source(path, log_level));
    let reason = process.run(control, workers, source).map_err(|why| refuse(&why))?;
    tracing::info!(?reason, "ended");
    match reason {
        ExitReason::Stopped | ExitReason::Drained => Ok(()),
        ExitReason::WorkerLost | ExitReason::WorkersGone => Err(Exit::Host),
        // A thread cannot be ended from outside, but exiting the process ends them all.
        ExitReason::WorkersHang => std::process::exit(Exit::Host.code().into()),
    }
}

/// Gives up all privileges. From here on nothing may be opened, bound or locked that the account
/// of the process may not; workers make their rings as that account.
fn give_up_privileges(runtime: &Runtime, has_operator: bool) -> Result<(), String> {
    if runtime.user.is_none() && privileges::is_root() && has_operator {
        tracing::warn!(
            "running as root: set runtime.user to an account of its own, as in `useradd --system \
             --user-group --no-create-home --shell /usr/sbin/nologin ringway`, or start ringway as \
             that user"
        );
    }
    privileges::give_up(runtime.user.as_ref()).map_err(|error| error.to_string())?;
    if runtime.core_dumps {
        privileges::allow_core_dumps().map_err(|error| error.to_string())?;
    }
    // kernel.io_uring_disabled and limits may judge the process otherwise now.
    let ring = HostFacts::gather().io_uring;
    ring.map_err(|refusal| format!("after privileges were given up, {refusal}"))?;
    if let Some(account) = &runtime.user {
        tracing::info!(user = account.name, uid = account.uid, gid = account.gid, "runs as");
    }
    Ok(())
}

fn check_host() -> Result<(), String> {
    let limit = probe::raise_nofile();
    probe::raise_memlock();
    let facts = HostFacts::gather();
    let ring = facts.io_uring.map_err(|refusal| refusal.to_string())?;
    tracing::info!(
        kernel = facts.kernel.text,
        open_files_max = limit.soft,
        zero_copy_send = ring.zero_copy_send,
        "host"
    );
    Ok(())
}

/// The resources that live as long as the process: sockets, memory and keys.
struct Process {
    snapshot: Arc<Snapshot>,
    cores: Vec<usize>,
    sizes: Sizes,
    regions: Regions,
    keys: ProcessKeys,
}

/// Workers that are ready to start, and the control thread's ends of their channels.
struct Workers {
    setups: Vec<WorkerSetup>,
    mailboxes: Vec<MailboxSender>,
    access_batches: mpsc::Receiver<AccessBatch>,
    worker_events: mpsc::UnboundedReceiver<WorkerEvent>,
}

impl Process {
    fn bind(
        config: Config,
        tls: ServerTls,
        keys: ProcessKeys,
        capacity: Capacity,
        sizes: Sizes,
    ) -> Result<Self, String> {
        let (cores, worker_count) = (capacity.cores, sizes.worker_count);
        if config.runtime.workers.is_none() && cores.len() > REGION_COUNT_MAX {
            tracing::warn!(
                cores = cores.len(),
                workers = worker_count,
                "there are more cores than a process may have workers: the others stay idle"
            );
        }
        let regions = Regions::reserve(usize::from(worker_count), sizes.plan())
            .map_err(|error| error.to_string())?;
        let (mut edges, mut listening) = (Vec::new(), Vec::new());
        for (listener, found) in config.listeners.iter().enumerate() {
            let transports = transports(found);
            for &address in &found.addresses {
                let group = EdgeGroup::bind(address, transports, worker_count, keys.cid_mask);
                let EdgeGroup { udp, tcp, .. } = group.map_err(|error| error.to_string())?;
                if let Some(group) = udp {
                    log_bound(&group);
                    edges.push(Edge { address, listener, group: Arc::new(group) });
                }
                if let Some(group) = tcp {
                    log_listening(&group);
                    listening.push(ListeningEdge { address, listener, group: Arc::new(group) });
                }
            }
        }
        if let Some(refusal) = edges.iter().find_map(|edge| edge.group.filter_refusal.as_ref()) {
            tracing::warn!("datagrams too short for QUIC are not dropped by the kernel: {refusal}");
        }
        if let Some(advice) = places_advice(&config, worker_count) {
            tracing::warn!("{advice}");
        }
        // A property of the host, not of an address: logged once.
        let offload = edges.iter().map(|edge| edge.group.offload).reduce(Offload::and);
        if let Some(advice) = offload.and_then(Offload::advice) {
            tracing::warn!("{advice}");
        }
        let config = Arc::new(config);
        let snapshot = Arc::new(Snapshot { generation: 1, config, tls, edges, listening });
        Ok(Self { snapshot, cores, sizes, regions, keys })
    }

    /// Maps the workers' memory and duplicates their sockets. Starts no thread that stays.
    fn prepare_workers(&self) -> Result<Workers, String> {
        let (access, access_batches) = mpsc::channel(control::ACCESS_BATCH_COUNT_MAX);
        let (events, worker_events) = mpsc::unbounded_channel();
        let mut mailboxes = Vec::new();
        let mut setups = Vec::new();
        for index in 0..self.sizes.worker_count {
            let wake = eventfd::eventfd().map_err(|error| format!("eventfd: {error}"))?;
            let (sender, mailbox) = mailbox(wake, access.clone());
            setups.push(self.worker_setup(index, mailbox, events.clone())?);
            mailboxes.push(sender);
        }
        Ok(Workers { setups, mailboxes, access_batches, worker_events })
    }

    /// Returns the source of the configurations of reloads.
    fn source(&self, path: PathBuf, log_level: LevelHandle) -> Box<dyn Source> {
        let (worker_count, mask) = (self.sizes.worker_count, self.keys.cid_mask);
        Box::new(FileSource {
            path,
            log_level,
            worker_count,
            mask,
            udp: Vec::new(),
            tcp: Vec::new(),
        })
    }

    /// Starts the workers, runs the control thread until they have ended, and joins their threads.
    fn run(
        self,
        control: Control,
        workers: Workers,
        source: Option<Box<dyn Source>>,
    ) -> Result<ExitReason, String> {
        let Workers { setups, mailboxes, access_batches, worker_events } = workers;
        let mut threads = Vec::new();
        for setup in setups {
            threads.push(worker::spawn(setup).map_err(|error| error.to_string())?);
        }
        let (workers, admin) = (self.sizes.worker_count, control.admin_address());
        tracing::info!(workers, ?admin, "serving");
        let links = Links {
            workers: mailboxes,
            access: access_batches,
            events: worker_events,
            running: self.snapshot,
            source,
        };
        let reason = control.run(links).map_err(|error| error.to_string())?;
        if reason != ExitReason::WorkersHang {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
        Ok(reason)
    }

    fn worker_setup(
        &self,
        index: u16,
        mailbox: Mailbox,
        events: UnboundedSender<WorkerEvent>,
    ) -> Result<WorkerSetup, String> {
        let core = self.cores.get(usize::from(index)).copied().filter(|_| self.sizes.is_pinned);
        Ok(WorkerSetup {
            index,
            count: self.sizes.worker_count,
            core,
            region: self.lend_region(core)?,
            heap_len_max: self.sizes.heap_len_max(),
            snapshot: RefCell::new(Arc::clone(&self.snapshot)),
            keys: self.keys.clone(),
            random: tls::fill_random,
            mailbox,
            events,
            #[cfg(test)]
            witness: Arc::default(),
        })
    }

    /// Maps a worker's memory from its own core, so that it is local to that core's NUMA node.
    fn lend_region(&self, core: Option<usize>) -> Result<RegionHandle, String> {
        let lent = thread::scope(|scope| {
            let lend = || {
                let _near = core.map(cpu::pin_to);
                self.regions.lend(self.snapshot.config.runtime.hugepages)
            };
            scope.spawn(lend).join().expect("mapping memory does not panic")
        });
        let (region, mapping) = lent.map_err(|error| error.to_string())?;
        if let Some(advice) = mapping.advice {
            tracing::warn!("{advice}");
        }
        Ok(region)
    }
}

/// Returns a warning if the workers cannot hold as many TCP connections as the configuration
/// permits.
fn places_advice(config: &Config, worker_count: u16) -> Option<String> {
    let listeners = config.listeners.iter().filter(|listener| listener.protocols.use_tcp());
    let wanted: u64 = listeners.map(|listener| u64::from(listener.tcp.max_connections)).sum();
    let files_max = probe::nofile().soft;
    let in_all = |each: u32| u64::from(each) * u64::from(worker_count);
    let (places, most) =
        (in_all(worker::clients_max(files_max)), in_all(worker::clients_max(u64::MAX)));
    if places >= wanted {
        return None;
    }
    let remedy = if places < most {
        format!("the limit of open files is {files_max}: raise it (`ulimit -n`, LimitNOFILE=)")
    } else {
        "use more workers, or lower the key".to_owned()
    };
    Some(format!(
        "{worker_count} workers hold {places} TCP connections of clients at most, fewer than the \
         {wanted} of tcp.max_connections; {remedy}"
    ))
}

/// Returns the transports that the protocols of a listener need.
fn transports(listener: &Listener) -> Transports {
    Transports { udp: listener.protocols.h3, tcp: listener.protocols.use_tcp() }
}

fn log_bound(group: &SocketGroup) {
    tracing::info!(
        transport = "udp",
        address = %group.address,
        receive_buffer = group.granted.receive_len,
        send_buffer = group.granted.send_len,
        coalescing = group.offload.is_coalescing,
        segmenting = group.offload.is_segmenting,
        "bound"
    );
}

fn log_listening(group: &ListenerGroup) {
    tracing::info!(transport = "tcp", address = %group.address, "bound");
}
