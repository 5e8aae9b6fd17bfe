//! Congestion control that lets a close out.
//!
//! quinn-proto holds a CONNECTION_CLOSE back while stream data waits and the congestion window is
//! full. It reads no acknowledgements once it is closed, so the window stays full and the close is
//! never sent: the client would wait for its idle timeout. A close is not counted as in flight
//! (RFC 9002 2), so the window is opened for it.

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
    let controller = connection.congestion_state();
    if controller.window() == u64::MAX {
        return;
    }
    // quinn-proto lends its controller for reading only; a copy shares the switch.
    if let Ok(copy) = controller.clone_box().into_any().downcast::<Liftable>() {
        copy.lifted.store(true, Ordering::Relaxed);
    }
}

struct Factory(Congestion);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = match self.0 {
            Congestion::Cubic => Arc::new(CubicConfig::default()).build(now, current_mtu),
            Congestion::Bbr => Arc::new(BbrConfig::default()).build(now, current_mtu),
            Congestion::NewReno => Arc::new(NewRenoConfig::default()).build(now, current_mtu),
        };
        Box::new(Liftable { inner, lifted: Arc::default() })
    }
}

/// A controller whose window can be opened.
struct Liftable {
    inner: Box<dyn Controller>,
    lifted: Arc<AtomicBool>,
}

impl Controller for Liftable {
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
        if self.lifted.load(Ordering::Relaxed) { u64::MAX } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), lifted: Arc::clone(&self.lifted) })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
