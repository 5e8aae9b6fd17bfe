//! Message headers: those that the kernel writes before a received datagram, and those that it
//! reads for a send.
//!
//! The layout of a datagram in a slot, by a multishot receive:
//!
//! ```text
//!  | lengths, flags | peer's address | control data | payload ...
//!  0               16               48            192
//! ```

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use crate::host::address::SockAddr;

const LENGTHS_LEN: usize = 16;
const NAME_LEN: usize = 32;
const CONTROL_LEN: usize = 144;

/// Length of the header before the payload of a received datagram.
pub(super) const HEADER_LEN: usize = LENGTHS_LEN + NAME_LEN + CONTROL_LEN;

const CMSG_HEADER_LEN: usize = mem::size_of::<libc::cmsghdr>();
const CMSG_ALIGN: usize = mem::align_of::<libc::cmsghdr>();

const _: () = assert!(HEADER_LEN == 192);
const _: () = assert!(NAME_LEN >= mem::size_of::<libc::sockaddr_in6>());
// Control data begins aligned when the slot is: packet info, traffic class, GRO, with headers.
const _: () = assert!((LENGTHS_LEN + NAME_LEN).is_multiple_of(CMSG_ALIGN));
const _: () = assert!(CONTROL_LEN >= (CMSG_HEADER_LEN + 24) + 2 * (CMSG_HEADER_LEN + 8));

/// Returns a header that points to nothing.
pub(super) fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is made of integers and raw pointers, for which all-zero is a value.
    unsafe { mem::zeroed() }
}

/// Returns the header that a multishot receive is armed with; the kernel uses only its lengths.
pub(super) fn receive_header() -> Box<libc::msghdr> {
    let mut header = empty_header();
    header.msg_namelen = NAME_LEN as libc::socklen_t;
    header.msg_controllen = CONTROL_LEN;
    Box::new(header)
}

/// The parsed header of a received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) source: SocketAddr,
    pub(super) destination: Option<IpAddr>,
    pub(super) ecn: u8,
    pub(super) segment_len: usize,
    pub(super) payload_len: usize,
}

/// The reason why a received datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    Truncated,
    Empty,
    Unreadable,
}

/// Parses the header of a filled slot.
pub(super) fn read_arrival(slot: &[u8]) -> Result<Arrival, Unusable> {
    let (header, payload) = slot.split_at_checked(HEADER_LEN).ok_or(Unusable::Unreadable)?;
    let number = |at: usize| {
        let bytes = header[at..].first_chunk().expect("the header is longer than its lengths");
        u32::from_ne_bytes(*bytes)
    };
    let (name_len, control_len) = (number(0) as usize, number(4) as usize);
    let (payload_len, flags) = (number(8) as usize, number(12).cast_signed());
    if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || payload_len > payload.len() {
        return Err(Unusable::Truncated);
    }
    if payload_len == 0 {
        return Err(Unusable::Empty);
    }
    let name = &header[LENGTHS_LEN..][..name_len.min(NAME_LEN)];
    let source = SockAddr::parse(name).ok_or(Unusable::Unreadable)?;
    let control = &header[LENGTHS_LEN + NAME_LEN..][..control_len.min(CONTROL_LEN)];
    let mut arrival = Arrival { source, destination: None, ecn: 0, segment_len: 0, payload_len };
    read_control(control, &mut arrival);
    if arrival.segment_len == 0 || arrival.segment_len > payload_len {
        arrival.segment_len = payload_len;
    }
    Ok(arrival)
}

fn read_control(mut control: &[u8], arrival: &mut Arrival) {
    while control.len() >= CMSG_HEADER_LEN {
        let len = usize::from_ne_bytes(*control.first_chunk().expect("a header's length"));
        let number = |at: usize| {
            i32::from_ne_bytes(*control[at..].first_chunk().expect("within the header"))
        };
        let (level, kind) =
            (number(mem::offset_of!(libc::cmsghdr, cmsg_level)), number(CMSG_HEADER_LEN - 4));
        if len < CMSG_HEADER_LEN || len > control.len() {
            return;
        }
        let value = &control[CMSG_HEADER_LEN..len];
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                arrival.ecn = value.first().map_or(0, |tos| tos & 0b11);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                arrival.ecn = value
                    .first_chunk()
                    .map_or(0, |class| (i32::from_ne_bytes(*class) & 0b11) as u8);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // in_pktinfo: interface, local address, the header's destination address.
                let ip: Option<&[u8; 4]> = value.get(8..).and_then(|rest| rest.first_chunk());
                arrival.destination = ip.map(|ip| Ipv4Addr::from(*ip).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip: Option<&[u8; 16]> = value.first_chunk();
                arrival.destination = ip.map(|ip| Ipv6Addr::from(*ip).into());
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let len = value.first_chunk().map_or(0, |len| i32::from_ne_bytes(*len));
                arrival.segment_len = usize::try_from(len).unwrap_or(0);
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(CMSG_ALIGN)..).unwrap_or(&[]);
    }
}

/// The addresses and the ECN bits of datagrams to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) destination: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) ecn: u8,
}

/// Packet info (IPv6: 16 + 20), traffic class (16 + 4) and segment length (16 + 2), each aligned.
const SEND_CONTROL_LEN: usize = 40 + 24 + 24;

/// A message header for a send with all that it points to, except the payload. The kernel reads
/// it until the completion: it must stay where it is from [`prepare`](SendMessage::prepare) on.
pub(super) struct SendMessage {
    header: libc::msghdr,
    piece: libc::iovec,
    name: SockAddr,
    control: [u64; SEND_CONTROL_LEN / 8],
    control_len: usize,
}

impl SendMessage {
    pub(super) fn new() -> SendMessage {
        SendMessage {
            header: empty_header(),
            piece: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            name: SockAddr::from(SocketAddr::from(([0, 0, 0, 0], 0))),
            control: [0; SEND_CONTROL_LEN / 8],
            control_len: 0,
        }
    }

    /// Fills in the header for `len` bytes at `payload`, cut into segments if a length is given.
    pub(super) fn prepare(
        &mut self,
        route: Route,
        payload: *const u8,
        len: usize,
        segment_len: Option<u16>,
    ) {
        self.name = SockAddr::from(route.destination);
        self.piece = libc::iovec { iov_base: payload.cast_mut().cast(), iov_len: len };
        self.control_len = 0;
        match (route.source, route.destination) {
            (Some(IpAddr::V4(source)), SocketAddr::V4(_)) => {
                let mut info = [0u8; 12];
                info[4..8].copy_from_slice(&source.octets());
                self.push_control(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            (Some(IpAddr::V6(source)), SocketAddr::V6(_)) => {
                let mut info = [0u8; 20];
                info[..16].copy_from_slice(&source.octets());
                self.push_control(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            _ => {}
        }
        if route.ecn != 0 {
            let class = i32::from(route.ecn & 0b11).to_ne_bytes();
            match route.destination {
                SocketAddr::V4(_) => self.push_control(libc::IPPROTO_IP, libc::IP_TOS, &class),
                SocketAddr::V6(_) => {
                    self.push_control(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
                }
            }
        }
        if let Some(len) = segment_len {
            self.push_control(libc::SOL_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes());
        }
        self.header.msg_name = self.name.as_ptr().cast_mut().cast();
        self.header.msg_namelen = self.name.len();
        self.header.msg_iov = &raw mut self.piece;
        self.header.msg_iovlen = 1;
        self.header.msg_control = match self.control_len {
            0 => ptr::null_mut(),
            _ => (&raw mut self.control).cast(),
        };
        self.header.msg_controllen = self.control_len;
    }

    /// Returns the header for the kernel.
    pub(super) fn as_ptr(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    fn push_control(&mut self, level: i32, kind: i32, value: &[u8]) {
        let len = CMSG_HEADER_LEN + value.len();
        let words = &mut self.control[self.control_len / 8..][..len.div_ceil(8)];
        words.fill(0);
        let mut write = |at: usize, bytes: &[u8]| {
            for (offset, &byte) in bytes.iter().enumerate() {
                let word = &mut words[(at + offset) / 8];
                let mut whole = word.to_ne_bytes();
                whole[(at + offset) % 8] = byte;
                *word = u64::from_ne_bytes(whole);
            }
        };
        write(0, &len.to_ne_bytes());
        write(mem::offset_of!(libc::cmsghdr, cmsg_level), &level.to_ne_bytes());
        write(mem::offset_of!(libc::cmsghdr, cmsg_type), &kind.to_ne_bytes());
        write(CMSG_HEADER_LEN, value);
        self.control_len += len.next_multiple_of(CMSG_ALIGN);
    }

    #[cfg(test)]
    fn control_bytes(&self) -> Vec<u8> {
        self.control.iter().flat_map(|word| word.to_ne_bytes()).take(self.control_len).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// A slot as the kernel fills it, with the control data given.
    fn slot(source: &str, control: &[u8], payload: &[u8], flags: i32) -> Vec<u8> {
        let source = SockAddr::from(source.parse::<SocketAddr>().unwrap());
        let mut slot = Vec::new();
        for number in [source.len(), control.len() as u32, payload.len() as u32] {
            slot.extend_from_slice(&number.to_ne_bytes());
        }
        slot.extend_from_slice(&flags.to_ne_bytes());
        // SAFETY: `len` bytes of the address were written by its constructor.
        let name = unsafe {
            std::slice::from_raw_parts(source.as_ptr().cast::<u8>(), source.len() as usize)
        };
        slot.extend_from_slice(name);
        slot.resize(LENGTHS_LEN + NAME_LEN, 0);
        slot.extend_from_slice(control);
        slot.resize(HEADER_LEN, 0);
        slot.extend_from_slice(payload);
        slot
    }

    fn cmsg(level: i32, kind: i32, value: &[u8]) -> Vec<u8> {
        let mut bytes = (CMSG_HEADER_LEN + value.len()).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&level.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(CMSG_ALIGN), 0);
        bytes
    }

    #[test]
    fn control_data_is_read() {
        let four = [
            cmsg(libc::IPPROTO_IP, libc::IP_TOS, &[0x03]),
            cmsg(libc::IPPROTO_IP, libc::IP_PKTINFO, &[1, 0, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7]),
            cmsg(libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes()),
        ];
        let arrival =
            read_arrival(&slot("198.51.100.9:99", &four.concat(), &[0; 3000], 0)).unwrap();
        let expected = Arrival {
            source: "198.51.100.9:99".parse().unwrap(),
            destination: Some("192.0.2.7".parse().unwrap()),
            ecn: 3,
            segment_len: 1200,
            payload_len: 3000,
        };
        assert_eq!(arrival, expected);

        let mut info = [0u8; 20];
        info[15] = 1;
        let six = [
            cmsg(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info),
            cmsg(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0x72i32.to_ne_bytes()),
        ];
        let arrival = read_arrival(&slot("[2001:db8::2]:5", &six.concat(), &[0; 9], 0)).unwrap();
        assert_eq!(arrival.destination, Some("::1".parse().unwrap()));
        assert_eq!((arrival.ecn, arrival.segment_len), (2, 9));
    }

    #[test]
    fn what_cannot_be_used_is_told_apart() {
        let source = "192.0.2.1:1";
        let told = |slot: &[u8]| read_arrival(slot).unwrap_err();
        assert_eq!(told(&slot(source, &[], &[], 0)), Unusable::Empty);
        assert_eq!(told(&slot(source, &[], &[1], libc::MSG_TRUNC)), Unusable::Truncated);
        assert_eq!(told(&slot(source, &[], &[1], libc::MSG_CTRUNC)), Unusable::Truncated);
        let whole = slot(source, &[], &[1, 2, 3], 0);
        assert_eq!(told(&whole[..HEADER_LEN + 2]), Unusable::Truncated);
        assert_eq!(told(&whole[..HEADER_LEN - 1]), Unusable::Unreadable);
        let mut foreign = whole.clone();
        foreign[LENGTHS_LEN] = 99;
        assert_eq!(told(&foreign), Unusable::Unreadable);
        // An invalid segment length is no reason to lose a datagram.
        for len in [-1i32, 0, 4, i32::MAX] {
            let gro = cmsg(libc::SOL_UDP, libc::UDP_GRO, &len.to_ne_bytes());
            assert_eq!(read_arrival(&slot(source, &gro, &[1, 2, 3], 0)).unwrap().segment_len, 3);
        }
    }

    #[test]
    fn any_header_is_read_without_harm() {
        let mut random = SmallRng::seed_from_u64(1);
        let whole = slot("192.0.2.1:1", &cmsg(0, 8, &[0; 12]), &[5; 300], 0);
        for _ in 0..200_000 {
            let mut slot = whole.clone();
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..HEADER_LEN);
                slot[at] = random.random();
            }
            slot.truncate(random.random_range(0..=slot.len()));
            if let Ok(arrival) = read_arrival(&slot) {
                assert!(arrival.payload_len <= slot.len() - HEADER_LEN);
                assert!((1..=arrival.payload_len).contains(&arrival.segment_len));
            }
        }
    }

    #[test]
    fn a_sends_control_data_is_what_a_receive_reads() {
        let cases = [
            ("192.0.2.1:1", Some("10.0.0.1"), 2, Some(1200)),
            ("[2001:db8::1]:1", Some("2001:db8::2"), 1, Some(1)),
            ("192.0.2.1:1", Some("2001:db8::2"), 3, None),
            ("[2001:db8::1]:1", Some("10.0.0.1"), 0, Some(65_000)),
            ("192.0.2.1:1", None, 0, None),
        ];
        for (destination, source, ecn, segment_len) in cases {
            let destination: SocketAddr = destination.parse().unwrap();
            let source: Option<IpAddr> = source.map(|source| source.parse().unwrap());
            let heeded = source.filter(|source| source.is_ipv4() == destination.is_ipv4());
            let mut message = SendMessage::new();
            message.prepare(Route { destination, source, ecn }, ptr::null(), 9, segment_len);
            let mut control = message.control_bytes();
            assert_eq!(control.len(), message.header.msg_controllen);
            assert_eq!(message.header.msg_control.is_null(), control.is_empty());
            // The segment length goes by another name, and in two bytes.
            if let Some(len) = segment_len {
                let tail = cmsg(libc::SOL_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes());
                assert!(control.ends_with(&tail));
                control.truncate(control.len() - tail.len());
            }
            // The source is given as the local address, and told as the destination.
            if heeded.is_some_and(|source| source.is_ipv4()) {
                let (local, told) = control.split_at_mut(CMSG_HEADER_LEN + 8);
                told[..4].copy_from_slice(&local[CMSG_HEADER_LEN + 4..]);
            }
            let arrival = read_arrival(&slot("192.0.2.1:1", &control, &[0; 9], 0)).unwrap();
            assert_eq!((arrival.destination, arrival.ecn), (heeded, ecn));
        }
    }
}
