//! Configuration files. Input: their text.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use ringway::testing::internal::config::{self, Accounts, Surroundings};

/// # Panics
///
/// If a refusal has no place in the file, or a valid file has no consistent content.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parse = || config::parse(text, Path::new("/etc/ringway/fuzz.toml"), &surroundings());
    let line_count = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    match parse() {
        Ok(config) => {
            assert!(!config.listeners.is_empty() && !config.certificates.is_empty());
            assert!(config.listeners.iter().all(|listener| !listener.addresses.is_empty()));
            assert!(config.upstreams.iter().all(|upstream| !upstream.endpoints.is_empty()));
            assert!(config.routes.iter().all(|route| route.upstream < config.upstreams.len()));
            assert_eq!(parse().as_ref(), Ok(&config), "read twice");
        }
        Err(refused) => {
            assert!(!refused.errors.is_empty(), "a refusal without a reason");
            for error in &refused.errors {
                let line = error.line.expect("a refusal has a line");
                assert!((1..=line_count).contains(&line), "{line} of {line_count}: {error:?}");
                assert!(!error.message.is_empty());
            }
            assert!(refused.to_string().contains("/etc/ringway/fuzz.toml:"));
        }
    }
}

/// The same environment and resolver for each input.
fn surroundings() -> Surroundings<'static> {
    Surroundings {
        env: &|name| (name == "PORT").then(|| "8081".to_owned()),
        resolve: &|name, port| match name {
            "origin.internal" => Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))]),
            "none.internal" => Ok(Vec::new()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        },
        tcp_congestions: &|| Some("reno cubic\n".to_owned()),
        accounts: Accounts::NONE,
    }
}
