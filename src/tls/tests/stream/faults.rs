//! Peers that break the rules of TLS, or refuse ours: the alerts that they get, the reasons that
//! are counted, and the bytes that are held meanwhile.

use ::aws_lc_rs::aead;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error};

use super::super::super::stream::begins_like_http;
use super::*;
use crate::limits::TLS_HANDSHAKE_HELD_LEN_MAX;
use crate::metrics::HandshakeFailure;

/// Returns the alert that a client got.
pub(super) fn alert_to_peer(pair: &mut Pair) -> AlertDescription {
    for piece in pair.stream.take_output() {
        pair.peer.read_tls(&mut &piece[..]).unwrap();
    }
    match pair.peer.process_new_packets() {
        Err(Error::AlertReceived(alert)) => alert,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_record_ends_the_stream_with_an_alert_after_what_came_before() {
    let site = Site::new();
    for version in BOTH_VERSIONS {
        let mut pair = open_pair(&site, version);
        pair.peer.writer().write_all(b"good").unwrap();
        let mut bytes = written_by(&mut pair.peer);
        pair.peer.writer().write_all(b"bad").unwrap();
        bytes.extend(written_by(&mut pair.peer));
        *bytes.last_mut().unwrap() ^= 1;
        pair.stream.receive(BytesMut::from(&bytes[..]));
        let data = TlsEvent::Data(Bytes::from_static(b"good"));
        assert_eq!(pair.stream.poll(), Ok(Some(data)));
        let fault = TlsFault::Protocol(Error::DecryptError);
        assert_eq!(pair.stream.poll(), Err(fault.clone()));
        assert_eq!(pair.stream.poll(), Err(fault.clone()), "it stays");
        assert_eq!(pair.stream.write(&mut VecDeque::new(), 1), Err(fault));
        assert_eq!(alert_to_peer(&mut pair), AlertDescription::BadRecordMac);
        assert_eq!(pair.stream.handle_end(), StreamEnd::Truncated);
        pair.stream.close();
        assert!(pair.stream.take_output().is_empty());
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_by_its_header() {
    let site = Site::new();
    let mut pair = open_pair(&site, TlsVersion::Tls13);
    let len = u16::try_from(16_384 + 2049).unwrap().to_be_bytes();
    pair.stream.receive(BytesMut::from(&[23, 3, 3, len[0], len[1]][..]));
    let fault = pair.stream.poll().unwrap_err();
    assert!(fault.to_string().contains("not valid TLS"), "{fault}");
    assert_eq!(alert_to_peer(&mut pair), AlertDescription::DecodeError);
}

#[test]
fn bytes_that_are_not_tls_are_refused_at_once() {
    let site = Site::new();
    // A header of no known type, that announces more than will come.
    let mut stream = site.tcp.accept().unwrap();
    stream.receive(BytesMut::from(&[99, 3, 1, 1, 0, 0][..]));
    let fault = stream.poll().unwrap_err();
    assert_eq!(fault.reason(), HandshakeFailure::Other);
    assert_eq!(stream.take_output(), [Bytes::from_static(&[21, 3, 3, 0, 2, 2, 50])]);
}

#[test]
fn plain_http_is_noticed_and_gets_no_alert() {
    let site = Site::new();
    for (first, cut) in [
        ("GET / HTTP/1.1\r\n\r\n", Cut::Whole),
        ("POST /form HTTP/1.1\r\n", Cut::Bytes),
        ("OPTIONS * HTTP/1.1\r\n", Cut::Random(1)),
        ("PRI * HTTP/2.0\r\n", Cut::Bytes),
    ] {
        let mut stream = site.tcp.accept().unwrap();
        assert!(begins_like_http(first.as_bytes()));
        let outcomes: Vec<_> = cut
            .cut(first.as_bytes())
            .into_iter()
            .map(|piece| {
                stream.receive(piece);
                stream.poll()
            })
            .collect();
        assert_eq!(outcomes.last(), Some(&Err(TlsFault::PlainHttp)), "{first}");
        assert!(stream.take_output().is_empty());
    }
    assert!(!begins_like_http(&[22, 3, 1, 2]) && !begins_like_http(b"GET"));
}

/// Returns the fault of a handshake with `client`.
fn refused(site: &Site, client: Connection) -> (TlsFault, AlertDescription) {
    let mut pair = Pair::new(site.tcp.accept().unwrap(), client, Cut::Whole);
    let fault = pair.feed_stream().unwrap_err();
    (fault, alert_to_peer(&mut pair))
}

#[test]
fn a_protocol_is_chosen_by_the_servers_preference_or_refused() {
    let site = Site::new();
    let with = |alpn: &[&[u8]]| {
        let mut config = site.client_config(TlsVersion::Tls13);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        client_of(config)
    };
    for (offered, chosen) in [
        (&[][..], None),
        (&[&b"http/1.1"[..]][..], Some(&b"http/1.1"[..])),
        (&[b"spdy/1", b"http/1.1", b"h2"], Some(b"h2")),
    ] {
        let mut pair = Pair::new(site.tcp.accept().unwrap(), with(offered), Cut::Whole);
        assert_eq!(pair.handshake().alpn.as_deref(), chosen);
    }
    let (fault, alert) = refused(&site, with(&[b"h3"]));
    assert_eq!(fault.reason(), HandshakeFailure::NoSharedProtocol);
    assert_eq!(alert, AlertDescription::NoApplicationProtocol);
}

#[test]
fn an_old_version_is_refused_if_configured() {
    let mut site = Site::new();
    site.tcp = site.tls.config_tcp(ALPN, TlsVersion::Tls13, EarlyData::Off, None).unwrap();
    let (fault, alert) = refused(&site, site.client(TlsVersion::Tls12));
    assert_eq!(fault.reason(), HandshakeFailure::NoSharedParameters);
    assert_eq!(alert, AlertDescription::ProtocolVersion);
    assert!(fault.to_string().contains("no TLS version or parameters in common"), "{fault}");
}

#[test]
fn an_unknown_name_has_its_reason() {
    let refuse = UnknownServerName::Refuse;
    let site = Site::with(Tls { unknown_server_name: refuse, ..Tls::default() });
    let config = Arc::new(site.client_config(TlsVersion::Tls13));
    let name = ServerName::try_from("other.test").unwrap();
    let (fault, alert) = refused(&site, ClientConnection::new(config, name).unwrap().into());
    assert_eq!(fault.reason(), HandshakeFailure::UnknownServerName);
    assert_eq!(alert, AlertDescription::AccessDenied);
    assert!(fault.to_string().contains("no certificate for the name"), "{fault}");
}

#[test]
fn a_client_that_refuses_the_certificate_says_so() {
    let (site, other) = (Site::new(), Site::new());
    for version in BOTH_VERSIONS {
        let client = other.client(version);
        let mut pair = Pair::new(site.tcp.accept().unwrap(), client, Cut::Random(1));
        let fault = pair.run().unwrap_err();
        assert_eq!(fault.reason(), HandshakeFailure::CertificateRejected, "{version:?}");
        assert!(fault.to_string().starts_with("the peer sent the alert "), "{fault}");
    }
}

/// Cuts the handshake records in `bytes` into records of `len` bytes.
fn small_records(bytes: &[u8], len: usize) -> Vec<u8> {
    assert_eq!(bytes[0], 22);
    assert_eq!(bytes.len(), 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]])));
    let records = bytes[5..].chunks(len).flat_map(|payload| {
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[22, 3, 1, len[0], len[1]], payload].concat()
    });
    records.collect()
}

#[test]
fn a_hello_may_come_in_records_of_one_byte() {
    let site = Site::new();
    for version in BOTH_VERSIONS {
        for cut in [Cut::Whole, Cut::Bytes] {
            let mut client = site.client(version);
            let hello = small_records(&written_by(&mut client), 1);
            let mut pair = Pair::new(site.tcp.accept().unwrap(), client, cut);
            for piece in cut.cut(&hello) {
                pair.stream.receive(piece);
                assert_eq!(pair.stream.poll(), Ok(None));
            }
            pair.feed_peer();
            assert_eq!(pair.handshake().server_name.as_deref(), Some(HOST));
        }
    }
}

#[test]
fn half_a_handshake_holds_no_more_than_its_bound() {
    let site = Site::new();
    // The head of a ClientHello of 60,000 bytes that never ends.
    let hello = [&[1, 0, 0xea, 0x60][..], &[0; 59_000]].concat();
    for len in [1, 7, 100, 16_384] {
        let mut stream = site.tcp.accept().unwrap();
        let mut held_len_max = 0;
        let mut outcome = Ok(None);
        for payload in hello.chunks(len) {
            let size = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let record = [&[22, 3, 1, size[0], size[1]], payload].concat();
            stream.receive(BytesMut::from(&record[..]));
            outcome = stream.poll();
            held_len_max = held_len_max.max(stream.held_len());
            if outcome.is_err() {
                break;
            }
        }
        // Buffers that grow have up to twice their length; the message is kept a second time until
        // the server name is read.
        assert!(held_len_max <= 4 * TLS_HANDSHAKE_HELD_LEN_MAX, "{len}: {held_len_max}");
        let expected = if len < 100 { Err(TlsFault::HandshakeInSmallPieces) } else { Ok(None) };
        assert_eq!(outcome, expected, "{len}");
    }
    let mut stream = site.tcp.accept().unwrap();
    // One byte of a record: the bound is a record, and it is one record only.
    stream.receive(BytesMut::from(&[22, 3, 1, 64, 0, 1][..]));
    assert_eq!(stream.poll(), Ok(None));
    assert!(stream.held_len() <= 5 + 16_384 + 5, "{}", stream.held_len());
}

/// Returns a record of TLS 1.3 that the client might send next, with this content.
fn sealed(client: rustls::ClientConnection, content: &[u8], kind: u8) -> Vec<u8> {
    let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let (algorithm, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            (&aead::CHACHA20_POLY1305, key, iv)
        }
        other => panic!("unknown secrets: {}", std::any::type_name_of_val(&other)),
    };
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key.as_ref()).unwrap());
    let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
    nonce[4..].iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, of)| *byte ^= of);
    let mut sealed = [content, &[kind]].concat();
    let len = u16::try_from(sealed.len() + algorithm.tag_len()).unwrap().to_be_bytes();
    let header = [23, 3, 3, len[0], len[1]];
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(header), &mut sealed).unwrap();
    [&header[..], &sealed].concat()
}

/// rustls keeps the place of the message's beginning, and looks there whenever it is called.
#[test]
fn a_connection_may_end_within_a_handshake_message() {
    const KEY_UPDATE: u8 = 24;
    const HANDSHAKE: u8 = 22;
    let site = Site::new();
    let mut config = site.client_config(TlsVersion::Tls13);
    config.enable_secret_extraction = true;
    let mut pair = Pair::new(site.tcp.accept().unwrap(), client_of(config), Cut::Whole);
    pair.handshake();
    let Connection::Client(client) = pair.peer else { unreachable!("a client") };
    let mut stream = pair.stream;
    stream.receive(BytesMut::from(&sealed(client, &[KEY_UPDATE], HANDSHAKE)[..]));
    assert_eq!(stream.poll(), Ok(None));
    assert_eq!(stream.handle_end(), StreamEnd::Truncated);
    assert_eq!(stream.write(&mut pieces(b"the rest of a response", 100), 100).unwrap(), 22);
    stream.close();
    assert_eq!(stream.take_output().len(), 1);
}
