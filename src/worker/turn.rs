//! One turn of the loop: handles completions, then carries out outputs.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;

use super::mailbox::Command;
use super::{Phase, Worker};
use crate::gateway::Output;
use crate::host::clock;
use crate::limits::TURN_SEND_LEN_MAX;
use crate::planted::{self, Bug, is_planted};
use crate::pool::Pool;
use crate::proxy::UpstreamCommand;
use crate::quic::{Datagram, Transmit};
use crate::ring::{Completion, DatagramSend, RingError, SocketIndex, Wait};

/// State of the transmit side between turns.
#[derive(Default)]
pub(super) struct TransmitState {
    /// An empty leased slot for the next batch.
    pub(super) buffer: Option<Vec<u8>>,
    /// A batch that did not fit into the ring; it is sent first.
    unsent: Option<(SocketIndex, DatagramSend)>,
    in_flight: usize,
}

impl Worker<'_> {
    /// Runs turns until the worker is drained or stopped.
    pub(super) fn run(&mut self) -> Result<(), RingError> {
        let mut wait = Wait::No;
        self.watch_sockets(clock::now());
        loop {
            self.ring.submit_and_wait(wait)?;
            let now = clock::now();
            self.counters.loop_turns += 1;
            self.counters.sleeps += u64::from(wait != Wait::No);
            while let Some(completion) = self.ring.poll_completion() {
                self.handle_completion(now, completion);
            }
            self.handle_commands(now);
            self.gateway.handle_timeout(now);
            self.receive_again(now);
            self.close_left_edges(now);
            self.send_probes(now);
            self.pool.take_returns();
            let memory_low = self.pool.is_low();
            self.note_memory(memory_low);
            self.note_offload();
            self.gateway.set_memory_low(memory_low);
            let heap = self.heap_use();
            self.note_heap(now, heap);
            self.gateway.set_heap(now, heap);
            let mut deadline = self.carry_out(now);
            if self.drain_is_over(now) {
                self.begin_close(now);
                deadline = self.carry_out(now);
            }
            if self.is_done(now) {
                return Ok(());
            }
            self.update_accepting(now);
            wait = self.sleep(now, deadline);
            let end = clock::now();
            self.gateway.note_turn(end, end.saturating_duration_since(now));
        }
    }

    /// Returns how long the next turn may wait for a completion. `deadline` is the gateway's.
    pub(super) fn sleep(&self, now: Instant, deadline: Option<Instant>) -> Wait {
        let phase_end = match self.phase {
            Phase::Serving => None,
            Phase::Draining(end) | Phase::Closing(end) => Some(end),
        };
        // The completion of a send returns its slot, but a slot freed by another thread does not
        // wake the loop.
        let lacks_slot = self.transmit.buffer.is_none() && self.transmit.in_flight == 0;
        let retry = lacks_slot.then(|| now + SLOT_RETRY);
        let (edges, accept) = (self.edges.deadline(), self.accept_retry());
        let probes = self.probes.deadline();
        let times = [deadline, phase_end, retry, self.receive_again, edges, accept, probes];
        times.into_iter().flatten().min().map_or(Wait::Forever, Wait::Until)
    }

    pub(super) fn handle_completion(&mut self, now: Instant, completion: Completion) {
        match completion {
            Completion::Datagrams { socket, payload, source, destination, ecn, segment_len } => {
                let ledger = self.gateway.ledger_mut();
                let split =
                    self.slot_policy.split(&self.pool, ledger, source, payload, segment_len);
                for payload in split {
                    if self.take_probe(now, socket, &payload) {
                        continue;
                    }
                    let datagram = Datagram {
                        socket: socket.index() as u16,
                        remote: source,
                        local_ip: destination,
                        ecn,
                        payload,
                    };
                    self.gateway.handle_datagram(now, datagram);
                }
            }
            Completion::Sent { buffer, .. } => {
                self.transmit.in_flight -= 1;
                if self.transmit.buffer.is_none() && Pool::contains(buffer.as_ptr()) {
                    self.transmit.buffer = Some(buffer);
                }
            }
            Completion::Connected { tag, outcome } => self.handle_connected(now, tag, outcome),
            Completion::Accepted { listener, stream, client } => {
                self.handle_accepted(now, listener, stream, client);
            }
            Completion::AcceptStopped { listener, reason } => {
                self.handle_accept_stopped(now, listener, reason);
            }
            Completion::Received { tag, outcome } => self.handle_received(now, tag, outcome),
            Completion::Wrote { tag, outcome, .. } => self.handle_wrote(now, tag, outcome),
            Completion::ReceiveStopped { socket, reason } => {
                let socket = socket.index();
                tracing::error!(socket, %reason, "the socket has stopped receiving, retrying");
                self.receive_again = Some(now + RECEIVE_REST);
            }
            Completion::Closed { .. } | Completion::Woken => {}
        }
    }

    /// Arms receives that have failed again, after their pause.
    pub(super) fn receive_again(&mut self, now: Instant) {
        if self.receive_again.is_some_and(|at| at <= now) {
            self.receive_again = None;
            self.edges.iter().for_each(|socket| self.ring.receive_datagrams(socket));
        }
    }

    fn handle_commands(&mut self, now: Instant) {
        while let Ok(command) = self.setup.mailbox.commands.try_recv() {
            self.counters.commands += 1;
            match command {
                Command::Apply { snapshot, done } => {
                    // Fails if control has stopped waiting.
                    let _ = done.send(self.apply(now, snapshot));
                }
                // A drain while closing has no effect.
                Command::Drain { .. } if matches!(self.phase, Phase::Closing(_)) => {}
                Command::Drain { deadline } => {
                    self.gateway.drain(now, deadline);
                    self.phase = Phase::Draining(deadline);
                }
                Command::Stop => self.begin_close(now),
                Command::Report(response) => {
                    // Fails if control has stopped waiting for the report.
                    let _ = response.send(Box::new(self.report()));
                }
                #[cfg(test)]
                Command::Panic => panic!("told to panic"),
                #[cfg(test)]
                Command::LoseSend => self.transmit.in_flight += 1,
                #[cfg(test)]
                Command::KeepBuffers => self.teardown_timeout = Duration::ZERO,
            }
        }
    }

    /// Carries out the gateway's outputs, up to this turn's send budget. Returns when to run next:
    /// the gateway's deadline, or `now` if more is left to be sent.
    pub(super) fn carry_out(&mut self, now: Instant) -> Option<Instant> {
        self.send_unsent();
        let (mut sent_len, mut deadline) = (0, Some(now));
        while sent_len < TURN_SEND_LEN_MAX {
            self.handle_outputs(now);
            let transmit = self.transmit_buffer().and_then(|mut buffer| {
                let transmit = self.gateway.poll_transmit(now, &mut buffer);
                if transmit.is_none() {
                    self.transmit.buffer = Some(buffer);
                    return None;
                }
                transmit.map(|transmit| (transmit, buffer))
            });
            let Some((transmit, buffer)) = transmit else {
                deadline = self.gateway.next_deadline();
                break;
            };
            sent_len += transmit.len;
            self.send(transmit, buffer);
        }
        self.hand_over_records();
        deadline
    }

    pub(super) fn handle_outputs(&mut self, now: Instant) {
        while let Some(output) = self.gateway.poll(now) {
            self.handle_output(now, output);
        }
    }

    fn handle_output(&mut self, now: Instant, output: Output) {
        if is_planted(Bug::WorkerPanic) && matches!(output, Output::Access(_)) {
            planted::plant(None);
            panic!("planted: the first request has ended");
        }
        match output {
            Output::Upstream(command) => self.act_upstream(now, command),
            Output::Tcp(command) => self.act_tcp(now, command),
            Output::Access(record) if self.logs_access() => self.records.push(*record),
            Output::Access(_) => {}
            Output::Incident(incident) => self.note_incident(now, &incident),
        }
    }

    fn act_upstream(&mut self, now: Instant, command: UpstreamCommand) {
        match command {
            UpstreamCommand::Connect { key, address, congestion } => {
                self.connect(now, key, &address, congestion);
            }
            UpstreamCommand::Write { key, pieces } => self.write(now, key.into(), pieces),
            UpstreamCommand::Receive { key, slot_count_max, .. } => {
                self.receive(key.into(), slot_count_max);
            }
            UpstreamCommand::Close { key } => self.close_upstream(key),
        }
    }

    /// An empty slot for the next batch, unless one waits for room in the ring or none is free.
    fn transmit_buffer(&mut self) -> Option<Vec<u8>> {
        if self.transmit.unsent.is_some() {
            return None;
        }
        self.transmit.buffer.take().or_else(|| self.pool.lease_vec())
    }

    fn send(&mut self, transmit: Transmit, buffer: Vec<u8>) {
        let Some(socket) = self.edges.get(transmit.socket) else {
            // A response to a stranger, on a socket that is gone.
            let mut buffer = buffer;
            buffer.clear();
            self.transmit.buffer = Some(buffer);
            return;
        };
        let send = DatagramSend {
            buffer,
            destination: transmit.destination,
            source: transmit.source,
            ecn: transmit.ecn,
            // A segment is not longer than an MTU, which fits 16 bits.
            segment_len: transmit.segment_len.map(|len| len as u16),
        };
        self.send_or_keep(socket, send);
    }

    /// Gives up the batch that waits for room in the ring, if it is for this socket.
    pub(super) fn forget_unsent(&mut self, socket: SocketIndex) {
        self.transmit.unsent.take_if(|(place, _)| *place == socket);
    }

    fn send_unsent(&mut self) {
        if let Some((socket, send)) = self.transmit.unsent.take() {
            self.send_or_keep(socket, send);
        }
    }

    fn send_or_keep(&mut self, socket: SocketIndex, send: DatagramSend) {
        if let Err(send) = self.try_send(socket, send) {
            self.transmit.unsent = Some((socket, send));
        }
    }

    /// Hands a batch to the ring, which gives it back if it has no room.
    pub(super) fn try_send(
        &mut self,
        socket: SocketIndex,
        send: DatagramSend,
    ) -> Result<(), DatagramSend> {
        self.ring.send_datagrams(socket, send).map_err(|(_, send)| send)?;
        self.transmit.in_flight += 1;
        Ok(())
    }

    fn logs_access(&self) -> bool {
        self.snapshot.config.log.access.is_some()
    }

    fn hand_over_records(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.records);
        if let Err(refused) = self.setup.mailbox.access.try_send(batch) {
            let (TrySendError::Full(batch) | TrySendError::Closed(batch)) = refused;
            self.counters.access_records_dropped += batch.len() as u64;
        }
    }

    fn begin_close(&mut self, now: Instant) {
        self.gateway.close(now);
        self.ring.stop_zero_copy();
        if !matches!(self.phase, Phase::Closing(_)) {
            self.phase = Phase::Closing(now + CLOSE_TIMEOUT);
        }
    }

    fn drain_is_over(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Draining(end) if now >= end || self.gateway.is_idle())
    }

    /// Returns true if the last packets have left, or if the time for that is over.
    fn is_done(&self, now: Instant) -> bool {
        let Phase::Closing(end) = self.phase else { return false };
        // A buffer is left only if the gateway had no more packets for it.
        let TransmitState { buffer, unsent, in_flight } = &self.transmit;
        now >= end || buffer.is_some() && unsent.is_none() && *in_flight == 0
    }
}

/// Time for the last packets to leave. Sends complete in microseconds unless a device is stuck.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a slot to send from is requested again, if no send in flight will return one.
const SLOT_RETRY: Duration = Duration::from_millis(5);

/// Pause before a socket whose receive or accept has failed is armed again.
pub(super) const RECEIVE_REST: Duration = Duration::from_secs(1);
