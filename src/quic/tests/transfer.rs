//! Stream data in both directions, under all network conditions.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use quinn_proto::{Dir, VarInt};

use super::super::*;
use super::pair::{Pair, pattern, quic};
use crate::config::{self, Congestion};

const MIB: usize = 1024 * 1024;

/// Opens the client's first bidirectional stream.
fn first_stream(pair: &mut Pair, client: usize) -> StreamId {
    let connection = pair.clients.get_mut(&client).unwrap();
    connection.streams().open(Dir::Bi).unwrap().into()
}

/// Sends `data` from the server on a stream that the client opens. Returns the bytes received.
fn download(pair: &mut Pair, data: &[u8], limit: Duration) -> Vec<u8> {
    let (client, key) = pair.connected();
    let stream = first_stream(pair, client);
    pair.client_write(client, stream, &mut Bytes::from_static(b"GET"));
    let mut pieces = data.chunks(64 * 1024).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let (mut opened, mut finished, mut next) = (false, false, 0);
    let mut received = Vec::new();
    let done = pair.run(limit, |pair| {
        for (_, event) in pair.events.drain(..) {
            opened |= event == Event::StreamOpened(stream);
            assert!(!matches!(event, Event::Closed(_)), "{event:?}");
        }
        while opened && next < pieces.len() {
            match pair.engine.write(key, stream, &mut pieces[next..]) {
                Ok(written) => next += written.pieces,
                Err(WriteError::Blocked) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        if next == pieces.len() && !finished {
            pair.engine.finish(pair.now, key, stream).unwrap();
            finished = true;
        }
        pair.client_read(client, stream, &mut received)
    });
    assert!(done, "{} of {} bytes in {limit:?}", received.len(), data.len());
    received
}

/// Sends `data` from the client on a stream and finishes it. Returns the bytes received.
fn upload(pair: &mut Pair, data: &[u8], limit: Duration) -> Vec<u8> {
    let (client, key) = pair.connected();
    let stream = first_stream(pair, client);
    let mut rest = Bytes::copy_from_slice(data);
    let mut received = Vec::new();
    let mut finished = false;
    let done = pair.run(limit, |pair| {
        pair.client_write(client, stream, &mut rest);
        if rest.is_empty() && !finished {
            let id = stream.proto().unwrap();
            pair.clients.get_mut(&client).unwrap().send_stream(id).finish().unwrap();
            finished = true;
        }
        let readable = [Event::StreamOpened(stream), Event::Readable(stream)];
        let told = pair.events.drain(..).any(|(_, event)| readable.contains(&event));
        told && pair.server_read(key, stream, &mut received)
    });
    assert!(done, "{} of {} bytes in {limit:?}", received.len(), data.len());
    received
}

#[test]
fn ten_mebibytes_are_downloaded() {
    let mut pair = Pair::new(quic());
    let data = pattern(10 * MIB);
    assert!(download(&mut pair, &data, Duration::from_secs(60)) == data);
    assert!(pair.segments_max > 20, "batches of {} at most", pair.segments_max);
}

#[test]
fn ten_mebibytes_are_uploaded() {
    let mut pair = Pair::new(quic());
    let data = pattern(10 * MIB);
    assert!(upload(&mut pair, &data, Duration::from_secs(60)) == data);
}

#[test]
fn loss_and_reordering_change_no_byte() {
    for seed in 0..4 {
        let mut pair = Pair::new(quic());
        pair.seed(seed);
        pair.loss = 0.03;
        pair.jitter = Duration::from_millis(5);
        let data = pattern(MIB + seed as usize);
        assert!(download(&mut pair, &data, Duration::from_secs(300)) == data);
        let lost = pair.engine.stats().packets_lost;
        assert!(lost > 0, "the loss is counted");
        let mut pair = Pair::new(quic());
        pair.seed(seed);
        pair.loss = 0.03;
        pair.jitter = Duration::from_millis(5);
        assert!(upload(&mut pair, &data, Duration::from_secs(300)) == data);
    }
}

/// Windows of their initial size would allow only 1.5 MiB and 1 MiB in each 200 ms.
#[test]
fn windows_grow_on_a_long_path_and_return_to_the_budget() {
    let mut pair = Pair::new(quic());
    pair.delay = Duration::from_millis(100);
    let data = pattern(30 * MIB);
    assert!(download(&mut pair, &data, Duration::from_secs(60)) == data);
    let after_download = pair.engine.window_budget_left();
    assert!(after_download < 64 * MIB as u64, "the send window has grown");
    let mut pair = Pair::new(crate::config::Quic { stream_receive_window: 8 << 20, ..quic() });
    pair.delay = Duration::from_millis(100);
    assert!(upload(&mut pair, &data, Duration::from_secs(60)) == data);
    assert!(pair.engine.window_budget_left() < 64 * MIB as u64, "the receive window has grown");
    pair.engine.close_all(pair.now, 0, b"");
    pair.pass(Duration::from_secs(10));
    pair.assert_empty();
}

#[test]
fn windows_stay_within_the_budget_of_the_worker() {
    let tls = super::pair::server_tls();
    let mut settings = super::pair::settings(quic(), &tls);
    settings.window_budget_len = 300_000;
    let mut pair = Pair::with(settings, &tls);
    pair.delay = Duration::from_millis(100);
    let data = pattern(10 * MIB);
    assert!(download(&mut pair, &data, Duration::from_secs(60)) == data);
    // One connection takes an eighth of it.
    assert_eq!(pair.engine.window_budget_left(), 300_000 * 7 / 8);
}

/// The client's port, and then its address, change during the transfer (RFC 9000 9).
#[test]
fn a_download_survives_rebinding() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stream = first_stream(&mut pair, client);
    pair.client_write(client, stream, &mut Bytes::from_static(b"GET"));
    let data = pattern(4 * MIB);
    let mut pieces = [Bytes::copy_from_slice(&data)];
    let mut received = Vec::new();
    let mut changes = 0;
    let mut written = 0;
    let done = pair.run(Duration::from_secs(120), |pair| {
        pair.events.clear();
        match pair.engine.write(key, stream, &mut pieces) {
            Ok(taken) => written += taken.bytes,
            Err(WriteError::Blocked | WriteError::Gone) => {}
            Err(error) => panic!("{error:?}"),
        }
        if written == data.len() {
            let _ = pair.engine.finish(pair.now, key, stream);
        }
        let ended = pair.client_read(client, stream, &mut received);
        if received.len() / MIB > changes && changes < 3 {
            changes += 1;
            let host = if changes == 3 { 9 } else { 7 };
            pair.client_address = SocketAddr::from(([198, 51, 100, host], 40_000 + changes as u16));
            // The gateway learns of the new address only from a datagram that the client sends.
            pair.client_write(client, stream, &mut Bytes::from_static(b"!"));
        }
        ended
    });
    assert!(done && received == data, "{} of {} bytes", received.len(), data.len());
    assert_eq!(changes, 3);
    assert_eq!(pair.engine.remote_address(key), Some(pair.client_address));
    assert_eq!(pair.engine.client_address(key), Some(pair.client_address));
}

/// A spoofed source address never becomes the client's, whatever the attacker sends (RFC 9000 9.3).
#[test]
fn a_client_address_changes_only_after_path_validation() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stream = first_stream(&mut pair, client);
    pair.pass(Duration::from_secs(1));
    let home = pair.client_address;
    let foreign = SocketAddr::from(([10, 0, 0, 1], 40_000));
    pair.record = Some(Vec::new());
    pair.client_is_mute = true;
    for word in [&b"GET"[..], b" more", b" and more"] {
        pair.client_write(client, stream, &mut Bytes::from_static(word));
        pair.drive();
        for datagram in pair.record.as_mut().map(std::mem::take).unwrap() {
            pair.inject(foreign, &datagram);
        }
        assert_eq!(pair.engine.remote_address(key), Some(foreign));
        assert_eq!(pair.engine.client_address(key), Some(home));
        pair.pass(Duration::from_millis(20));
    }
    pair.client_is_mute = false;
    pair.client_write(client, stream, &mut Bytes::from_static(b" at home"));
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.engine.client_address(key), Some(home));
    // Now the client does move, and receives datagrams at the new address.
    pair.client_address = SocketAddr::from(([198, 51, 100, 9], 41_000));
    pair.client_write(client, stream, &mut Bytes::from_static(b" elsewhere"));
    pair.run(pair.delay, |_| false);
    assert_eq!(pair.engine.remote_address(key), Some(pair.client_address));
    assert_eq!(pair.engine.client_address(key), Some(home), "not validated yet");
    pair.client_write(client, stream, &mut Bytes::from_static(b" still"));
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.engine.client_address(key), Some(pair.client_address));
}

/// A datagram from the client's new address arrives at the very instant at which a probe of the old
/// path is due.
#[test]
fn a_client_may_move_at_the_instant_of_a_probe_timeout() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stream = first_stream(&mut pair, client);
    pair.client_write(client, stream, &mut Bytes::from_static(b"GET"));
    pair.pass(Duration::from_millis(500));
    pair.client_address = SocketAddr::from(([198, 51, 100, 9], 40_000));
    let data = pattern(5000);
    pair.engine.write(key, stream, &mut [Bytes::copy_from_slice(&data)]).unwrap();
    pair.engine.finish(pair.now, key, stream).unwrap();
    pair.drive();
    let due = pair.engine.next_deadline().unwrap();
    pair.pass(due - pair.delay - pair.now);
    pair.client_write(client, stream, &mut Bytes::from_static(b" more"));
    let mut received = Vec::new();
    let limit = Duration::from_secs(5);
    assert!(pair.run(limit, |pair| pair.client_read(client, stream, &mut received)));
    assert!(received == data);
}

#[test]
fn resets_and_stop_sending_reach_the_peer() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stream = first_stream(&mut pair, client);
    pair.client_write(client, stream, &mut Bytes::from_static(b"half a request"));
    let opened = Event::StreamOpened(stream);
    assert!(pair.run(Duration::from_secs(1), |pair| pair.events.contains(&(key, opened.clone()))));
    let mut chunks = Vec::new();
    let read = pair.engine.read(key, stream, 4, |chunk| chunks.push(chunk));
    assert_eq!((read, chunks.concat()), (Ok(Read::Full), b"half".to_vec()));

    // The client gives up both directions.
    let id = stream.proto().unwrap();
    let connection = pair.clients.get_mut(&client).unwrap();
    connection.send_stream(id).reset(VarInt::from_u32(0x10c)).unwrap();
    connection.recv_stream(id).stop(VarInt::from_u32(0x10d)).unwrap();
    let stopped = (key, Event::Stopped(stream, 0x10d));
    assert!(pair.run(Duration::from_secs(1), |pair| pair.events.contains(&stopped)));
    assert_eq!(pair.engine.read(key, stream, 10, drop), Err(ReadError::Reset(0x10c)));
    assert_eq!(pair.engine.read(key, stream, 10, drop), Err(ReadError::Gone));
    let mut piece = [Bytes::from_static(b"late")];
    let late = pair.engine.write(key, stream, &mut piece).unwrap_err();
    assert!(matches!(late, WriteError::Stopped(0x10d) | WriteError::Gone), "{late:?}");

    // Then the server gives up both directions.
    let stream = first_stream(&mut pair, client);
    pair.client_write(client, stream, &mut Bytes::from_static(b"another"));
    let opened = (key, Event::StreamOpened(stream));
    assert!(pair.run(Duration::from_secs(1), |pair| pair.events.contains(&opened)));
    pair.engine.reset(key, stream, 0x101).unwrap();
    pair.engine.stop_sending(key, stream, 0x102).unwrap();
    assert_eq!(pair.engine.reset(key, stream, 0x101), Err(Gone));
    assert_eq!(pair.engine.stop_sending(key, stream, 0x102), Err(Gone));
    let mut stopped = None;
    assert!(pair.run(Duration::from_secs(1), |pair| {
        let connection = pair.clients.get_mut(&client).unwrap();
        let id = stream.proto().unwrap();
        stopped = stopped.or(connection.send_stream(id).stopped().ok().flatten());
        stopped.is_some()
    }));
    assert_eq!(stopped, Some(VarInt::from_u32(0x102)));
}

#[test]
fn our_uni_stream_arrives_and_its_end_is_acknowledged() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stream = pair.engine.open_uni(key).unwrap();
    assert!(!stream.is_bidirectional() && !stream.is_from_client());
    let mut pieces = [Bytes::from_static(b"settings"), Bytes::from_static(b", more")];
    let written = pair.engine.write(key, stream, &mut pieces).unwrap();
    assert_eq!(written, Written { bytes: 14, pieces: 2, is_turn_over: false });
    pair.engine.finish(pair.now, key, stream).unwrap();
    assert_eq!(pair.engine.finish(pair.now, key, stream), Err(WriteError::Gone));
    let finished = (key, Event::SendFinished(stream));
    assert!(pair.run(Duration::from_secs(1), |pair| pair.events.contains(&finished)));
    let mut received = Vec::new();
    assert!(pair.client_read(client, stream, &mut received));
    assert_eq!(received, b"settings, more");
}

#[test]
fn a_blocked_writer_is_notified_when_there_is_room() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stream = first_stream(&mut pair, client);
    pair.client_write(client, stream, &mut Bytes::from_static(b"GET"));
    pair.pass(Duration::from_millis(100));
    pair.events.clear();
    let mut pieces = [Bytes::from(pattern(2 * MIB))];
    pair.engine.write(key, stream, &mut pieces).unwrap();
    assert_eq!(pair.engine.write(key, stream, &mut pieces), Err(WriteError::Blocked));
    let writable = (key, Event::Writable(stream));
    assert!(pair.run(Duration::from_secs(5), |pair| pair.events.contains(&writable)));
    assert!(pair.engine.write(key, stream, &mut pieces).unwrap().bytes > 0);
}

/// A 1500-byte link has 1,472 bytes for a datagram over IPv4 and 1,452 over IPv6; where a tunnel
/// takes some of it, all but a few bytes of the rest are used.
#[test]
fn datagrams_grow_to_the_path_mtu() {
    let ipv4 = IpAddr::from([192, 0, 2, 1]);
    let ipv6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
    for (ip, path_mtu, least) in
        [(ipv4, 1472, 1472), (ipv4, 1464, 1455), (ipv6, 1452, 1452), (ipv6, 1444, 1434)]
    {
        let mut pair = Pair::new(quic());
        (pair.server_ip, pair.path_mtu) = (ip, path_mtu);
        pair.client_address = SocketAddr::new(ip, 40_000);
        let data = pattern(2 * MIB);
        assert_eq!(download(&mut pair, &data, Duration::from_secs(60)), data);
        let used = pair.segment_len_max;
        assert!(used >= least, "{used} bytes of {path_mtu} are used over {ip}");
    }
}

#[test]
fn connections_send_in_round_robin_order() {
    let mut pair = Pair::new(quic());
    let ends = [pair.connected(), pair.connected(), pair.connected()];
    pair.pass(Duration::from_secs(1));
    for (client, key) in ends {
        let stream = first_stream(&mut pair, client);
        let mut piece = [Bytes::from(pattern(200_000))];
        pair.engine.write(key, stream, &mut piece).unwrap();
    }
    // All share one address here, so the sender is identified by the destination connection id. The
    // buffer has room for one datagram, so no connection runs out of data.
    let mut buffer = Vec::with_capacity(usize::from(MTU_MAX_DEFAULT));
    let mut speakers = Vec::new();
    for _ in 0..12 {
        buffer.clear();
        let transmit = pair.engine.poll_transmit(pair.now, &mut buffer).unwrap();
        assert_eq!(transmit.segment_len, None);
        speakers.push(buffer[1..9].to_vec());
    }
    for round in speakers.chunks(3) {
        assert_eq!(round, &speakers[..3], "all in the same order, again and again");
    }
    speakers.truncate(3);
    speakers.sort();
    speakers.dedup();
    assert_eq!(speakers.len(), 3, "each has sent once before any sends twice");
}

#[test]
fn a_close_is_sent_even_if_the_congestion_window_is_full() {
    for congestion in [Congestion::Cubic, Congestion::Bbr, Congestion::NewReno] {
        let mut pair = Pair::new(config::Quic { congestion, ..quic() });
        let (client, key) = pair.connected();
        let stream = first_stream(&mut pair, client);
        pair.client_write(client, stream, &mut Bytes::from_static(b"GET"));
        let opened = |pair: &mut Pair| {
            pair.events.drain(..).any(|(_, event)| event == Event::StreamOpened(stream))
        };
        assert!(pair.run(Duration::from_secs(5), opened));
        pair.engine.write(key, stream, &mut [Bytes::from(pattern(MIB))]).unwrap();
        // Data is sent up to the congestion window, and none of it is acknowledged.
        for _ in 0..20 {
            pair.now += Duration::from_millis(1);
            pair.engine.handle_timeout(pair.now);
            pair.drive();
        }
        pair.engine.close(pair.now, key, 0x100, b"");
        // Within one one-way delay, and not by a later stateless reset.
        let told = pair.run(Duration::from_millis(20), |pair| {
            pair.clients.get(&client).is_none_or(|connection| connection.is_closed())
        });
        assert!(told, "{congestion:?}: the client was not told of the close");
    }
}

/// Each piece is one that quinn-proto looks through for every packet until it is acknowledged.
#[test]
fn a_stream_writes_one_small_piece_between_two_datagrams() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stream = first_stream(&mut pair, client);
    pair.client_write(client, stream, &mut Bytes::from_static(b"GET"));
    pair.pass(Duration::from_millis(100));
    let write = |pair: &mut Pair, len| {
        let mut pieces = [Bytes::from(vec![7; len])];
        pair.engine.write(key, stream, &mut pieces).map(|written| written.bytes)
    };
    assert_eq!(write(&mut pair, 4), Ok(4));
    assert_eq!(write(&mut pair, 4), Err(WriteError::Blocked));
    assert_eq!(
        write(&mut pair, 20_000),
        Ok(20_000),
        "a large piece is one more, whatever is in it"
    );
    assert_eq!(write(&mut pair, 4), Ok(4));
    pair.events.clear();
    assert_eq!(write(&mut pair, 4), Err(WriteError::Blocked));
    pair.drive();
    assert!(pair.events.contains(&(key, Event::Writable(stream))), "{:?}", pair.events);
    assert_eq!(write(&mut pair, 4), Ok(4));
}

/// Returns how long an upload of 30 MiB takes at a round trip of 100 ms, and how often the client
/// reports that the window of its stream holds it back.
fn upload_within(stream_window_mib: u32) -> (Duration, u64) {
    let mut pair =
        Pair::new(config::Quic { stream_receive_window: stream_window_mib << 20, ..quic() });
    pair.delay = Duration::from_millis(50);
    let data = pattern(30 * MIB);
    let began = pair.now;
    assert!(upload(&mut pair, &data, Duration::from_secs(60)) == data);
    let taken = pair.now - began;
    pair.engine.close_all(pair.now, 0, b"");
    pair.pass(Duration::from_secs(10));
    (taken, pair.engine.stats().flow_blocked.stream)
}

/// docs/decisions/stream-windows-do-not-grow.md has these figures.
#[test]
fn an_upload_is_as_fast_as_its_streams_window_and_what_holds_it_back_is_counted() {
    let (taken, blocked_count) = upload_within(1);
    assert!(taken > Duration::from_secs(3), "30 windows, one in each round trip: {taken:?}");
    assert!(blocked_count >= 30, "{blocked_count}");
    let (taken, wide_blocked_count) = upload_within(6);
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    assert!(wide_blocked_count < blocked_count, "{wide_blocked_count}, {blocked_count}");
}

#[test]
fn a_client_that_its_connections_window_holds_back_is_counted() {
    let mut pair = Pair::new(config::Quic { stream_receive_window: 6 << 20, ..quic() });
    let (client, _) = pair.connected();
    let stalled = first_stream(&mut pair, client);
    let mut rest = Bytes::from(pattern(8 * MIB));
    pair.run(Duration::from_secs(5), |pair| {
        pair.client_write(client, stalled, &mut rest);
        false
    });
    assert!(pair.engine.stats().flow_blocked.connection > 0);
}

/// A stream that nobody reads may fill its own window, and not that of its connection.
#[test]
fn one_stalled_upload_does_not_stop_another() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let stalled = first_stream(&mut pair, client);
    let mut rest = Bytes::from(pattern(8 * MIB));
    pair.client_write(client, stalled, &mut rest);
    pair.pass(Duration::from_secs(2));
    let other = first_stream(&mut pair, client);
    let mut data = Bytes::from(pattern(100_000));
    let mut received = Vec::new();
    let is_done = pair.run(Duration::from_secs(5), |pair| {
        pair.client_write(client, other, &mut data);
        pair.client_write(client, stalled, &mut rest);
        let readable = [Event::StreamOpened(other), Event::Readable(other)];
        if pair.events.drain(..).any(|(_, event)| readable.contains(&event)) {
            pair.server_read(key, other, &mut received);
        }
        received.len() == 100_000
    });
    assert!(is_done, "{} bytes arrive", received.len());
}
