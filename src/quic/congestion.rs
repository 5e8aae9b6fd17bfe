//! Congestion control that lets a CONNECTION_CLOSE leave and reports path validation.
//!
//! quinn-proto withholds a CONNECTION_CLOSE while stream data is queued and the congestion window
//! is full. A closed connection processes no acknowledgements, so the window would stay full, the
//! close would never be sent, and the client would wait for its idle timeout. A close does not
//! count as in flight (RFC 9002 2), so the window is opened for it.
//!
//! Nor does quinn-proto report when path validation succeeds. But it withholds acknowledgements
//! from its controller until then, so the first acknowledgement is the proof.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use quinn_proto::congestion::{
    BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig, NewRenoConfig,
};
use quinn_proto::{Connection, RttEstimator};

use crate::config::Congestion;

/// Returns the factory of the controllers of a listener's connections.
pub(super) fn factory(kind: Congestion) -> Arc<dyn ControllerFactory + Send + Sync> {
    Arc::new(Factory(kind))
}

/// Opens the window of a closed connection, so that its close can leave.
pub(super) fn lift(connection: &Connection) {
    if connection.congestion_state().window() == u64::MAX {
        return;
    }
    if let Some(switches) = switches(connection) {
        switches.lifted.store(true, Ordering::Relaxed);
    }
}

/// Forgets earlier acknowledgements, after the connection moved to another address.
pub(super) fn forget_acknowledged(connection: &Connection) {
    if let Some(switches) = switches(connection) {
        switches.acknowledged.store(false, Ordering::Relaxed);
    }
}

/// Returns whether the client acknowledged anything since, on a validated path.
pub(super) fn was_acknowledged(connection: &Connection) -> bool {
    switches(connection).is_some_and(|switches| switches.acknowledged.load(Ordering::Relaxed))
}

/// Returns the acknowledgements of the connection's current path.
pub(super) fn acknowledged(connection: &Connection) -> Acknowledged {
    Acknowledged(switches(connection))
}

/// The acknowledgements of one path. They are not counted on a controller of another kind.
pub(super) struct Acknowledged(Option<Arc<Switches>>);

impl Acknowledged {
    /// Returns the number of packets that were acknowledged while no PATH_CHALLENGE was
    /// outstanding.
    pub(super) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, |switches| switches.acknowledged_count.load(Ordering::Relaxed))
    }
}

/// Returns the switches of a connection's controller. quinn-proto lends the controller read-only,
/// but a clone of it shares the switches.
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

/// Flags shared by the engine and a controller.
#[derive(Default)]
struct Switches {
    /// The window is open.
    lifted: AtomicBool,
    /// Something was acknowledged while no PATH_CHALLENGE was outstanding.
    acknowledged: AtomicBool,
    /// The number of packets that were.
    acknowledged_count: AtomicU64,
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
        let count = self.switches.acknowledged_count.load(Ordering::Relaxed);
        self.switches.acknowledged_count.store(count + 1, Ordering::Relaxed);
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
