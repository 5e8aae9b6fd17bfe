//! Random and damaged bytes: the result is always a verdict, never a panic, and the same however
//! the bytes are cut.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use ringway::testing::internal::http3::Connection;

use crate::*;

/// Returns a stream of mostly valid frames.
fn likely_stream(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = frame(HEADERS, &packed_section(GET));
    for _ in 0..rng.random_range(0..6) {
        let payload: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
        let piece = match rng.random_range(0..12) {
            0 => frame(rng.random_range(0..16), &payload),
            1 => frame(HEADERS, &payload),
            2 => frame(HEADERS, &packed_section(&[("x", b"y")])),
            3 => frame(0x1f * rng.random_range(0..1 << 40) + 0x21, &payload),
            _ => frame(DATA, &payload),
        };
        bytes.extend(piece);
    }
    bytes
}

fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = *[0x00, 0x3f, 0x7f, 0x80, 0xff].choose(rng).unwrap(),
            2 => bytes.insert(at, rng.random()),
            _ => drop(bytes.remove(at)),
        }
        if bytes.is_empty() {
            return;
        }
    }
}

fn cut(rng: &mut SmallRng, bytes: &[u8]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        chunks.push(rest.split_to(rng.random_range(0..=rest.len())));
    }
    chunks
}

#[test]
fn request_streams_give_the_same_result_however_they_are_cut() {
    let mut rng = SmallRng::seed_from_u64(0x9114);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = likely_stream(&mut rng);
        mutate(&mut rng, &mut bytes);
        let (whole_events, whole_end) = run_bytes(&bytes);
        let (events, end) = run(cut(&mut rng, &bytes), &SETTINGS);
        assert_eq!(end, whole_end, "{bytes:02x?}");
        assert_eq!(joined(events), joined(whole_events), "{bytes:02x?}");
        *(if end.is_ok() { &mut taken } else { &mut refused }) += 1;
    }
    // The test is meaningful only while both occur.
    assert!(taken > 2_000 && refused > 2_000, "{taken} accepted, {refused} refused");
}

#[test]
fn random_bytes_on_request_streams_cause_no_panic() {
    let mut rng = SmallRng::seed_from_u64(0x9115);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
        assert_eq!(run(cut(&mut rng, &bytes), &SETTINGS), run_bytes(&bytes), "{bytes:02x?}");
        // The same bytes as a field section in a frame, so that they all reach QPACK.
        let bytes = frame(HEADERS, &[&[0, 0][..], &bytes].concat());
        assert_eq!(run(cut(&mut rng, &bytes), &SETTINGS), run_bytes(&bytes), "{bytes:02x?}");
    }
}

#[test]
fn unidirectional_streams_give_the_same_result_however_they_are_cut() {
    let mut rng = SmallRng::seed_from_u64(0x9116);
    let mut continued = 0;
    for _ in 0..20_000 {
        let mut bytes = match rng.random_range(0..3) {
            0 => [&[0x00][..], &frame(0x04, &[6, 10, 0x21, 1])].concat(),
            1 => vec![0x02, 0x20],
            _ => vec![0x03, 0x44],
        };
        let noise: Vec<u8> = (0..rng.random_range(0..20)).map(|_| rng.random()).collect();
        bytes.extend(frame(*[GREASE, 0x07, 0x0d].choose(&mut rng).unwrap(), &noise));
        mutate(&mut rng, &mut bytes);
        let verdict = |chunks: Vec<Bytes>| {
            let mut connection = Connection::new(&SETTINGS);
            for chunk in chunks {
                match connection.handle_uni(2, chunk) {
                    Ok(ringway::testing::internal::http3::UniVerdict::Continue) => {}
                    other => return other,
                }
            }
            connection
                .handle_uni_end(2)
                .map(|()| ringway::testing::internal::http3::UniVerdict::Continue)
        };
        let whole = verdict(vec![Bytes::copy_from_slice(&bytes)]);
        assert_eq!(verdict(cut(&mut rng, &bytes)), whole, "{bytes:02x?}");
        continued += u32::from(whole.is_err_and(|error| error.rule == "the control stream ended"));
    }
    assert!(continued > 500, "{continued} control streams were read to their end");
}
