//! The translation of quinn-proto's events into the engine's.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{Dir, StreamEvent};
use rustls::pki_types::CertificateDer;

use super::connection::{Connection, Phase};
use super::table::ConnectionKey;
use super::types::{CloseReason, Event};
use crate::limits::CLOSING_TIMEOUT;

/// The number of queued events that are searched for a duplicate. A bundle of datagrams for one
/// stream causes a `Readable` for each of them.
const EVENT_LOOK_BACK: usize = 8;

/// Translates an event of quinn-proto, and moves the connection to the phase that it leads to.
pub(super) fn translate(
    now: Instant,
    key: ConnectionKey,
    connection: &mut Connection,
    event: quinn_proto::Event,
    events: &mut VecDeque<(ConnectionKey, Event)>,
) {
    match event {
        quinn_proto::Event::Connected if matches!(connection.phase, Phase::Handshaking { .. }) => {
            connection.phase = Phase::Open;
            connection.paths.prove();
            connection.paths.permit_free();
            events.push_back((
                key,
                Event::Connected {
                    server_name: server_name(connection),
                    socket: connection.local.socket,
                    client_certificate: client_certificate(connection),
                },
            ));
        }
        quinn_proto::Event::ConnectionLost { reason } => {
            connection.phase = match connection.phase {
                Phase::Handshaking { .. } | Phase::Failed => Phase::Failed,
                Phase::Open => {
                    events.push_back((key, Event::Closed(CloseReason::of(reason))));
                    Phase::Closed { deadline: now + CLOSING_TIMEOUT }
                }
                Phase::Closed { deadline } => Phase::Closed { deadline },
            };
        }
        quinn_proto::Event::Stream(event) if connection.is_open() => {
            translate_stream(key, connection, event, events);
        }
        // It was closed before it was seen to be connected.
        quinn_proto::Event::Connected => {}
        // Stream events are dropped after a close; unreliable datagrams are not offered.
        quinn_proto::Event::Stream(_)
        | quinn_proto::Event::HandshakeDataReady
        | quinn_proto::Event::DatagramReceived
        | quinn_proto::Event::DatagramsUnblocked => {}
    }
}

fn translate_stream(
    key: ConnectionKey,
    connection: &mut Connection,
    event: StreamEvent,
    events: &mut VecDeque<(ConnectionKey, Event)>,
) {
    let event = match event {
        StreamEvent::Opened { dir } => {
            while let Some(id) = connection.proto.streams().accept(dir) {
                if dir == Dir::Bi {
                    connection.unread.opened();
                }
                events.push_back((key, Event::StreamOpened(id.into())));
            }
            return;
        }
        StreamEvent::Readable { id } => {
            let opened = (key, Event::StreamOpened(id.into()));
            if events.iter().rev().take(EVENT_LOOK_BACK).any(|event| *event == opened) {
                return;
            }
            Event::Readable(id.into())
        }
        StreamEvent::Writable { id } => return connection.turns.wake(id.into()),
        StreamEvent::Finished { id } => {
            connection.unacknowledged.over(id.into());
            Event::SendFinished(id.into())
        }
        StreamEvent::Stopped { id, error_code } => Event::Stopped(id.into(), error_code.into()),
        StreamEvent::Available { dir: Dir::Bi | Dir::Uni } => return,
    };
    let event = (key, event);
    if !events.iter().rev().take(EVENT_LOOK_BACK).any(|queued| *queued == event) {
        events.push_back(event);
    }
}

fn server_name(connection: &Connection) -> Option<String> {
    let data = connection.proto.crypto_session().handshake_data()?;
    data.downcast::<HandshakeData>().ok()?.server_name
}

fn client_certificate(connection: &Connection) -> Option<Bytes> {
    let chain = connection.proto.crypto_session().peer_identity()?;
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().map(|leaf| Bytes::copy_from_slice(leaf))
}
