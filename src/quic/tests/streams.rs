//! The number of request streams that a client may have open at once.

use std::time::Duration;

use quinn_proto::Dir;

use super::super::*;
use super::pair::{Pair, quic};
use crate::base::stream_share::StreamShare;
use crate::limits::{STREAM_CUT_INTERVAL, STREAM_RAISE_INTERVAL};

/// Lets the client open as many streams as it may, each of which is then over on both sides.
/// Returns how many it opened.
fn open_all(pair: &mut Pair, client: usize, key: ConnectionKey) -> u32 {
    let mut opened = Vec::new();
    let connection = pair.clients.get_mut(&client).unwrap();
    while let Some(id) = connection.streams().open(Dir::Bi) {
        connection.send_stream(id).write(b"GET").unwrap();
        connection.send_stream(id).finish().unwrap();
        opened.push(id);
    }
    pair.pass(Duration::from_millis(30));
    for id in &opened {
        assert!(pair.server_read(key, (*id).into(), &mut Vec::new()));
        pair.engine.finish(pair.now, key, (*id).into()).unwrap();
    }
    pair.pass(Duration::from_millis(30));
    for id in &opened {
        assert!(pair.client_read(client, (*id).into(), &mut Vec::new()));
    }
    pair.pass(Duration::from_millis(30));
    opened.len() as u32
}

#[test]
fn refusals_leave_a_client_fewer_streams_for_a_while() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    assert_eq!(open_all(&mut pair, client, key), 100);
    (0..50).for_each(|_| pair.engine.note_refused(pair.now, key));
    // What it may open already is not taken back.
    assert_eq!(open_all(&mut pair, client, key), 100);
    assert_eq!(open_all(&mut pair, client, key), 50, "refused together, halved once");
    for _ in 0..20 {
        pair.pass(STREAM_CUT_INTERVAL);
        pair.engine.note_refused(pair.now, key);
    }
    open_all(&mut pair, client, key);
    assert_eq!(open_all(&mut pair, client, key), 1);
    for _ in 0..100 {
        pair.pass(STREAM_RAISE_INTERVAL);
        open_all(&mut pair, client, key);
    }
    assert_eq!(open_all(&mut pair, client, key), 100);
}

#[test]
fn a_worker_with_too_much_to_do_leaves_all_clients_fewer_streams() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let quarter = StreamShare::default().halved().halved();
    pair.engine.set_stream_share(quarter);
    assert_eq!(open_all(&mut pair, client, key), 100);
    assert_eq!(open_all(&mut pair, client, key), 25);
    pair.engine.set_stream_share(StreamShare::default());
    open_all(&mut pair, client, key);
    assert_eq!(open_all(&mut pair, client, key), 100);
}
