//! Bodies in which every byte identifies its body and position.

use bytes::{Bytes, BytesMut};

/// Length of a block: the tag (16), the block's number (8), filler derived from the tag.
const BLOCK_LEN: usize = 256;

/// The byte that a debug build writes over a freed slot.
const POISON: [u8; 8] = [0xDB; 8];

/// Identifies the bodies of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag([u8; 16]);

impl Tag {
    pub fn random() -> Tag {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        // No byte of it looks like poison.
        Tag(bytes.map(|byte| byte & 0x7F))
    }

    pub fn parse(text: &str) -> Tag {
        Tag(u128::from_str_radix(text, 16).expect("a tag in hex").to_be_bytes())
    }

    pub fn hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    fn template(self) -> [u8; BLOCK_LEN] {
        std::array::from_fn(|at| match at {
            0..16 => self.0[at],
            16..24 => 0,
            _ => self.0[at % 16] ^ (at as u8 & 0x7F),
        })
    }

    /// Returns `len` bytes of the body from `at` on.
    pub fn bytes(self, at: u64, len: usize) -> Bytes {
        let mut block = self.template();
        let first = at / BLOCK_LEN as u64;
        let skip = (at % BLOCK_LEN as u64) as usize;
        let mut out = BytesMut::with_capacity(len + 2 * BLOCK_LEN);
        for index in first.. {
            block[16..24].copy_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&block);
            if out.len() >= skip + len {
                break;
            }
        }
        out.freeze().slice(skip..skip + len)
    }
}

/// Reads a body and reports the first wrong byte.
pub struct Check {
    tag: Tag,
    pub len: u64,
}

impl Check {
    pub fn new(tag: Tag) -> Check {
        Check { tag, len: 0 }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        let expected = self.tag.bytes(self.len, bytes.len());
        if bytes != expected {
            let wrong = bytes.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            let poisoned = bytes.windows(POISON.len()).filter(|run| *run == POISON).count();
            let around = &bytes[wrong..bytes.len().min(wrong + 48)];
            return Err(format!(
                "byte {} of the body of {}: {around:02x?} ({poisoned} runs of poison)",
                self.len + wrong as u64,
                self.tag.hex(),
            ));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

#[test]
fn wrong_bytes_are_detected() {
    let tag = Tag::random();
    let whole = tag.bytes(0, 5000);
    for (at, len) in [(0, 1), (255, 2), (256, 256), (100, 4900), (3, 1000)] {
        assert_eq!(tag.bytes(at, len), whole.slice(at as usize..at as usize + len));
    }
    let mut check = Check::new(tag);
    check.feed(&whole[..777]).unwrap();
    check.feed(&whole[777..]).unwrap();
    for (at, wrong) in [(0, 0xDB), (16, 1), (255, 0), (4999, 0xFF)] {
        let mut bytes = whole.to_vec();
        bytes[at] = wrong;
        assert!(Check::new(tag).feed(&bytes).is_err(), "at {at}");
    }
    // Moved by a block, duplicated, from another connection.
    assert!(Check::new(tag).feed(&whole[BLOCK_LEN..]).is_err());
    assert!(Check::new(Tag::random()).feed(&whole).is_err());
    let error = Check::new(tag).feed(&[0xDB; 10]).unwrap_err();
    assert!(error.contains("3 runs of poison"), "{error}");
}
