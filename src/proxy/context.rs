//! The parts of the proxy that are lent to exchanges and upstreams for one call.

use std::collections::VecDeque;
use std::time::Instant;

use super::api::{Counters, ExchangeKey, Output, UpstreamCommand};
use super::upstream::UpstreamTimer;
use crate::base::timers::Timers;
use crate::message::Incident;

/// The time, and the parts of the proxy that exchanges and upstreams share.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) timers: &'a mut Timers<TimerOwner>,
    pub(crate) outputs: &'a mut VecDeque<Output>,
    pub(crate) counters: &'a mut Counters,
}

impl Context<'_> {
    pub(crate) fn command_upstream(&mut self, command: UpstreamCommand) {
        self.outputs.push_back(Output::Upstream(command));
    }

    /// Reports an event for the process log.
    pub(crate) fn note(&mut self, exchange: Option<ExchangeKey>, incident: Incident) {
        self.outputs.push_back(Output::Incident { exchange, incident: Box::new(incident) });
    }
}

/// The owner of a timer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TimerOwner {
    Exchange(ExchangeKey, ExchangeTimer),
    Upstream(UpstreamTimer),
}

/// The timers of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ExchangeTimer {
    /// The time limit of the whole exchange.
    Deadline,
    /// The timeout of a pause in the request's body.
    RequestBody,
    /// The timeout of a pause in which the client takes nothing of its response.
    Response,
}
