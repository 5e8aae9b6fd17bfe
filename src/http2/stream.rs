//! One request: its body comes in, its response goes out.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{FlowControl, Reason, RecvStream, SendStream};
use http::{Response, StatusCode};

use super::connection::Event;
use super::error::Code;
use super::head;
use super::payload::Payload;
use super::wakers::StreamWaker;
use super::wire::SharedWire;
use super::{LocalSettings, error};
use crate::limits;
use crate::message::{FieldError, Fields, Understood};

/// A stream of the client, from its request to the end of both messages.
#[derive(Debug)]
pub(super) struct Stream {
    number: u32,
    waker: StreamWaker,
    receiving: Receiving,
    sending: Sending,
    /// The stream's receive window.
    credit: FlowControl,
    /// Bytes of the body that were handed out and not released.
    unreleased_len: usize,
    wait: Wait,
}

/// The side of the request.
#[derive(Debug)]
enum Receiving {
    Body(RecvStream),
    Trailers(RecvStream),
    /// The request is complete, or the rest of it is not wanted.
    Over,
}

/// The side of the response.
#[derive(Debug)]
enum Sending {
    Head(SendResponse<Payload>),
    Body(SendStream<Payload>),
    /// The response is complete, and its last frame has not been output: the client may still reset
    /// it.
    Leaving(SendStream<Payload>),
    Over,
}

/// The thing that a response waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// The client's windows, or the stream's part of the queue.
    Window,
    /// Room in the connection's queue.
    Room,
}

/// The state of a stream after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Open,
    /// Both messages are over, or the stream was reset.
    Over,
}

impl Stream {
    pub(super) fn new(
        waker: StreamWaker,
        respond: SendResponse<Payload>,
        body: RecvStream,
    ) -> Self {
        let mut body = body;
        let credit = body.flow_control().clone();
        let is_complete = body.is_end_stream();
        Self {
            number: respond.stream_id().as_u32(),
            waker,
            receiving: if is_complete { Receiving::Over } else { Receiving::Body(body) },
            sending: Sending::Head(respond),
            credit,
            unreleased_len: 0,
            wait: Wait::Nothing,
        }
    }

    pub(super) fn unreleased_len(&self) -> usize {
        self.unreleased_len
    }

    /// Looks for what has happened since the stream's waker was called last.
    pub(super) fn advance(
        &mut self,
        events: &mut VecDeque<Event>,
        settings: &LocalSettings,
    ) -> Progress {
        self.waker.rearm();
        let waker = self.waker.waker.clone();
        let mut cx = Context::from_waker(&waker);
        if self.read(&mut cx, events, settings) == Progress::Over {
            return Progress::Over;
        }
        if let Poll::Ready(reset) = self.poll_reset(&mut cx) {
            let stream = self.number;
            events.extend(reset.map(|code| Event::Reset { stream, code }));
            return Progress::Over;
        }
        if self.wait == Wait::Window
            && let Sending::Body(send) = &mut self.sending
            && send.poll_capacity(&mut cx).is_ready()
        {
            self.wait = Wait::Nothing;
            events.push_back(Event::Writable { stream: self.number });
        }
        self.progress()
    }

    /// Returns the code of the stream's reset, once the response cannot go on, or `None` within if
    /// the connection has failed, which its own event reports.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        let polled = match &mut self.sending {
            Sending::Head(respond) => respond.poll_reset(cx),
            Sending::Body(send) | Sending::Leaving(send) => send.poll_reset(cx),
            Sending::Over => return Poll::Pending,
        };
        polled.map(|outcome| outcome.ok().map(u32::from))
    }

    fn progress(&self) -> Progress {
        match (&self.receiving, &self.sending) {
            (Receiving::Over, Sending::Over) => Progress::Over,
            _ => Progress::Open,
        }
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
        settings: &LocalSettings,
    ) -> Progress {
        loop {
            match &mut self.receiving {
                Receiving::Over => return Progress::Open,
                Receiving::Body(body) => match read_piece(body, cx) {
                    Poll::Pending => return Progress::Open,
                    Poll::Ready(Some(Ok(piece))) => {
                        self.unreleased_len += piece.len();
                        events.push_back(Event::Body { stream: self.number, piece });
                    }
                    Poll::Ready(Some(Err(error))) => return self.fail(&error, events),
                    Poll::Ready(None) => {
                        let body = std::mem::replace(&mut self.receiving, Receiving::Over);
                        let Receiving::Body(body) = body else { unreachable!("matched above") };
                        self.receiving = Receiving::Trailers(body);
                    }
                },
                Receiving::Trailers(body) => match body.poll_trailers(cx) {
                    Poll::Pending => return Progress::Open,
                    Poll::Ready(Err(error)) => return self.fail(&error, events),
                    Poll::Ready(Ok(trailers)) => {
                        self.receiving = Receiving::Over;
                        let stream = self.number;
                        if let Some(map) = trailers {
                            match head::read_trailers(map, settings) {
                                Ok(fields) => events.push_back(Event::Trailers { stream, fields }),
                                Err(error) => return self.refuse_trailers(error, events),
                            }
                        }
                        events.push_back(Event::End { stream });
                        return Progress::Open;
                    }
                },
            }
        }
    }

    /// Handles an error of the request's side: a reset, a message that `h2` found malformed, or the
    /// failure of the connection, which its own event reports.
    fn fail(&mut self, error: &h2::Error, events: &mut VecDeque<Event>) -> Progress {
        if !error.is_reset() {
            return Progress::Over;
        }
        let stream = self.number;
        let reason = error.reason().unwrap_or(Reason::CANCEL);
        events.push_back(if error.is_library() {
            let rule = error::stream_rule(reason);
            Event::Malformed { stream, rule, understood: Understood::default() }
        } else {
            Event::Reset { stream, code: reason.into() }
        });
        Progress::Over
    }

    /// Resets the stream for its trailers: the response may have begun, so it cannot be a 400.
    fn refuse_trailers(&mut self, error: FieldError, events: &mut VecDeque<Event>) -> Progress {
        let (code, rule) = match error {
            FieldError::Malformed(rule) => (Code::ProtocolError, rule),
            FieldError::Refused(refusal)
                if refusal.status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE =>
            {
                (Code::EnhanceYourCalm, refusal.rule)
            }
            FieldError::Refused(refusal) => (Code::ProtocolError, refusal.rule),
        };
        self.send_reset(code);
        let understood = Understood::default();
        events.push_back(Event::Malformed { stream: self.number, rule, understood });
        Progress::Over
    }

    /// Gives the client credit for bytes of its body. Returns the number of bytes released.
    pub(super) fn release(&mut self, len: usize) -> usize {
        assert!(len <= self.unreleased_len, "more is released than was handed out");
        self.unreleased_len -= len;
        // Fails after a reset, when all of it has been given back.
        let _ = self.credit.release_capacity(len);
        len
    }

    /// Drops the rest of the request. Its bytes no longer take credit.
    pub(super) fn stop_request(&mut self) -> Progress {
        self.receiving = Receiving::Over;
        self.progress()
    }

    /// Sends an interim or final head. After a reset by the client it does nothing.
    pub(super) fn respond(&mut self, status: StatusCode, fields: Fields, ended: bool) -> Progress {
        let waker = self.waker.waker.clone();
        let Sending::Head(respond) = &mut self.sending else {
            panic!("a response has one head");
        };
        if respond.poll_reset(&mut Context::from_waker(&waker)).is_ready() {
            return Progress::Open;
        }
        let Some(map) = head::field_map(fields) else {
            self.send_reset(Code::InternalError);
            return Progress::Open;
        };
        let mut response = Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (status, map);
        if status.is_informational() {
            respond.send_informational(response).expect("an interim head of an open stream");
            return Progress::Open;
        }
        let send =
            respond.send_response(response, ended).expect("the first head of an open stream");
        self.sending = if ended { Sending::Leaving(send) } else { Sending::Body(send) };
        self.watch_reset();
        self.progress()
    }

    /// Writes as much as the client's windows and the stream's part of the queue allow. Returns the
    /// number of bytes written.
    pub(super) fn write(&mut self, pieces: &mut VecDeque<Bytes>, wire: &SharedWire) -> usize {
        let waker = self.waker.waker.clone();
        let mut cx = Context::from_waker(&waker);
        let send = match &mut self.sending {
            Sending::Body(send) => send,
            Sending::Head(respond) => {
                let is_reset = respond.poll_reset(&mut cx).is_ready();
                assert!(is_reset, "a body follows a head");
                // Its event reports it.
                return 0;
            }
            Sending::Leaving(_) | Sending::Over => panic!("a body ends once"),
        };
        let mut written_len = 0;
        while let Some(first) = pieces.front_mut() {
            if first.is_empty() {
                pieces.pop_front();
                continue;
            }
            let left = first.len().min(limits::HTTP2_STREAM_QUEUED_LEN_MAX);
            send.reserve_capacity(left);
            let capacity = send.capacity();
            if capacity == 0 {
                match send.poll_capacity(&mut cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Pending => self.wait = Wait::Window,
                    // It was reset, which its event reports.
                    Poll::Ready(None | Some(Err(_))) => {}
                }
                break;
            }
            let piece = first.split_to(capacity.min(first.len()));
            written_len += piece.len();
            if send.send_data(Payload::new(piece, wire), false).is_err() {
                break;
            }
        }
        written_len
    }

    /// Waits for room in the connection's queue. Returns false if it waits already.
    pub(super) fn wait_for_room(&mut self) -> bool {
        std::mem::replace(&mut self.wait, Wait::Room) != Wait::Room
    }

    /// Returns whether the stream waits for room in the connection's queue, and ends the wait.
    pub(super) fn end_wait_for_room(&mut self) -> bool {
        let waited = self.wait == Wait::Room;
        if waited {
            self.wait = Wait::Nothing;
        }
        waited
    }

    /// Ends the response.
    pub(super) fn finish(&mut self, trailers: Option<Fields>, wire: &SharedWire) -> Progress {
        if let Sending::Head(respond) = &mut self.sending
            && respond.poll_reset(&mut Context::from_waker(&self.waker.waker)).is_ready()
        {
            // As in `write`.
            return Progress::Open;
        }
        let Sending::Body(mut send) = std::mem::replace(&mut self.sending, Sending::Over) else {
            panic!("a body follows a head, and ends once");
        };
        // Both fail after a reset only, which its event reports.
        let _ = match trailers.map(head::field_map) {
            None => send.send_data(Payload::new(Bytes::new(), wire), true),
            Some(Some(map)) => send.send_trailers(map),
            Some(None) => {
                send.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            }
        };
        self.sending = Sending::Leaving(send);
        self.watch_reset();
        self.progress()
    }

    /// Has the stream's waker called when the client resets a response that is leaving.
    fn watch_reset(&mut self) {
        let waker = self.waker.waker.clone();
        if let Sending::Leaving(send) = &mut self.sending {
            // A reset that has come already was noted by its own waker.
            let _ = send.poll_reset(&mut Context::from_waker(&waker));
        }
    }

    /// Returns whether the response is complete, and its last frame has not been output.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.sending, Sending::Leaving(_))
    }

    /// Notes that the last frame of the response has been output.
    pub(super) fn note_output(&mut self) -> Progress {
        self.sending = Sending::Over;
        self.progress()
    }

    /// Resets the stream, with all of its response that was not written. Once the response has
    /// ended, NO_ERROR leaves that as it is: the reset follows it (RFC 9113 8.1).
    pub(super) fn reset(&mut self, code: Code) {
        let is_responded = matches!(self.sending, Sending::Leaving(_) | Sending::Over);
        let follows_response = code == Code::NoError && is_responded;
        if !follows_response {
            self.send_reset(code);
        }
    }

    fn send_reset(&mut self, code: Code) {
        match &mut self.sending {
            Sending::Head(respond) => respond.send_reset(code.reason()),
            Sending::Body(send) | Sending::Leaving(send) => send.send_reset(code.reason()),
            // Dropping the last part of a stream resets it, with NO_ERROR if the response is over.
            Sending::Over => {}
        }
    }
}

/// Reads the next piece of a body. Short ones that are there are joined.
fn read_piece(
    body: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, h2::Error>>> {
    const LEN_MIN: usize = limits::HTTP2_BODY_PIECE_LEN_MIN;
    let mut joined = BytesMut::new();
    loop {
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(piece))) if piece.len() < LEN_MIN => {
                joined.extend_from_slice(&piece);
                if joined.len() >= LEN_MIN {
                    return Poll::Ready(Some(Ok(joined.freeze())));
                }
            }
            Poll::Ready(Some(Ok(piece))) if joined.is_empty() => {
                return Poll::Ready(Some(Ok(piece)));
            }
            Poll::Ready(Some(Ok(piece))) => {
                joined.extend_from_slice(&piece);
                return Poll::Ready(Some(Ok(joined.freeze())));
            }
            // The error or the end comes again at the next poll.
            Poll::Pending | Poll::Ready(_) if !joined.is_empty() => {
                return Poll::Ready(Some(Ok(joined.freeze())));
            }
            other => return other,
        }
    }
}
