//! Congestion control that lets a close out, and tells when a client has proved its address.
//!
//! quinn-proto holds a CONNECTION_CLOSE back while stream data waits and the congestion window is
//! full. It reads no acknowledgements once it is closed, so the window stays full and the close is
//! never sent: the client would wait for its idle timeout. A close is not counted as in flight
//! (RFC 9002 2), so the window is opened for it.
//!
//! quinn-proto does not tell either when a PATH_RESPONSE is the right one. But it keeps
//! acknowledgements from its controller until then, so the first one that comes is the proof.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn_proto::congestion::{
    BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig, NewRenoConfig,
};
use quinn_proto::{Connection, RttEstimator};

use crate::config::Congestion;

/// Makes the controllers of a listener's connections.
pub(super) fn factory(kind: Congestion) -> Arc<dyn ControllerFactory + Send + Sync> {
    Arc::new(Factory(kind))
}

/// Lets the close of a closed connection out, however full its window is.
pub(super) fn lift(connection: &Connection) {
    if connection.congestion_state().window() == u64::MAX {
        return;
    }
    if let Some(switches) = switches(connection) {
        switches.lifted.store(true, Ordering::Relaxed);
    }
}

/// The connection has moved to another address: whatever was acknowledged before does not count.
pub(super) fn forget_acknowledged(connection: &Connection) {
    if let Some(switches) = switches(connection) {
        switches.acknowledged.store(false, Ordering::Relaxed);
    }
}

/// Whether the client has acknowledged anything since, and its address was proven then.
pub(super) fn was_acknowledged(connection: &Connection) -> bool {
    switches(connection).is_some_and(|switches| switches.acknowledged.load(Ordering::Relaxed))
}

/// quinn-proto lends its controller for reading only; a copy shares the switches.
fn switches(connection: &Connection) -> Option<Arc<Switches>> {
    let copy = connection.congestion_state().clone_box().into_any();
    copy.downcast::<Switchable>().ok().map(|copy| copy.switches)
}

struct Factory(Congestion);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = match self.0 {
            Congestion::Cubic => Arc::new(CubicConfig::default()).build(now, current_mtu),
            Congestion::Bbr => Arc::new(BbrConfig::default()).build(now, current_mtu),
            Congestion::NewReno => Arc::new(NewRenoConfig::default()).build(now, current_mtu),
        };
        Box::new(Switchable { inner, switches: Arc::default() })
    }
}

/// What the engine and a controller tell each other.
#[derive(Default)]
struct Switches {
    /// The window is open.
    lifted: AtomicBool,
    /// Something was acknowledged while no PATH_CHALLENGE was open.
    acknowledged: AtomicBool,
}

/// A controller whose window can be opened.
struct Switchable {
    inner: Box<dyn Controller>,
    switches: Arc<Switches>,
}

impl Controller for Switchable {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.switches.acknowledged.store(true, Ordering::Relaxed);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    /// Above 2^32 quinn-proto does not pace either.
    fn window(&self) -> u64 {
        if self.switches.lifted.load(Ordering::Relaxed) { u64::MAX } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), switches: Arc::clone(&self.switches) })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
