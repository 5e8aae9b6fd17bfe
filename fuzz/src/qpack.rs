//! Field sections. Input: two bytes of limits, and the section.

use ::qpack::decode_stateless;
use bytes::BytesMut;
use ringway::testing::http3::name_bytes;
use ringway::testing::internal::http3::qpack::{SectionError, SectionReader, encode};

/// Name, value, and the N bit of a field line.
type Line = (Vec<u8>, Vec<u8>, bool);

/// # Panics
///
/// If a limit is exceeded, another implementation reads other lines, or our encoder changes them.
pub fn run(input: &[u8]) {
    // The second byte was a limit of lines, which kept inputs still have.
    let Some((&[len, _], section)) = input.split_first_chunk() else { return };
    let len_max = u32::from(len) * 64;
    let Ok(lines) = decode(section, len_max) else { return };
    let counted = lines.iter().map(|(name, value, _)| name.len() + value.len() + 32);
    assert!(counted.sum::<usize>() <= len_max as usize);
    let other = decode_stateless(&mut &section[..], u64::MAX).expect("the oracle can decode it");
    assert_eq!(lines.len(), other.fields.len());
    for ((name, value, _), theirs) in lines.iter().zip(&other.fields) {
        assert_eq!((&name[..], &value[..]), (&theirs.name[..], &theirs.value[..]));
    }
    // Our encoder writes names that are text.
    if lines.iter().any(|(name, ..)| std::str::from_utf8(name).is_err()) {
        return;
    }
    let mut again = BytesMut::new();
    encode::put_prefix(&mut again);
    for (name, value, never_indexed) in &lines {
        let name = std::str::from_utf8(name).expect("checked above");
        encode::put_line(name, value, *never_indexed, &mut again);
    }
    assert!(
        again.len() <= lines.iter().map(|line| line.0.len() + line.1.len() + 32).sum::<usize>() + 2
    );
    assert_eq!(decode(&again, len_max), Ok(lines), "written and read again");
}

fn decode(section: &[u8], len_max: u32) -> Result<Vec<Line>, SectionError> {
    let mut reader = SectionReader::new(section, len_max)?;
    let mut lines = Vec::new();
    while let Some(line) = reader.next_line()? {
        let name = name_bytes(&line.name).to_vec();
        lines.push((name, line.value.into_bytes().to_vec(), line.never_indexed));
    }
    Ok(lines)
}
