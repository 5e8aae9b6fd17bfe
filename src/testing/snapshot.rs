//! A configuration with its TLS objects, as a worker gets it.

use std::sync::Arc;

use crate::demo;
use crate::tls::ServerTls;
use crate::worker::mailbox::Snapshot;

/// Returns the first snapshot of a process: the demonstration's configuration.
pub fn snapshot() -> Arc<Snapshot> {
    let config = demo::config("127.0.0.1:1".parse().expect("an address"));
    let tls = ServerTls::load(&config.certificates, config.tls.clone()).expect("made in memory");
    let (edges, listening) = (Vec::new(), Vec::new());
    Arc::new(Snapshot { generation: 1, config: Arc::new(config), tls, edges, listening })
}
