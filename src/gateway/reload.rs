//! A reload: another configuration for new connections and new requests.
//!
//! A connection keeps the listener that it was opened with. The connections of a listener that is
//! removed drain, as all do before the process ends ([`super::drain`]).

use std::sync::Arc;
use std::time::Instant;

use super::context::{Edge, Settings};
use super::{Gateway, listeners};
use crate::config::Config;
use crate::http3::Code;
use crate::quic::{EngineChange, EngineError, ListenerSettings};
use crate::tls::ServerTls;

impl Gateway {
    /// Applies a new configuration. Exchanges in progress end under the one that they began with.
    /// `sockets` are the indices of their listeners, by number. Those of removed listeners are
    /// `None`: their connections drain, and new ones are refused. Returns an error, with nothing
    /// changed, if the engine cannot use the configuration.
    pub fn apply(
        &mut self,
        now: Instant,
        config: Arc<Config>,
        tls: &ServerTls,
        sockets: &[Option<usize>],
    ) -> Result<(), EngineError> {
        let next = listeners(&config);
        let earlier = |name: &str| self.listeners.iter().position(|one| one.name == name);
        self.engine.apply(EngineChange {
            listeners: next.iter().map(|listener| ListenerSettings::of(listener, tls)).collect(),
            continued: next.iter().map(|listener| earlier(&listener.name)).collect(),
            sockets: sockets.to_vec(),
        })?;
        self.listeners = next;
        self.shared.settings = Settings::new(&config, &self.listeners, tls, self.worker_count);
        self.shared.remembered.replace(now, &self.listeners);
        self.set_sockets(sockets, now + config.runtime.drain_timeout);
        let drain_end = now + config.runtime.drain_timeout;
        self.proxy.apply(now, config);
        let (connections, mut cx) = self.lend(now);
        for connection in connections.values_mut() {
            let edge = &cx.shared.sockets[usize::from(connection.client.socket)];
            if let Some(end) = edge.drain_end {
                connection.begin_drain(end, &mut cx);
            }
        }
        let (clients, mut cx) = self.lend_tcp(now);
        clients.drain_removed(drain_end, &mut cx);
        Ok(())
    }

    fn set_sockets(&mut self, sockets: &[Option<usize>], drain_end: Instant) {
        for (number, listener) in sockets.iter().enumerate() {
            let known = self.shared.sockets.get_mut(number);
            match (listener, known) {
                (Some(listener), known) => {
                    let mut edge = Edge::new(&self.listeners[*listener]);
                    match known {
                        Some(known) => {
                            edge.reception = known.reception.take();
                            edge.renew_offer();
                            *known = edge;
                        }
                        None => self.shared.sockets.push(edge),
                    }
                }
                (None, Some(known)) => {
                    known.drain_end = known.drain_end.or(Some(drain_end));
                    // Its number may become that of another socket.
                    known.reception = None;
                }
                (None, None) => {
                    // It was opened for a configuration that could not be applied, and closed.
                    let mut gone = Edge::new(&self.listeners[0]);
                    gone.drain_end = Some(drain_end);
                    self.shared.sockets.push(gone);
                }
            }
        }
    }

    /// Returns whether nothing is left of the connections of a removed listener's socket, after
    /// closing those whose time is over. Looks at all connections.
    pub fn has_left(&mut self, now: Instant, socket: u16) -> bool {
        let drain_end = self.shared.sockets[usize::from(socket)].drain_end;
        if drain_end.is_some_and(|end| end <= now) {
            self.engine.close_on_socket(now, socket, Code::NoError.value());
        }
        !self.engine.uses_socket(socket)
    }
}
