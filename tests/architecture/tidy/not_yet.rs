//! Files that still violate a rule. The aim is an empty list: a row is removed with its last
//! violation, and none is added.

/// (file, rule)
pub const NOT_YET: &[(&str, &str)] = &[
    ("docs/CONFORMANCE.md", "words"),
    ("src/base/slab.rs", "line-length"),
    ("src/config/model.rs", "doc-start"),
    ("src/gateway/budget.rs", "line-length"),
    ("src/gateway/connection.rs", "doc-start"),
    ("src/gateway/context.rs", "doc-start"),
    ("src/gateway/control_stream.rs", "doc-start"),
    ("src/gateway/drain.rs", "doc-start"),
    ("src/gateway/mod.rs", "doc-start"),
    ("src/gateway/mod.rs", "line-length"),
    ("src/gateway/response_queue.rs", "doc-start"),
    ("src/gateway/stream.rs", "doc-start"),
    ("src/http3/connection.rs", "doc-start"),
    ("src/http3/error.rs", "doc-start"),
    ("src/http3/frame.rs", "doc-start"),
    ("src/http3/frame_reader.rs", "doc-start"),
    ("src/http3/mod.rs", "doc-start"),
    ("src/http3/mod.rs", "line-length"),
    ("src/http3/qpack/decode.rs", "doc-start"),
    ("src/http3/qpack/huffman.rs", "doc-start"),
    ("src/message/mod.rs", "line-length"),
    ("src/metrics/broken_rules.rs", "doc-start"),
    ("src/worker/mod.rs", "doc-start"),
    ("src/worker/mod.rs", "words"),
    ("src/worker/report.rs", "doc-start"),
];
