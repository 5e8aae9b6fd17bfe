//! The responses that the gateway makes itself, by status.

/// Responses made by the gateway itself, by status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnResponses {
    /// 400: the request cannot be forwarded as it is.
    pub bad_request: u64,
    /// 403: the route needs a certificate of the client.
    pub no_client_certificate: u64,
    /// 404: no route matches.
    pub no_route: u64,
    /// 408: the request's head or body stalled.
    pub request_timeout: u64,
    /// 413: the request's body is longer than the limit.
    pub body_too_large: u64,
    /// 421: the connection's certificate does not cover the host.
    pub misdirected: u64,
    /// 429: the client's address has too many requests in flight.
    pub too_many_requests: u64,
    /// 431: the request's fields are longer or more than the limit.
    pub fields_too_large: u64,
    /// 501: a method that is not supported.
    pub not_implemented: u64,
    /// 502: the upstream cannot be reached, or broke its protocol.
    pub bad_gateway: u64,
    /// 503: the queue for the upstream is full, or memory is short.
    pub overloaded: u64,
    /// 504: the upstream took too long.
    pub gateway_timeout: u64,
}

impl OwnResponses {
    /// Counts one response made by the gateway itself. `None`, a response cut short, is not
    /// counted.
    pub fn count(&mut self, status: Option<u16>) {
        *match status {
            Some(400) => &mut self.bad_request,
            Some(403) => &mut self.no_client_certificate,
            Some(404) => &mut self.no_route,
            Some(408) => &mut self.request_timeout,
            Some(413) => &mut self.body_too_large,
            Some(421) => &mut self.misdirected,
            Some(429) => &mut self.too_many_requests,
            Some(431) => &mut self.fields_too_large,
            Some(501) => &mut self.not_implemented,
            Some(502) => &mut self.bad_gateway,
            Some(503) => &mut self.overloaded,
            Some(504) => &mut self.gateway_timeout,
            _ => return,
        } += 1;
    }
}
