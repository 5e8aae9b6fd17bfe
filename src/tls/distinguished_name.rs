//! Distinguished names as text (RFC 4514), so that two names with the same text are the same name.
//!
//! The text is of printable ASCII only, since it goes into field values and logs: other characters
//! are escaped as the bytes of their UTF-8, which RFC 4514 2.4 permits.

use std::fmt::Write as _;

use x509_parser::asn1_rs::{Any, Tag, ToDer as _};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Short names of attribute types: those of RFC 4514 3, and others under the names that OpenSSL
/// gives them, which upstreams are used to.
const SHORT_NAMES: [(&str, &str); 16] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.46", "dnQualifier"),
];

/// Returns a name as text, the most specific part first (RFC 4514 2.1).
pub(super) fn text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name.iter_rdn().map(part).collect();
    parts.reverse();
    parts.join(",")
}

fn part(part: &x509_parser::x509::RelativeDistinguishedName<'_>) -> String {
    part.iter().map(attribute).collect::<Vec<_>>().join("+")
}

/// Writes an attribute. Without a short name, its type is a number and its value is in hexadecimal
/// (RFC 4514 2.3, 2.4).
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let known = SHORT_NAMES.iter().find(|(number, _)| *number == id);
    match (known, characters(attribute.attr_value())) {
        (Some((_, name)), Some(value)) => format!("{name}={}", escaped(&value)),
        (Some((_, name)), None) => format!("{name}={}", in_hex(attribute.attr_value())),
        (None, _) => format!("{id}={}", in_hex(attribute.attr_value())),
    }
}

/// Returns the characters of a string type, or `None` for other types and for bytes that are no
/// such string.
fn characters(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString => String::from_utf8(value.data.to_vec()).ok(),
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let units = value.data.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// Escapes the value of an attribute (RFC 4514 2.4).
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b'#' if at == 0 => text.push_str("\\#"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, "\\{byte:02X}").expect("a String grows"),
        }
    }
    text
}

fn in_hex(value: &Any<'_>) -> String {
    let der = value.to_der_vec().unwrap_or_default();
    format!("#{}", data_encoding::HEXUPPER.encode(&der))
}

#[cfg(test)]
mod tests {
    use x509_parser::asn1_rs::FromDer as _;

    use super::*;

    /// An attribute: its number, and the tag and bytes of its value.
    type Attribute<'a> = (&'a [u8], u8, &'a [u8]);

    /// Returns the text of the name with these parts.
    fn of(parts: &[&[Attribute<'_>]]) -> String {
        let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let parts: Vec<Vec<u8>> = parts
            .iter()
            .map(|part| {
                let attributes = part.iter().map(|(id, tag, value)| {
                    element(0x30, &[element(0x06, id), element(*tag, value)].concat())
                });
                element(0x31, &attributes.collect::<Vec<_>>().concat())
            })
            .collect();
        let der = element(0x30, &parts.concat());
        text(&X509Name::from_der(&der).expect("a name").1)
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];
    const OU: &[u8] = &[0x55, 4, 11];
    const DC: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25];
    const UID: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1];
    const UTF8: u8 = 12;
    const PRINTABLE: u8 = 19;
    const IA5: u8 = 22;
    const BMP: u8 = 30;

    /// The examples of RFC 4514 4, with what is not ASCII escaped.
    #[test]
    fn names_are_written_as_in_the_rfc() {
        let dc: &[Attribute<'_>] = &[(DC, IA5, b"net")];
        let example: &[Attribute<'_>] = &[(DC, IA5, b"example")];
        let uid: &[Attribute<'_>] = &[(UID, PRINTABLE, b"jsmith")];
        assert_eq!(of(&[dc, example, uid]), "UID=jsmith,DC=example,DC=net");
        let two: &[Attribute<'_>] = &[(OU, PRINTABLE, b"Sales"), (CN, PRINTABLE, b"J.  Smith")];
        assert_eq!(of(&[dc, example, two]), "OU=Sales+CN=J.  Smith,DC=example,DC=net");
        let quoted: &[Attribute<'_>] = &[(CN, UTF8, b"James \"Jim\" Smith, III")];
        assert_eq!(of(&[dc, quoted]), "CN=James \\\"Jim\\\" Smith\\, III,DC=net");
        let cr: &[Attribute<'_>] = &[(CN, UTF8, b"Before\rAfter")];
        assert_eq!(of(&[dc, cr]), "CN=Before\\0DAfter,DC=net");
        let odd: &[Attribute<'_>] = &[(&[0x2b, 6, 1, 4, 1, 0x8b, 0x3a, 0], 4, b"\x48\x69")];
        assert_eq!(of(&[odd]), "1.3.6.1.4.1.1466.0=#04024869");
        let lucic: &[Attribute<'_>] = &[(CN, UTF8, "Lu\u{10d}i\u{107}".as_bytes())];
        assert_eq!(of(&[lucic]), "CN=Lu\\C4\\8Di\\C4\\87");
    }

    #[test]
    fn no_value_can_pass_for_another_name() {
        let one = |tag: u8, value: &[u8]| of(&[&[(O, tag, value)]]);
        assert_eq!(one(UTF8, b"a,CN=root"), "O=a\\,CN=root");
        assert_eq!(one(UTF8, b"a+CN=root"), "O=a\\+CN=root");
        assert_eq!(one(UTF8, b" a "), "O=\\ a\\ ");
        assert_eq!(one(UTF8, b"#0401"), "O=\\#0401");
        assert_eq!(one(UTF8, b"a\\"), "O=a\\\\");
        assert_eq!(one(UTF8, b"a\0\r\nx: y\x7f"), "O=a\\00\\0D\\0Ax: y\\7F");
        assert_eq!(one(BMP, b"\0a\0,"), "O=a\\,");
        assert_eq!(one(BMP, b"\0a\0"), "O=#1E03006100");
        assert_eq!(one(UTF8, b"\xff"), "O=#0C01FF");
        assert_eq!(one(20, b"t61"), "O=#1403743631");
        assert_eq!(of(&[]), "");
    }
}
