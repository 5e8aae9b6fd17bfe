//! The reader of PEM text (RFC 7468). It bears what cannot be misread (blanks, CRLF, a missing last
//! line end, explanations between blocks, several marks on one line) and refuses what could hide a
//! block, with its line: whatever a file holds is either read or named.
//!
//! The crates that read PEM skip what they do not understand, and none of them counts lines. Base64
//! and DER are left to crates.

use std::fmt;

use data_encoding::BASE64;

/// One block: what stands between a BEGIN and an END line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// The words behind BEGIN, such as `CERTIFICATE`.
    pub(super) label: String,
    /// The line of BEGIN, from 1.
    pub(super) line: usize,
    /// The header `Proc-Type: 4,ENCRYPTED` is there (RFC 1421 4.6.1.1).
    pub(super) is_encrypted: bool,
    pub(super) der: Vec<u8>,
}

/// An error in PEM text, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PemFault {
    pub(super) line: usize,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    NotAMark { text: String },
    TextBeforeBegin { text: String },
    EndWithoutBegin,
    Base64WithoutBegin,
    BeginInside { begun: usize },
    OtherEnd { label: String, begun: usize, found: String },
    NoEnd { label: String },
    Empty { label: String },
    NotBase64 { character: char },
    CutBase64 { begun: usize },
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Characters of a full line of base64 (RFC 7468 2).
const BASE64_LINE_LEN: usize = 64;

/// Reads all blocks of `text`, in its order.
pub(super) fn blocks(text: &str) -> Result<Vec<Block>, PemFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        reader.read_line(index + 1, line.trim())?;
    }
    match reader.open {
        None => Ok(reader.blocks),
        Some(open) => Err(fault(open.line, Kind::NoEnd { label: open.label })),
    }
}

#[derive(Default)]
struct Reader {
    blocks: Vec<Block>,
    open: Option<Open>,
}

/// A block whose END has not been read yet.
struct Open {
    label: String,
    line: usize,
    is_encrypted: bool,
    base64: String,
    /// Where each line begins: its offset in `base64` and its number.
    lines: Vec<(usize, usize)>,
}

impl Reader {
    /// Reads a line. It may hold the end of one block and the beginning of the next, as `cat` makes
    /// it from files without a last line end, or a whole block.
    fn read_line(&mut self, number: usize, mut rest: &str) -> Result<(), PemFault> {
        while !rest.is_empty() {
            rest = match self.open.take() {
                None => self.read_outside(number, rest)?,
                Some(open) => self.read_inside(open, number, rest)?,
            };
        }
        Ok(())
    }

    /// Reads a piece of a line outside of blocks. Returns the rest of the line.
    fn read_outside<'a>(&mut self, number: usize, text: &'a str) -> Result<&'a str, PemFault> {
        let Some((label, rest)) =
            text.strip_prefix(BEGIN).and_then(|behind| behind.split_once(DASHES))
        else {
            return match fault_outside(text) {
                Some(kind) => Err(fault(number, kind)),
                None => Ok(""),
            };
        };
        self.open = Some(Open {
            label: label.trim().to_owned(),
            line: number,
            is_encrypted: false,
            base64: String::new(),
            lines: Vec::new(),
        });
        Ok(rest.trim_start())
    }

    /// Reads a piece of a line inside of a block. Returns the rest of the line.
    fn read_inside<'a>(
        &mut self,
        mut open: Open,
        number: usize,
        text: &'a str,
    ) -> Result<&'a str, PemFault> {
        let (content, mark) = text.split_at(text.find(DASHES).unwrap_or(text.len()));
        let not_a_mark = || fault(number, Kind::NotAMark { text: text.to_owned() });
        if is_like_a_mark(content) {
            return Err(not_a_mark());
        }
        open.add(number, content);
        if mark.is_empty() {
            self.open = Some(open);
            return Ok("");
        }
        if mark.starts_with(BEGIN) {
            return Err(fault(number, Kind::BeginInside { begun: open.line }));
        }
        let behind = mark.strip_prefix(END).and_then(|behind| behind.split_once(DASHES));
        let (found, rest) = behind.ok_or_else(not_a_mark)?;
        if found.trim() != open.label {
            let Open { label, line: begun, .. } = open;
            let found = found.trim().to_owned();
            return Err(fault(number, Kind::OtherEnd { label, begun, found }));
        }
        self.blocks.push(open.close()?);
        Ok(rest.trim_start())
    }
}

impl Open {
    fn add(&mut self, number: usize, content: &str) {
        // RFC 1421 4.6: header fields stand in front of the base64, which has no colon.
        if let Some((name, value)) = content.split_once(':')
            && self.base64.is_empty()
        {
            self.is_encrypted |= name == "Proc-Type" && value.contains("ENCRYPTED");
            return;
        }
        self.lines.push((self.base64.len(), number));
        self.base64.extend(content.split_whitespace());
    }

    fn close(self) -> Result<Block, PemFault> {
        let line = self.line;
        if self.base64.is_empty() {
            return Err(fault(line, Kind::Empty { label: self.label }));
        }
        let is_known = |character: char| is_base64(character) || character == '=';
        if let Some(offset) = self.base64.find(|character| !is_known(character)) {
            let character = self.base64[offset..].chars().next().unwrap_or_default();
            return Err(fault(self.line_of(offset), Kind::NotBase64 { character }));
        }
        let der = BASE64.decode(self.base64.as_bytes()).map_err(|error| {
            fault(self.line_of(error.position), Kind::CutBase64 { begun: line })
        })?;
        let Self { label, is_encrypted, .. } = self;
        Ok(Block { label, line, is_encrypted, der })
    }

    /// Returns the number of the line from which the base64 at `offset` came.
    fn line_of(&self, offset: usize) -> usize {
        let after = self.lines.partition_point(|(start, _)| *start <= offset);
        after.checked_sub(1).map_or(self.line, |index| self.lines[index].1)
    }
}

fn fault(line: usize, kind: Kind) -> PemFault {
    PemFault { line, kind }
}

/// Returns the reason why text outside of blocks is no explanation: a block may hide in it.
fn fault_outside(text: &str) -> Option<Kind> {
    if text.starts_with(END) {
        return Some(Kind::EndWithoutBegin);
    }
    if !text.starts_with(BEGIN) && text.contains(BEGIN) {
        return Some(Kind::TextBeforeBegin { text: text.to_owned() });
    }
    if is_like_a_mark(text) {
        return Some(Kind::NotAMark { text: text.to_owned() });
    }
    let is_full_line = text.len() >= BASE64_LINE_LEN && text.chars().all(is_base64);
    is_full_line.then_some(Kind::Base64WithoutBegin)
}

/// Returns true for text that was probably meant as a BEGIN or END line.
fn is_like_a_mark(text: &str) -> bool {
    let words = text.trim_matches(is_dash);
    let has_word = ["BEGIN ", "END "].iter().any(|word| words.starts_with(word));
    words.len() < text.len() && has_word || text.starts_with(DASHES) && !words.is_empty()
}

fn is_base64(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '+' | '/')
}

/// Returns true for a hyphen, and for the dashes by which word processors replace two of them.
fn is_dash(character: char) -> bool {
    matches!(character, '-' | '\u{2010}'..='\u{2015}')
}

impl fmt::Display for PemFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::NotAMark { text } => write!(
                f,
                "{text:?} looks like the beginning or end of a block, but is not written as one; \
                 write it as \"-----BEGIN NAME-----\" or \"-----END NAME-----\", with five hyphens \
                 on either side"
            ),
            Kind::TextBeforeBegin { text } => write!(
                f,
                "{text:?} has something in front of -----BEGIN; begin the line with it, or delete \
                 the block if it is not to be used"
            ),
            Kind::EndWithoutBegin => f.write_str(
                "a block ends here whose BEGIN line is missing; copy the whole block again",
            ),
            Kind::Base64WithoutBegin => f.write_str(
                "this looks like the base64 of a block whose BEGIN line is missing; copy the whole \
                 block again",
            ),
            Kind::BeginInside { begun } => write!(
                f,
                "a block begins here, but the one of line {begun} has not ended; copy the block of \
                 line {begun} again, with its END line"
            ),
            Kind::OtherEnd { label, begun, found } => write!(
                f,
                "the end of {found:?} follows the beginning of {label:?} in line {begun}; copy the \
                 block again, with both of its own lines"
            ),
            Kind::NoEnd { label } => write!(
                f,
                "the block {label:?} that begins here has no END line, so the file is cut off; \
                 copy the file again"
            ),
            Kind::Empty { label } => {
                write!(f, "the block {label:?} that begins here is empty; copy it again")
            }
            Kind::NotBase64 { character } => write!(
                f,
                "{character:?} is not a character of base64; copy the block again, without any \
                 change"
            ),
            Kind::CutBase64 { begun } => write!(
                f,
                "the base64 of the block that begins in line {begun} is not whole; copy the block \
                 again, with its first and last characters"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the line and content of each block, or the line and words of the refusal.
    fn read(text: &str) -> Result<Vec<(usize, String)>, (usize, String)> {
        let text_of = |block: Block| (block.line, String::from_utf8(block.der).unwrap());
        match blocks(text) {
            Ok(blocks) => Ok(blocks.into_iter().map(text_of).collect()),
            Err(fault) => Err((fault.line, fault.to_string())),
        }
    }

    #[test]
    fn one_block_may_be_written_in_many_ways() {
        for text in [
            "-----BEGIN A-----\nb25lIGJsb2Nr\n-----END A-----\n",
            "-----BEGIN A-----\nb25lIGJsb2Nr\n-----END A-----",
            "-----BEGIN A-----\r\nb25lI\r\nGJsb2Nr\r\n-----END A-----\r\n",
            "\u{feff}-----BEGIN A-----\nb25lIGJsb2Nr\n-----END A-----\n",
            "-----BEGIN A-----b25lIGJsb2Nr-----END A-----",
            "-----BEGIN A----- b25l IGJs b2Nr -----END A-----",
            "  -----BEGIN A-----  \n\t b25l \n\n  IGJsb2Nr  \n -----END A----- \n",
            "-----BEGIN A-----\nComment: a: b\n\nb25lIGJsb2Nr\n-----END A-----\nthe end\n",
        ] {
            assert_eq!(read(text), Ok(vec![(1, "one block".to_owned())]), "{text:?}");
        }
    }

    #[test]
    fn blocks_that_share_a_line_are_all_read() {
        let text = "an explanation - the BEGIN of it, and its END\n-----BEGIN A-----\nMQ==\n\
                    -----END A----------BEGIN A-----\nMg==\n-----END A----- \
                    -----BEGIN A-----Mw==-----END A-----";
        let expected = [(2, "1"), (4, "2"), (6, "3")].map(|(line, text)| (line, text.to_owned()));
        assert_eq!(read(text), Ok(expected.to_vec()));
    }

    #[test]
    fn a_header_of_encryption_is_noticed() {
        let text = "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMQ==\n\
                    -----END A-----\n";
        let block = blocks(text).unwrap().remove(0);
        assert!(block.is_encrypted && block.der == b"1");
    }

    #[test]
    fn whatever_could_hide_a_block_is_refused_with_its_line() {
        let whole = "-----BEGIN A-----\nMQ==\n-----END A-----\n";
        let base64_line = "A".repeat(64);
        for (text, line, words) in [
            ("-----BEGIN A-----\nMQ==\n", 1, "no END line"),
            ("-----BEGIN A-----\nMQ==\n----END A----\n", 3, "five hyphens"),
            ("-----BEGIN A-----\nMQ==\n-----END A----\n", 3, "five hyphens"),
            ("----BEGIN A-----\nMQ==\n-----END A-----\n", 1, "five hyphens"),
            ("\u{2014}-BEGIN A\u{2014}-\nMQ==\n", 1, "five hyphens"),
            ("-----BEGIN A\nMQ==\n-----END A-----\n", 1, "five hyphens"),
            ("x\n# -----BEGIN A-----\n# MQ==\n", 2, "in front of"),
            ("MQ==\n-----END A-----\n", 2, "BEGIN line is missing"),
            ("-----BEGIN A-----\nMQ==\n-----BEGIN A-----\n", 3, "line 1 has not ended"),
            ("-----BEGIN A-----\nMQ==\n-----END B-----\n", 3, "\"B\""),
            ("-----BEGIN A-----\n-----END A-----\n", 1, "is empty"),
            ("-----BEGIN A-----\nMQ==\nM!==\n-----END A-----\n", 3, "'!'"),
            ("-----BEGIN A-----\nMQ==\nM\u{fc}==\n-----END A-----\n", 3, "'\u{fc}'"),
            ("-----BEGIN A-----\\nMQ==\\n-----END A-----\n", 1, "'\\\\'"),
            ("-----BEGIN A-----\nAAAA\nMQ=\n-----END A-----\n", 3, "begins in line 1 is not whole"),
            ("-----BEGIN A-----\nMQ==\n-----END A-----BEGIN A-----\n", 3, "five hyphens"),
            (&format!("{base64_line}\n{whole}"), 1, "BEGIN line is missing"),
        ] {
            let (found, message) = read(text).expect_err(text);
            assert!(found == line && message.contains(words), "{text:?}: {found}: {message}");
            // A good block in front of it, which could be served alone, changes nothing.
            let (found, message) = read(&format!("{whole}{text}")).expect_err(text);
            assert_eq!(found, line + 3, "{text:?}");
            assert!(!message.is_empty());
        }
    }

    /// Each cut of a text with two blocks is refused, unless it cuts off blocks as a whole.
    #[test]
    fn no_cut_loses_a_part_of_a_block() {
        let block = "-----BEGIN A-----\nMTIz\n-----END A-----";
        let text = format!("{block}\n{block}\n");
        // A line of hyphens alone is an explanation.
        let whole = [0..=DASHES.len(), block.len()..=block.len() + 1 + DASHES.len()];
        for len in 0..text.len() - 1 {
            let expected = whole.iter().position(|cuts| cuts.contains(&len));
            let found = blocks(&text[..len]).ok().map(|blocks| blocks.len());
            assert_eq!(found, expected, "cut at {len}");
        }
    }
}
