//! Connections, and the requests on their streams.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, ReadError, ReadToEndError, SendStream, WriteError};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinHandle;

use crate::books::{Books, Seen};
use crate::message::Response;
use crate::{Arguments, Case, Failure};

const SERVER_NAME: &str = "e2e.test";
/// The client's control stream: its type, and SETTINGS without entries (RFC 9114 6.2.1).
const CONTROL: [u8; 3] = [0x00, 0x04, 0x00];
const NO_ERROR: u32 = 0x100;
/// Longest response: a form holds the request's head, of 32 KiB at most, and some lines.
const RESPONSE_LEN_MAX: usize = 1 << 20;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends all requests. Each connection has a fixed number of streams that take the next request
/// when theirs has its response.
pub async fn run(arguments: &Arguments) -> Result<Books, Failure> {
    let mut endpoint = Endpoint::client("0.0.0.0:0".parse()?)?;
    endpoint.set_default_client_config(client_config(arguments)?);
    let books = Rc::new(RefCell::new(Books::new(&arguments.log)?));
    let end = arguments.first + arguments.count;
    let next = Rc::new(RefCell::new(arguments.first..end));
    let tasks = tokio::task::LocalSet::new();
    let mut streams: Vec<JoinHandle<Result<(), Failure>>> = Vec::new();
    for _ in 0..arguments.connections {
        let connection = endpoint.connect(arguments.connect, SERVER_NAME)?.await?;
        let mut control = connection.open_uni().await?;
        control.write_all(&CONTROL).await?;
        for _ in 0..arguments.streams {
            let (books, next) = (Rc::clone(&books), Rc::clone(&next));
            let (connection, arguments) = (connection.clone(), arguments.clone());
            streams.push(tasks.spawn_local(async move {
                loop {
                    let Some(index) = next.borrow_mut().next() else { return Ok(()) };
                    let (case, dice) = Case::draw(arguments.seed, index, &arguments.profile);
                    let seen = exchange(&connection, &case, dice).await?;
                    books.borrow_mut().enter(&case, seen)?;
                }
            }));
        }
        // A control stream must stay open.
        tasks.spawn_local(async move {
            let _stopped = control.stopped().await;
        });
    }
    let all = tasks.run_until(async {
        for stream in streams {
            stream.await??;
        }
        Ok::<_, Failure>(())
    });
    all.await?;
    endpoint.close(NO_ERROR.into(), b"");
    endpoint.wait_idle().await;
    drop(tasks);
    Ok(Rc::into_inner(books).expect("all tasks have ended").into_inner())
}

fn client_config(arguments: &Arguments) -> Result<quinn::ClientConfig, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&arguments.trust)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

/// Sends one request and reads what comes back.
async fn exchange(
    connection: &Connection,
    case: &Case,
    mut dice: SmallRng,
) -> Result<Seen, Failure> {
    let frames = case.message.encode(&mut dice);
    let (mut sender, mut receiver) = connection.open_bi().await?;
    let sending = send(&mut sender, frames, &mut dice);
    let receiving = receiver.read_to_end(RESPONSE_LEN_MAX);
    let both = async { tokio::join!(sending, receiving) };
    let Ok((sent, received)) = tokio::time::timeout(REQUEST_TIMEOUT, both).await else {
        return Ok(Seen::Wrong("no response in time".to_owned()));
    };
    match sent {
        // The gateway needs no more of a request that it has refused.
        Ok(()) | Err(WriteError::Stopped(_)) => {}
        Err(error) => return Err(format!("request {}: {error}", case.index).into()),
    }
    Ok(match received {
        Ok(bytes) => match Response::read(&bytes) {
            Ok(response) => Seen::Response(response),
            Err(wrong) => Seen::Wrong(wrong),
        },
        Err(ReadToEndError::Read(ReadError::Reset(code))) => Seen::Reset(code.into_inner()),
        Err(error) => return Err(format!("request {}: {error}", case.index).into()),
    })
}

/// The pace at which a request is sent.
enum Pace {
    Whole,
    /// With pauses between frames: each of them may seem to be the last.
    Frames,
    /// With pauses anywhere, so that frames arrive in parts.
    Parts,
}

/// Sends the frames and ends the stream, in a packet of its own if it comes to that.
async fn send(
    sender: &mut SendStream,
    mut frames: Vec<Vec<u8>>,
    dice: &mut SmallRng,
) -> Result<(), WriteError> {
    let pace = match dice.random_range(0..10) {
        0..7 => Pace::Whole,
        7 => Pace::Frames,
        _ => Pace::Parts,
    };
    if !matches!(pace, Pace::Frames) {
        frames = vec![frames.concat()];
    }
    let mut pause_count_left = 4;
    for frame in frames {
        let mut rest = frame.as_slice();
        if matches!(pace, Pace::Parts) {
            for _ in 0..dice.random_range(0..4) {
                let (part, after) = rest.split_at(dice.random_range(0..=rest.len()));
                sender.write_all(part).await?;
                pause(dice).await;
                rest = after;
            }
        }
        sender.write_all(rest).await?;
        if matches!(pace, Pace::Frames) && pause_count_left > 0 && dice.random() {
            pause_count_left -= 1;
            pause(dice).await;
        }
    }
    // It fails only on a stream that was stopped, which the response explains.
    let _finished = sender.finish();
    Ok(())
}

/// Waits until what was written has probably been handled.
async fn pause(dice: &mut SmallRng) {
    tokio::time::sleep(Duration::from_millis(dice.random_range(1..8))).await;
}
