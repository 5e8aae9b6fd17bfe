//! The demonstration: what `ringway` serves when it is started without a configuration file.
//!
//! It listens on loopback with a self-signed certificate and forwards every request to an origin
//! of its own, which runs on its own thread and runtime.

mod config;
mod origin;

use std::io;

use crate::config::Config;

pub use config::config;
pub(crate) use origin::{BoundOrigin, Origin};

/// An origin that is about to serve, and the configuration of the gateway in front of it.
pub(crate) struct Demonstration {
    /// Forwards everything to the origin.
    pub config: Config,
    origin: BoundOrigin,
}

impl Demonstration {
    /// Binds the origin to a free port of 127.0.0.1.
    pub(crate) fn bind() -> io::Result<Demonstration> {
        let origin = BoundOrigin::bind()?;
        Ok(Demonstration { config: config(origin.address), origin })
    }

    /// Starts the origin, which serves until it is dropped.
    pub(crate) fn start(self) -> io::Result<Origin> {
        self.origin.start()
    }

    /// Returns a command to try, to be printed once the gateway serves.
    pub(crate) fn invitation(&self) -> String {
        let port = self.config.listeners[0].addresses[0].port();
        format!(
            "ringway: a demonstration with a self-signed certificate and a built-in origin; try\n  \
             curl --http3-only --insecure https://localhost:{port}/"
        )
    }
}
