//! Compressed certificates (RFC 8879): what a client gets that offers it, and what it saves.

use rustls::compress::{self, CertDecompressor};

use super::*;

/// Returns the bytes that a server sends in a handshake with a client that offers these.
fn sent_len(site: &Site, offered: &[&'static dyn CertDecompressor]) -> usize {
    let mut client = site.client_config(TlsVersion::Tls13);
    client.alpn_protocols = Vec::new();
    client.cert_decompressors = offered.to_vec();
    let mut client = client_of(client);
    let mut server = ServerConnection::new(site.tls.config()).unwrap();
    let mut sent_len = 0;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        sent_len += bytes.len();
        let mut unread = &bytes[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    sent_len
}

#[test]
fn a_certificate_is_compressed_once_for_all_clients_that_take_it() {
    let names: Vec<String> = (0..40).map(|number| format!("host-{number}.example.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain([HOST]).collect();
    let made = TestCertificate::new(&names);
    let files = Files::new(&made.chain_pem, &made.key_pem);
    let tls = ServerTls::load(&[files.certificate(&[exact(HOST)])], Tls::default()).unwrap();
    let tcp = tls.config_tcp(ALPN, TlsVersion::Tls12, EarlyData::Off, None).unwrap();
    let certificate_len = made.der.len();
    let site = Site { tls, tcp, root: made.der, files };
    let compression_count =
        || format!("{:?}", site.tls.shared.compressions).matches("CompressionCacheEntry").count();
    let lens = || {
        [&[][..], &[compress::BROTLI_DECOMPRESSOR], &[compress::ZLIB_DECOMPRESSOR]]
            .map(|offered| sent_len(&site, offered))
    };
    let [plain, brotli, zlib] = lens();
    assert_eq!(compression_count(), 2, "one for each compression");
    lens();
    let mut pair = open_pair(&site, TlsVersion::Tls13);
    pair.run().unwrap();
    assert_eq!(compression_count(), 2, "also for TCP, and for the settings of each worker");
    assert!(plain > certificate_len, "{plain}");
    // About 1,500 bytes, of which half are left.
    let saved = certificate_len / 2;
    assert!(brotli + saved < plain && zlib + saved < plain, "{plain}, {brotli}, {zlib}");
    let decompressors = &site.tls.config().cert_decompressors;
    assert!(decompressors.is_empty(), "clients' certificates come as they are");
}
