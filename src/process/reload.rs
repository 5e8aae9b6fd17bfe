//! The file as the source of the configurations of reloads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::{ACCOUNTS, bind_group, fixed_names, warnings};
use crate::cid::CidMask;
use crate::cli::LevelHandle;
use crate::config::{self, Change, Config};
use crate::control::{Candidate, Refusal, Source};
use crate::host::socket::SocketGroup;
use crate::tls::ServerTls;
use crate::worker::mailbox::{Edge, Snapshot};

/// The configuration file of this process.
pub(super) struct FileSource {
    pub(super) path: PathBuf,
    pub(super) log_level: LevelHandle,
    pub(super) worker_count: u16,
    pub(super) mask: CidMask,
    /// The sockets of all addresses that may still be open: a listener that is removed drains, and
    /// may be added again meanwhile.
    pub(super) groups: Vec<(SocketAddr, Weak<SocketGroup>)>,
}

impl Source for FileSource {
    fn read(&mut self, running: &Snapshot) -> Result<Candidate, Refusal> {
        let config = config::load(&self.path, ACCOUNTS)
            .map_err(|errors| Refusal::of_configuration(lines(errors)))?;
        let changes = config.changes_since(&running.config);
        let (tls, mut errors) = match running.tls.reload(&config.certificates, config.tls) {
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
        let edges = self.edges(&config, running)?;
        Ok(Candidate {
            changes: all_changes(&changes, &tls, running),
            warnings: [warnings(&config, &tls), fixed_names(&config)].concat(),
            snapshot: Snapshot {
                generation: running.generation + 1,
                config: Arc::new(config),
                tls,
                edges,
            },
        })
    }

    fn applied(&mut self, snapshot: &Snapshot) {
        self.log_level.set(snapshot.config.log.level);
    }
}

impl FileSource {
    /// Returns the sockets of each address. Binds those that are not open already.
    fn edges(&mut self, config: &Config, running: &Snapshot) -> Result<Vec<Edge>, Refusal> {
        let open = running.edges.iter().map(|edge| (edge.address, Arc::downgrade(&edge.group)));
        self.groups.retain(|(address, group)| {
            group.strong_count() > 0 && running.edges.iter().all(|edge| edge.address != *address)
        });
        self.groups.extend(open);
        let mut edges = Vec::new();
        for (listener, found) in config.listeners.iter().enumerate() {
            for &address in &found.addresses {
                let known = self.groups.iter().find(|(known, _)| *known == address);
                let group = match known.and_then(|(_, group)| group.upgrade()) {
                    Some(group) => group,
                    None => self.bind(address)?,
                };
                edges.push(Edge { address, listener, group });
            }
        }
        Ok(edges)
    }

    fn bind(&self, address: SocketAddr) -> Result<Arc<SocketGroup>, Refusal> {
        let refused = |error| {
            let own = self.groups.iter().find(|(own, group)| {
                let is_any = own.ip().is_unspecified() || address.ip().is_unspecified();
                is_any && own.port() == address.port() && group.strong_count() > 0
            });
            match own {
                Some((own, _)) => Refusal::by_host(format!(
                    "{address} cannot be bound while this process listens on {own}; remove that \
                     one first, and add {address} by another reload when it is drained"
                )),
                None => Refusal::by_host(error),
            }
        };
        bind_group(address, self.worker_count, self.mask).map(Arc::new).map_err(refused)
    }
}

/// Returns the changes of keys, and the certificates whose files hold others than before.
fn all_changes(changes: &[Change], tls: &ServerTls, running: &Snapshot) -> Vec<String> {
    let renewed = tls.summaries_since(&running.tls);
    let renewed = renewed.into_iter().map(|summary| format!("certificate read: {summary}"));
    changes.iter().map(Change::to_string).chain(renewed).collect()
}

fn lines(text: impl ToString) -> Vec<String> {
    text.to_string().lines().map(str::to_owned).collect()
}
