//! Field sections of one request and one response (RFC 9204, static table only).

use bytes::{Bytes, BytesMut};
use divan::{Bencher, black_box};
use http::{HeaderName, HeaderValue, StatusCode, header};
use ringway::testing::internal::http3::{
    LocalSettings, RequestEvent, RequestStream, encode_response_head,
};

use crate::client::{REQUEST, request_frame};

fn response_fields() -> Vec<(HeaderName, HeaderValue)> {
    let text = HeaderValue::from_static;
    vec![
        (header::DATE, text("Tue, 24 Nov 2026 12:00:00 GMT")),
        (header::CONTENT_TYPE, text("text/javascript; charset=utf-8")),
        (header::CONTENT_LENGTH, text("48213")),
        (header::CACHE_CONTROL, text("public, max-age=31536000, immutable")),
        (header::ETAG, text("\"5f3b-61a2c0\"")),
        (header::VARY, text("accept-encoding")),
        (header::STRICT_TRANSPORT_SECURITY, text("max-age=63072000")),
        (header::SERVER, text("origin")),
    ]
}

/// Decodes one request with ten field lines, from the frame's bytes to a validated head.
#[divan::bench(sample_size = 100)]
fn decode_request(bencher: Bencher<'_, '_>) {
    let settings = LocalSettings { field_section_len_max: 64 * 1024, field_count_max: 100 };
    let frame: Bytes = request_frame();
    bencher.with_inputs(|| frame.clone()).bench_local_values(|frame| {
        let mut stream = RequestStream::default();
        stream.handle(frame);
        let Ok(Some(RequestEvent::Head(head))) = stream.poll(&settings) else {
            panic!("expected a complete head")
        };
        // Pseudo-header fields are kept separately.
        assert_eq!(head.fields.len(), REQUEST.len() - 4);
        head
    });
}

/// Encodes one response head with `:status` and eight field lines into a buffer with room.
#[divan::bench(sample_size = 100)]
fn encode_response(bencher: Bencher<'_, '_>) {
    let fields = response_fields();
    let mut out = BytesMut::with_capacity(1024);
    bencher.bench_local(move || {
        out.clear();
        encode_response_head(StatusCode::OK, &fields, black_box(&mut out));
        assert!(out.len() > 100);
    });
}
