//! The file as the source of the configurations of reloads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::{ACCOUNTS, fixed_names, log_bound, log_listening, transports, warnings};
use crate::cid::CidMask;
use crate::cli::LevelHandle;
use crate::config::{self, Change, Config};
use crate::control::{Candidate, Refusal, Source};
use crate::host::socket::{BindError, ListenerGroup, SocketGroup};
use crate::tls::ServerTls;
use crate::worker::mailbox::{Edge, ListeningEdge, Snapshot};

/// The configuration file of this process.
pub(super) struct FileSource {
    pub(super) path: PathBuf,
    pub(super) log_level: LevelHandle,
    pub(super) worker_count: u16,
    pub(super) mask: CidMask,
    /// The sockets of all addresses that may still be open: a listener that is removed drains, and
    /// may be added again meanwhile.
    pub(super) udp: Groups<SocketGroup>,
    pub(super) tcp: Groups<ListenerGroup>,
}

impl Source for FileSource {
    fn read(&mut self, running: &Snapshot) -> Result<Candidate, Refusal> {
        let config = config::load(&self.path, ACCOUNTS)
            .map_err(|errors| Refusal::of_configuration(lines(errors)))?;
        let changes = config.changes_since(&running.config);
        let tls = running.tls.reload(&config.certificates, config.tls.clone());
        let tls = tls.and_then(|tls| tls.with_client_auth(&config.listeners));
        let (tls, mut errors) = match tls {
            Ok(tls) => (Some(tls), Vec::new()),
            Err(error) => (None, lines(error)),
        };
        let fixed = changes.iter().filter(|change| change.is_fixed());
        errors.extend(fixed.map(|change| {
            format!("{change}: this cannot change while the process runs; restart it instead")
        }));
        let Some(tls) = tls.filter(|_| errors.is_empty()) else {
            return Err(Refusal::of_configuration(errors));
        };
        let (edges, listening) = self.edges(&config, running)?;
        Ok(Candidate {
            changes: all_changes(&changes, &tls, running),
            warnings: [warnings(&config, &tls), fixed_names(&config)].concat(),
            snapshot: Snapshot {
                generation: running.generation + 1,
                config: Arc::new(config),
                tls,
                edges,
                listening,
            },
        })
    }

    fn applied(&mut self, snapshot: &Snapshot) {
        self.log_level.set(snapshot.config.log.level);
    }
}

impl FileSource {
    /// Returns the sockets of each address. Binds those that are not open already.
    fn edges(
        &mut self,
        config: &Config,
        running: &Snapshot,
    ) -> Result<(Vec<Edge>, Vec<ListeningEdge>), Refusal> {
        let udp = running.edges.iter().map(|edge| (edge.address, Arc::downgrade(&edge.group)));
        renew(&mut self.udp, udp.collect());
        let tcp = running.listening.iter().map(|edge| (edge.address, Arc::downgrade(&edge.group)));
        renew(&mut self.tcp, tcp.collect());
        let (mut edges, mut listening) = (Vec::new(), Vec::new());
        for (listener, found) in config.listeners.iter().enumerate() {
            let transports = transports(found);
            for &address in &found.addresses {
                if transports.udp {
                    let group = known(&self.udp, address).map_or_else(|| self.bind(address), Ok)?;
                    edges.push(Edge { address, listener, group });
                }
                if transports.tcp {
                    let group =
                        known(&self.tcp, address).map_or_else(|| self.listen(address), Ok)?;
                    listening.push(ListeningEdge { address, listener, group });
                }
            }
        }
        Ok((edges, listening))
    }

    fn bind(&self, address: SocketAddr) -> Result<Arc<SocketGroup>, Refusal> {
        let group = SocketGroup::bind(address, self.worker_count, self.mask)
            .map_err(|error| refusal(&self.udp, address, error))?;
        log_bound(&group);
        Ok(Arc::new(group))
    }

    fn listen(&self, address: SocketAddr) -> Result<Arc<ListenerGroup>, Refusal> {
        let group = ListenerGroup::bind(address, self.worker_count)
            .map_err(|error| refusal(&self.tcp, address, error))?;
        log_listening(&group);
        Ok(Arc::new(group))
    }
}

/// The sockets of addresses, as long as a worker or a snapshot has them.
type Groups<G> = Vec<(SocketAddr, Weak<G>)>;

/// Replaces the groups of addresses that are in use, and forgets those that nobody has any more.
fn renew<G>(groups: &mut Groups<G>, running: Groups<G>) {
    groups.retain(|(address, group)| {
        group.strong_count() > 0 && running.iter().all(|(used, _)| used != address)
    });
    groups.extend(running);
}

fn known<G>(groups: &Groups<G>, address: SocketAddr) -> Option<Arc<G>> {
    let known = groups.iter().find(|(known, _)| *known == address);
    known.and_then(|(_, group)| group.upgrade())
}

/// Returns the refusal of an address that could not be bound.
fn refusal<G>(groups: &Groups<G>, address: SocketAddr, error: BindError) -> Refusal {
    let own = groups.iter().find(|(own, group)| {
        let is_any = own.ip().is_unspecified() || address.ip().is_unspecified();
        is_any && own.port() == address.port() && group.strong_count() > 0
    });
    match own {
        Some((own, _)) => Refusal::by_host(format!(
            "{address} cannot be bound while this process listens on {own}; remove that one first, \
             and add {address} by another reload when it is drained"
        )),
        None => Refusal::by_host(error),
    }
}

/// Returns the changes of keys, and the files of certificates and ticket keys that hold others than
/// before.
fn all_changes(changes: &[Change], tls: &ServerTls, running: &Snapshot) -> Vec<String> {
    let renewed = tls.summaries_since(&running.tls);
    let renewed = renewed.into_iter().map(|summary| format!("certificate read: {summary}"));
    let ticket_keys = tls.ticket_keys_since(&running.tls);
    let ticket_keys = ticket_keys.map(|summary| format!("ticket keys read: {summary}"));
    changes.iter().map(Change::to_string).chain(renewed).chain(ticket_keys).collect()
}

fn lines(text: impl ToString) -> Vec<String> {
    text.to_string().lines().map(str::to_owned).collect()
}
