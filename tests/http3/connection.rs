//! The peer's unidirectional streams and our control stream.

use bytes::Bytes;
use ringway::testing::internal::http3::{Code, Connection, UniVerdict};

use crate::{GREASE, SETTINGS, frame, varint};

const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const ENCODER: u64 = 0x02;
const DECODER: u64 = 0x03;

const STREAM: u64 = 2;

/// Returns the result of the last of `chunks` on one stream.
fn outcome(chunks: impl IntoIterator<Item = Vec<u8>>) -> Result<UniVerdict, Code> {
    let mut connection = Connection::new(&SETTINGS);
    let mut last = Ok(UniVerdict::Continue);
    for chunk in chunks {
        last = connection.handle_uni(STREAM, Bytes::from(chunk)).map_err(|error| error.code);
        if last != Ok(UniVerdict::Continue) {
            break;
        }
    }
    last
}

/// Returns a control stream that starts with these SETTINGS and continues with `rest`.
fn control(settings: &[u64], rest: &[u8]) -> Vec<u8> {
    let payload: Vec<u8> = settings.iter().flat_map(|&value| varint(value)).collect();
    [&varint(CONTROL)[..], &frame(0x04, &payload), rest].concat()
}

#[test]
fn unidirectional_stream_errors_have_their_rfc_codes() {
    let id = |frame_type: u64, id: u64| frame(frame_type, &varint(id));
    let (cancel_push, settings, goaway, max_push_id) = (0x03, 0x04, 0x07, 0x0d);
    let after = |rest: &[Vec<u8>]| control(&[], &rest.concat());
    let with_type = |stream_type: u64, bytes: &[u8]| [&varint(stream_type)[..], bytes].concat();
    let cases: Vec<(&str, Vec<u8>, Result<UniVerdict, Code>)> = vec![
        ("no SETTINGS", with_type(CONTROL, &id(goaway, 0)), Err(Code::MissingSettings)),
        ("grease first", with_type(CONTROL, &frame(GREASE, b"")), Err(Code::MissingSettings)),
        ("two SETTINGS", after(&[frame(settings, b"")]), Err(Code::FrameUnexpected)),
        ("DATA", after(&[frame(0x00, b"")]), Err(Code::FrameUnexpected)),
        ("HEADERS", after(&[frame(0x01, b"")]), Err(Code::FrameUnexpected)),
        ("PUSH_PROMISE", after(&[frame(0x05, b"")]), Err(Code::FrameUnexpected)),
        ("PRIORITY", after(&[frame(0x02, b"")]), Err(Code::FrameUnexpected)),
        ("PING", after(&[frame(0x06, b"")]), Err(Code::FrameUnexpected)),
        ("WINDOW_UPDATE", after(&[frame(0x08, b"")]), Err(Code::FrameUnexpected)),
        ("CONTINUATION", after(&[frame(0x09, b"")]), Err(Code::FrameUnexpected)),
        ("setting twice", control(&[6, 9, 6, 9], b""), Err(Code::SettingsError)),
        (
            "unknown setting twice",
            control(&[GREASE, 0, 6, 1, GREASE, 0], b""),
            Err(Code::SettingsError),
        ),
        ("setting 0x00", control(&[0, 0], b""), Err(Code::SettingsError)),
        ("setting 0x02", control(&[2, 0], b""), Err(Code::SettingsError)),
        ("setting 0x03", control(&[3, 0], b""), Err(Code::SettingsError)),
        ("setting 0x04", control(&[4, 0], b""), Err(Code::SettingsError)),
        ("setting 0x05", control(&[5, 0], b""), Err(Code::SettingsError)),
        ("half a setting", control(&[6], b""), Err(Code::FrameError)),
        ("endless SETTINGS", with_type(CONTROL, &[4, 0x7f, 0xff]), Err(Code::ExcessiveLoad)),
        ("push id shrinks", after(&[id(max_push_id, 5), id(max_push_id, 4)]), Err(Code::IdError)),
        ("goaway rises", after(&[id(goaway, 5), id(goaway, 6)]), Err(Code::IdError)),
        ("CANCEL_PUSH", after(&[id(max_push_id, 5), id(cancel_push, 5)]), Err(Code::IdError)),
        ("CANCEL_PUSH beyond", after(&[id(cancel_push, 6)]), Err(Code::IdError)),
        ("GOAWAY empty", after(&[frame(goaway, b"")]), Err(Code::FrameError)),
        ("GOAWAY cut", after(&[frame(goaway, &[0x40])]), Err(Code::FrameError)),
        ("GOAWAY and more", after(&[frame(goaway, &[0, 0])]), Err(Code::FrameError)),
        ("MAX_PUSH_ID of 9 bytes", after(&[frame(max_push_id, &[0; 9])]), Err(Code::FrameError)),
        ("push stream", with_type(PUSH, b""), Err(Code::StreamCreationError)),
        ("capacity 1", with_type(ENCODER, &[0x21]), Err(Code::QpackEncoderStreamError)),
        (
            "capacity 4096",
            with_type(ENCODER, &[0x3f, 0xe1, 0x1f]),
            Err(Code::QpackEncoderStreamError),
        ),
        ("insert by name", with_type(ENCODER, &[0xc0]), Err(Code::QpackEncoderStreamError)),
        ("insert literal", with_type(ENCODER, &[0x4a]), Err(Code::QpackEncoderStreamError)),
        ("duplicate", with_type(ENCODER, &[0x20, 0x00]), Err(Code::QpackEncoderStreamError)),
        ("section ack", with_type(DECODER, &[0x84]), Err(Code::QpackDecoderStreamError)),
        ("insert count 1", with_type(DECODER, &[0x01]), Err(Code::QpackDecoderStreamError)),
        ("insert count 0", with_type(DECODER, &[0x44, 0x00]), Err(Code::QpackDecoderStreamError)),
        (
            "endless stream id",
            with_type(DECODER, &[&[0x7f][..], &[0x80; 20]].concat()),
            Err(Code::QpackDecoderStreamError),
        ),
        (
            "grease stream",
            with_type(GREASE, b"x"),
            Ok(UniVerdict::StopSending(Code::StreamCreationError)),
        ),
        ("type 2^62 - 1", vec![0xff; 9], Ok(UniVerdict::StopSending(Code::StreamCreationError))),
        ("capacity 0", with_type(ENCODER, &[0x20, 0x20]), Ok(UniVerdict::Continue)),
        (
            "cancellations",
            with_type(DECODER, &[0x40, 0x7e, 0x7f, 0x00, 0x7f, 0xff, 0x7f, 0x44]),
            Ok(UniVerdict::Continue),
        ),
        (
            "all that a client may say",
            control(
                &[0x01, 4096, 0x06, 1 << 20, 0x07, 16, 0x33, 1, GREASE, 7],
                &[
                    frame(GREASE, b"some"),
                    id(max_push_id, 3),
                    id(max_push_id, 3),
                    id(max_push_id, 1 << 40),
                    id(goaway, 9),
                    id(goaway, 9),
                    id(goaway, 0),
                    frame(0xf0700, b"\0u=1"),
                ]
                .concat(),
            ),
            Ok(UniVerdict::Continue),
        ),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(outcome([bytes.clone()]), expected, "{what}");
        let single = bytes.iter().map(|&byte| vec![byte]);
        assert_eq!(outcome(single), expected, "{what}, byte by byte");
    }
}

#[test]
fn a_second_critical_stream_is_refused_even_if_the_first_ones_type_arrived_in_two_parts() {
    for stream_type in [CONTROL, ENCODER, DECODER] {
        let mut connection = Connection::new(&SETTINGS);
        // The type in its two-byte form arrives split, while another stream of that type arrives
        // whole.
        let long = [0x40, stream_type as u8];
        assert!(connection.handle_uni(2, Bytes::copy_from_slice(&long[..1])).is_ok());
        assert!(connection.handle_uni(6, Bytes::from(varint(stream_type))).is_ok());
        let error = connection.handle_uni(2, Bytes::copy_from_slice(&long[1..])).unwrap_err();
        assert_eq!(error.code, Code::StreamCreationError);
    }
}

#[test]
fn closing_a_critical_stream_is_a_connection_error() {
    for stream_type in [CONTROL, ENCODER, DECODER] {
        let mut connection = Connection::new(&SETTINGS);
        connection.handle_uni(STREAM, Bytes::from(varint(stream_type))).unwrap();
        let error = connection.handle_uni_end(STREAM).unwrap_err();
        assert_eq!(error.code, Code::ClosedCriticalStream);
    }
    // A stream may end before its type is complete or without any byte.
    let mut connection = Connection::new(&SETTINGS);
    connection.handle_uni(STREAM, Bytes::from_static(&[0x40])).unwrap();
    assert_eq!(connection.handle_uni_end(STREAM), Ok(()));
    assert_eq!(connection.handle_uni_end(6), Ok(()));
}

#[test]
fn the_number_of_streams_without_a_type_is_bounded() {
    let mut connection = Connection::new(&SETTINGS);
    let codes: Vec<_> = (0..100)
        .map(|n| connection.handle_uni(4 * n + 2, Bytes::from_static(&[0x40])))
        .filter_map(|outcome| outcome.err().map(|error| error.code))
        .collect();
    assert_eq!(codes.first(), Some(&Code::ExcessiveLoad));
    // Streams that are refused or end leave no state behind.
    let mut connection = Connection::new(&SETTINGS);
    for n in 0..10_000 {
        let verdict = connection.handle_uni(4 * n + 2, Bytes::from(varint(GREASE)));
        assert_eq!(verdict, Ok(UniVerdict::StopSending(Code::StreamCreationError)));
    }
}

#[test]
fn an_unknown_control_frame_of_any_length_is_discarded_without_buffering() {
    let mut connection = Connection::new(&SETTINGS);
    let begin = control(&[], &[&varint(GREASE)[..], &[0xff; 8]].concat());
    connection.handle_uni(STREAM, Bytes::from(begin)).unwrap();
    for _ in 0..1000 {
        let chunk = Bytes::from(vec![0x04; 65_536]);
        assert_eq!(connection.handle_uni(STREAM, chunk.clone()), Ok(UniVerdict::Continue));
        assert!(chunk.is_unique());
    }
}

#[test]
fn the_peers_settings_and_goaway_are_accepted() {
    let mut connection = Connection::new(&SETTINGS);
    let bytes = control(&[0x06, 12_345], &frame(0x07, &varint(77)));
    connection.handle_uni(STREAM, Bytes::from(bytes)).unwrap();
    let lower = connection.handle_uni(STREAM, Bytes::from(frame(0x07, &varint(76))));
    assert_eq!(lower, Ok(UniVerdict::Continue));
    let higher = connection.handle_uni(STREAM, Bytes::from(frame(0x07, &varint(77))));
    assert_eq!(higher.unwrap_err().code, Code::IdError, "the GOAWAY of 76 was remembered");
}

#[test]
fn our_control_stream_has_the_rfc_format() {
    let mut connection = Connection::new(&SETTINGS);
    let preface = connection.control_preface();
    // Type 0x00, then SETTINGS: type, length, and pairs of varints to the end.
    assert_eq!(preface[..2], [0x00, 0x04]);
    assert_eq!(usize::from(preface[2]), preface.len() - 3);
    assert_eq!(preface[3..10], [0x01, 0, 0x06, 0x80, 0x00, 0x40, 0x00], "capacity 0; 16 KiB");
    assert_eq!(preface[10..12], [0x07, 0], "no blocked streams");
    let grease = u64::from_be_bytes(preface[12..20].try_into().unwrap()) & (u64::MAX >> 2);
    assert_eq!((grease - 0x21) % 0x1f, 0);
    assert_eq!(preface[20..], [0]);
    // Our own implementation accepts it as a peer.
    let mut peer = Connection::new(&SETTINGS);
    assert_eq!(peer.handle_uni(3, preface), Ok(UniVerdict::Continue));

    assert_eq!(&connection.goaway(400)[..], [0x07, 0x02, 0x41, 0x90]);
    assert_eq!(&connection.goaway(8)[..], [0x07, 0x01, 0x08]);
    assert_eq!(&connection.goaway(400)[..], [0x07, 0x01, 0x08], "GOAWAY ids never increase");
}
