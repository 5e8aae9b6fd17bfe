//! QPACK against the RFC's examples and against the `qpack` crate, in both directions.

use ::qpack::{HeaderField, decode_stateless, encode_stateless};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ringway::testing::http3::name_bytes;
use ringway::testing::internal::http3::qpack::{SectionError, SectionReader, encode, static_table};
use ringway::testing::internal::http3::{
    Code, Connection, encode_data_header, encode_response_head, encode_trailers,
};

use crate::{SETTINGS, varint};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn decode(section: &[u8]) -> Result<Pairs, SectionError> {
    let mut reader = SectionReader::new(section, 1 << 20)?;
    let mut pairs = Vec::new();
    while let Some(line) = reader.next_line()? {
        pairs.push((name_bytes(&line.name).to_vec(), line.value.into_bytes().to_vec()));
    }
    Ok(pairs)
}

fn encode(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::put_prefix(&mut out);
    for (name, value) in pairs {
        encode::put_line(std::str::from_utf8(name).unwrap(), value, false, &mut out);
    }
    out.to_vec()
}

fn oracle_decode(section: &[u8]) -> Pairs {
    let decoded = decode_stateless(&mut &section[..], 1 << 30).expect("the oracle can decode it");
    decoded.fields.into_iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
}

fn oracle_encode(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = pairs.iter().map(|(name, value)| HeaderField::new(&name[..], &value[..]));
    encode_stateless(&mut out, fields).unwrap();
    out
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn rfc_9204_example_b_1_is_decoded() {
    let section = hex("0000 510b 2f69 6e64 6578 2e68 746d 6c");
    assert_eq!(decode(&section).unwrap(), [(b":path".to_vec(), b"/index.html".to_vec())]);
}

#[test]
fn the_other_examples_need_a_dynamic_table_and_are_refused() {
    // B.2 and B.4: sections.
    for section in ["0381 1011", "0500 80c1 81"] {
        assert!(matches!(decode(&hex(section)), Err(SectionError::Invalid(_))), "{section}");
    }
    // B.2 to B.5: encoder instructions; decoder instructions.
    let cases = [
        (0x02, "3fbd 01", Err(Code::QpackEncoderStreamError)),
        (0x02, "c00f 7777 772e 6578 616d 706c 652e 636f 6d", Err(Code::QpackEncoderStreamError)),
        (0x02, "4a63 7573 746f 6d2d 6b65 79", Err(Code::QpackEncoderStreamError)),
        (0x02, "02", Err(Code::QpackEncoderStreamError)),
        (0x02, "810d 6375 7374 6f6d", Err(Code::QpackEncoderStreamError)),
        (0x03, "84", Err(Code::QpackDecoderStreamError)),
        (0x03, "01", Err(Code::QpackDecoderStreamError)),
        // B.4: the stream cancellation of stream 8 is a separate instruction.
        (0x03, "48", Ok(())),
    ];
    for (stream_type, bytes, expected) in cases {
        let mut connection = Connection::new(&SETTINGS);
        let bytes = [varint(stream_type), hex(bytes)].concat();
        let outcome = connection.handle_uni(2, Bytes::from(bytes));
        assert_eq!(outcome.map(|_| ()).map_err(|error| error.code), expected);
    }
}

#[test]
fn the_static_table_matches_the_oracle() {
    for index in 0..static_table::LEN {
        let mut section = BytesMut::from(&[0, 0][..]);
        ringway::testing::internal::http3::qpack::integer::write(
            0xc0,
            6,
            index as u64,
            &mut section,
        );
        let pairs = decode(&section).unwrap();
        assert_eq!(pairs, oracle_decode(&section), "entry {index}");
        // Each entry is also found by its name and value.
        assert_eq!(encode(&pairs), section, "entry {index}");
    }
    assert!(static_table::get(static_table::LEN as u64).is_none());
    for absent in ["", "x", "accept-", "access-control-allow-metho", "content-typf", "host"] {
        assert_eq!(static_table::find_name(absent), None);
    }
}

#[test]
fn every_byte_is_huffman_coded_as_by_the_oracle() {
    for byte in 0..=255u8 {
        // After enough zeros the Huffman code is the shorter form, whatever the byte.
        let value = [&[b'0'; 64][..], &[byte; 3]].concat();
        let pairs = [(b"x-y".to_vec(), value)];
        assert_eq!(oracle_decode(&encode(&pairs)), pairs);
        assert_eq!(decode(&oracle_encode(&pairs)).unwrap(), pairs);
    }
}

/// Returns common and unusual names and values.
fn random_pairs(rng: &mut SmallRng) -> Pairs {
    const NAMES: &[&str] = &[
        ":path",
        ":status",
        ":authority",
        "accept",
        "content-type",
        "cookie",
        "x-frame-options",
        "access-control-allow-headers",
        "vary",
        "x",
        "x-request-id",
        "sec-ch-ua-platform",
    ];
    const VALUES: &[&str] = &[
        "",
        "/",
        "200",
        "404",
        "*/*",
        "text/css",
        "deny",
        "accept-encoding",
        "origin",
        "gzip",
        "Mon, 21 Oct 2013 20:13:21 GMT",
        "\"Chromium\";v=\"130\"",
    ];
    let bytes = |rng: &mut SmallRng, range: std::ops::RangeInclusive<u8>| -> Vec<u8> {
        let len =
            if rng.random_bool(0.1) { rng.random_range(0..700) } else { rng.random_range(0..40) };
        (0..len).map(|_| rng.random_range(range.clone())).collect()
    };
    (0..rng.random_range(0..30))
        .map(|_| {
            let name = match rng.random_range(0..3) {
                0 => bytes(rng, b'a'..=b'z'),
                _ => NAMES[rng.random_range(0..NAMES.len())].as_bytes().to_vec(),
            };
            let value = match rng.random_range(0..4) {
                0 => bytes(rng, 0..=255),
                1 => bytes(rng, b' '..=b'~'),
                _ => VALUES[rng.random_range(0..VALUES.len())].as_bytes().to_vec(),
            };
            (name, value)
        })
        .collect()
}

#[test]
fn random_sections_agree_with_the_oracle_in_both_directions() {
    let mut rng = SmallRng::seed_from_u64(0x9204);
    for _ in 0..3000 {
        let pairs = random_pairs(&mut rng);
        let section = encode(&pairs);
        assert_eq!(oracle_decode(&section), pairs);
        assert_eq!(decode(&section).unwrap(), pairs);
        assert_eq!(decode(&oracle_encode(&pairs)).unwrap(), pairs);
        // emit(parse(x)) == x, and never longer than the oracle's, which always uses Huffman.
        assert_eq!(encode(&decode(&section).unwrap()), section);
        assert!(section.len() <= oracle_encode(&pairs).len());
    }
}

#[test]
fn a_truncated_section_is_an_error_or_a_shorter_section() {
    let mut rng = SmallRng::seed_from_u64(0x9205);
    for _ in 0..100 {
        let pairs = random_pairs(&mut rng);
        let section = encode(&pairs);
        for cut in 0..section.len() {
            match decode(&section[..cut]) {
                Ok(fewer) => assert_eq!(fewer, pairs[..fewer.len()]),
                Err(error) => assert!(matches!(error, SectionError::Invalid(_))),
            }
        }
    }
}

/// Returns the payload of the single HEADERS frame in `bytes`, without using our own reader.
fn headers_payload(bytes: &[u8]) -> &[u8] {
    assert_eq!(bytes[0], 0x01);
    let (len, at) = match bytes[1] >> 6 {
        1 => (usize::from(u16::from_be_bytes([bytes[1] & 0x3f, bytes[2]])), 3),
        2 => (u32::from_be_bytes([bytes[1] & 0x3f, bytes[2], bytes[3], bytes[4]]) as usize, 5),
        other => panic!("unexpected length encoding {other}"),
    };
    assert_eq!(bytes.len(), at + len);
    &bytes[at..]
}

#[test]
fn the_oracle_decodes_our_responses() {
    for status in 100..=999 {
        let status = StatusCode::from_u16(status).unwrap();
        for value_len in [0, 20, 16_000, 16_383, 16_384, 40_000] {
            // Bytes that Huffman coding does not shorten, so that the length is as given.
            let value = HeaderValue::from_bytes(&b"X".repeat(value_len)).unwrap();
            if value_len > 20 && status != StatusCode::OK {
                continue;
            }
            let fields = [
                (HeaderName::from_static("server"), HeaderValue::from_static("ringway")),
                (HeaderName::from_static("x-long"), value),
            ];
            let mut out = BytesMut::from(&b"before"[..]);
            encode_response_head(status, &fields, &mut out);
            assert_eq!(&out[..6], b"before");
            let pairs = oracle_decode(headers_payload(&out[6..]));
            assert_eq!(pairs[0], (b":status".to_vec(), status.as_str().as_bytes().to_vec()));
            assert_eq!(pairs[1], (b"server".to_vec(), b"ringway".to_vec()));
            assert_eq!(pairs[2], (b"x-long".to_vec(), b"X".repeat(value_len)));
            assert_eq!(pairs.len(), 3);
        }
    }
}

#[test]
fn a_frame_length_is_encoded_in_two_or_four_bytes() {
    let name = HeaderName::from_static("x-long");
    let forms: Vec<_> = (16_350..16_390)
        .map(|value_len| {
            let value = HeaderValue::from_bytes(&b"X".repeat(value_len)).unwrap();
            let mut out = BytesMut::new();
            encode_trailers(&[(name.clone(), value)], &mut out);
            let section = headers_payload(&out);
            assert_eq!(oracle_decode(section)[0].1.len(), value_len);
            (section.len(), out[1] >> 6)
        })
        .collect();
    assert!(forms.contains(&(16_383, 1)) && forms.contains(&(16_384, 2)), "{forms:?}");
}

#[test]
fn trailers_and_data_frame_headers_are_encoded() {
    let fields = [(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))];
    let mut out = BytesMut::new();
    encode_trailers(&fields, &mut out);
    assert_eq!(oracle_decode(headers_payload(&out)), [(b"x-sum".to_vec(), b"42".to_vec())]);
    for len in [0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
        let mut out = BytesMut::new();
        encode_data_header(len, &mut out);
        assert_eq!(out[..], [&[0][..], &varint(len)].concat());
    }
}

#[test]
fn sensitive_values_are_never_indexed() {
    let mut value = HeaderValue::from_static("deny");
    value.set_sensitive(true);
    let mut out = BytesMut::from(&[0, 0][..]);
    encode::put_field(&HeaderName::from_static("x-frame-options"), &value, &mut out);
    // 01 N T: a literal with a name reference, although name and value are in the table.
    assert_eq!(out[2] & 0xf0, 0b0111_0000);
    let mut reader = SectionReader::new(&out, 1000).unwrap();
    let line = reader.next_line().unwrap().unwrap();
    assert!(line.never_indexed);
    assert_eq!(&line.value.into_bytes()[..], b"deny");
}
