//! The connection-level HTTP/3 streams: our control stream, and the client's unidirectional
//! streams.

use std::collections::VecDeque;

use bytes::Bytes;

use super::context::Context;
use crate::http3::{self, Code, ConnectionError, UniVerdict};
use crate::quic::{ConnectionKey, Read, ReadError, StreamId};

/// Our control stream and the client's unidirectional streams.
pub(super) struct ControlStream {
    http3: http3::Connection,
    id: StreamId,
    pending: VecDeque<Bytes>,
}

impl ControlStream {
    /// Opens our control stream and writes its preface. Returns an error if the client allows no
    /// stream: RFC 9114 6.2 requires at least three.
    pub(super) fn open(key: ConnectionKey, cx: &mut Context<'_>) -> Result<Self, ConnectionError> {
        let http3 = http3::Connection::new(&cx.shared.settings.http3);
        let pending = VecDeque::from([http3.control_preface()]);
        let id = cx.engine.open_uni(key).ok_or(ConnectionError {
            code: Code::GeneralProtocolError,
            rule: "no credit for the control stream (RFC 9114 6.2)",
        })?;
        let mut control = Self { http3, id, pending };
        control.write(key, cx);
        Ok(control)
    }

    pub(super) fn is(&self, id: StreamId) -> bool {
        self.id == id
    }

    pub(super) fn write(&mut self, key: ConnectionKey, cx: &mut Context<'_>) {
        let pieces = self.pending.make_contiguous();
        if let Ok(written) = cx.engine.write(key, self.id, pieces) {
            self.pending.drain(..written.pieces);
        }
    }

    /// Sends a GOAWAY: requests from `first_refused` on will not be served (RFC 9114 5.2).
    pub(super) fn send_goaway(
        &mut self,
        key: ConnectionKey,
        first_refused: u64,
        cx: &mut Context<'_>,
    ) {
        self.pending.push_back(self.http3.goaway(first_refused));
        self.write(key, cx);
    }

    /// Reads the available bytes of one of the client's unidirectional streams.
    pub(super) fn read(
        &mut self,
        key: ConnectionKey,
        id: StreamId,
        cx: &mut Context<'_>,
    ) -> Result<(), ConnectionError> {
        loop {
            let mut chunks = Vec::new();
            let read = cx.engine.read(key, id, UNI_READ_LEN_MAX, |chunk| chunks.push(chunk));
            for chunk in chunks {
                if let UniVerdict::StopSending(code) = self.http3.handle_uni(id.into(), chunk)? {
                    cx.stop_sending(key, id, code);
                    return Ok(());
                }
            }
            match read {
                Ok(Read::Full) => {}
                Ok(Read::Blocked) | Err(ReadError::Gone) => return Ok(()),
                Ok(Read::End) | Err(ReadError::Reset(_)) => {
                    return self.http3.handle_uni_end(id.into());
                }
            }
        }
    }
}

/// Bytes of a unidirectional stream read at a time.
const UNI_READ_LEN_MAX: usize = 16 * 1024;
