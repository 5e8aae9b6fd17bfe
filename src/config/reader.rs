//! Walks the parsed TOML by hand, so that every refusal knows its key and its line, and one run
//! tells all of them.
//!
//! A [`Section`] is a table. Its reader asks for every key that may stand there, then calls
//! [`Section::finish`], which refuses what was never asked for: the list of known keys is the code
//! that reads them. Values that are refused count as their default, so that reading goes on.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Surroundings;
use super::bounds::Bound;
use super::environment::expand;
use super::error::ConfigError;

/// One file being read: where its refusals gather.
pub(super) struct Reader<'a> {
    text: &'a str,
    folder: &'a Path,
    pub(super) surroundings: &'a Surroundings<'a>,
    errors: RefCell<Vec<ConfigError>>,
    /// Keys that were asked for and are not in the file.
    absent: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        text: &'a str,
        origin: &'a Path,
        surroundings: &'a Surroundings<'a>,
    ) -> Reader<'a> {
        let folder = origin.parent().unwrap_or(Path::new(""));
        let (errors, absent) = Default::default();
        Reader { text, folder, surroundings, errors, absent }
    }

    /// The configuration file's folder, where relative paths start.
    pub(super) fn folder(&self) -> &'a Path {
        self.folder
    }

    /// Notes a refusal at this place of the file.
    pub(super) fn refuse(&self, span: &Range<usize>, key: &str, message: impl Display) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        self.errors.borrow_mut().push(ConfigError {
            line: Some(line),
            key: key.to_owned(),
            message: message.to_string(),
        });
    }

    /// Notes a refusal of the file as a whole.
    pub(super) fn refuse_whole(&self, message: impl Display) {
        let message = message.to_string();
        self.errors.borrow_mut().push(ConfigError { line: None, key: String::new(), message });
    }

    /// The refusals, and the keys that were asked for in vain.
    pub(super) fn into_parts(self) -> (Vec<ConfigError>, Vec<String>) {
        (self.errors.into_inner(), self.absent.into_inner())
    }
}

/// A value and how it is called.
pub(super) struct Item<'a> {
    pub(super) key: String,
    value: &'a Spanned<DeValue<'a>>,
    reader: &'a Reader<'a>,
}

impl<'a> Item<'a> {
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    pub(super) fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    pub(super) fn refuse(&self, message: impl Display) {
        self.reader.refuse(&self.value.span(), &self.key, message);
    }

    fn refuse_type(&self, expected: &str) {
        let found = self.value.get_ref().type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.refuse(format_args!("must be {expected}, but {article} {found} stands there"));
    }

    /// A string with `${NAME}` replaced.
    pub(super) fn string(&self) -> Option<String> {
        let Some(text) = self.value.get_ref().as_str() else {
            self.refuse_type("a string");
            return None;
        };
        expand(text, self.reader.surroundings.env).map_err(|message| self.refuse(message)).ok()
    }

    /// Whether exactly this string stands there, references replaced.
    pub(super) fn is_str(&self, text: &str) -> bool {
        let found = self.value.get_ref().as_str();
        let found = found.and_then(|found| expand(found, self.reader.surroundings.env).ok());
        found.as_deref() == Some(text)
    }

    /// The string's meaning, or the refusal that `parse` gives.
    pub(super) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string()?;
        parse(&text).map_err(|message| self.refuse(message)).ok()
    }

    /// A path; a relative one starts at the configuration file's folder.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.string()?;
        if text.is_empty() {
            self.refuse("must be a path, but it is empty");
            return None;
        }
        Some(self.reader.folder.join(text))
    }

    /// The list's items, or the one item itself where no list stands.
    pub(super) fn one_or_many(self) -> Vec<Item<'a>> {
        if self.value.get_ref().is_array() { self.list() } else { vec![self] }
    }

    /// The list's items.
    pub(super) fn list(self) -> Vec<Item<'a>> {
        let Some(list) = self.value.get_ref().as_array() else {
            self.refuse_type("a list");
            return Vec::new();
        };
        let named = list.iter().enumerate().map(|(index, value)| Item {
            key: format!("{}[{index}]", self.key),
            value,
            reader: self.reader,
        });
        named.collect()
    }

    pub(super) fn section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.get_ref().as_table() else {
            self.refuse_type("a table of keys");
            return None;
        };
        let key = self.key.clone();
        Some(Section { key, span: self.value.span(), table, reader: self.reader, known: vec![] })
    }

    /// The text of a number: an integer, or a string whose number the environment gave.
    fn number(&self, expected: &str) -> Option<Result<u64, String>> {
        match self.value.get_ref() {
            DeValue::Integer(integer) => {
                let number = u64::from_str_radix(integer.as_str(), integer.radix());
                Some(number.map_err(|_| integer.to_string()))
            }
            DeValue::String(_) => {
                let text = self.string()?;
                Some(text.trim().parse().map_err(|_| text))
            }
            _ => {
                self.refuse_type(expected);
                None
            }
        }
    }

    pub(super) fn integer(&self, bound: &Bound<u64>) -> Option<u64> {
        let range = format!("{} to {}", bound.min, bound.max);
        match self.number("a whole number")? {
            Ok(number) if (bound.min..=bound.max).contains(&number) => return Some(number),
            Ok(number) => self.refuse(format_args!("is {number}, but must be {range}")),
            Err(text) => {
                self.refuse(format_args!("is {text:?}, but must be a whole number from {range}"))
            }
        }
        None
    }

    pub(super) fn size(&self, bound: &Bound<u64>) -> Option<u64> {
        let [min, max] = [bound.min, bound.max].map(size_text);
        let number = self.number("a size like \"64MiB\"")?;
        let parsed = number.or_else(|text| match text.starts_with('-') {
            true => Err(text),
            false => text.parse::<bytesize::ByteSize>().map(|size| size.0).map_err(|_| text),
        });
        match parsed {
            Ok(size) if (bound.min..=bound.max).contains(&size) => return Some(size),
            Ok(size) => {
                self.refuse(format_args!("is {}, but must be {min} to {max}", size_text(size)));
            }
            Err(text) => self.refuse(format_args!(
                "is {text:?}, but must be a size from {min} to {max}; write it like \"64MiB\""
            )),
        }
        None
    }

    pub(super) fn duration(&self, bound: &Bound<Duration>) -> Option<Duration> {
        let [min, max] = [bound.min, bound.max].map(duration_text);
        if self.value.get_ref().is_integer() {
            self.refuse("is a number without unit; write a duration like \"2s\" or \"500ms\"");
            return None;
        }
        let text = self.string()?;
        match humantime::parse_duration(&text) {
            Ok(found) if (bound.min..=bound.max).contains(&found) => return Some(found),
            Ok(_) => self.refuse(format_args!("is {text:?}, but must be {min} to {max}")),
            Err(_) => self.refuse(format_args!(
                "is {text:?}, but must be a duration from {min} to {max}; write it like \"2s\" or \
                 \"500ms\""
            )),
        }
        None
    }

    pub(super) fn choice<T: Copy>(&self, options: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, option)) = options.iter().find(|option| option.0 == text) {
            return Some(*option);
        }
        let names: Vec<&str> = options.iter().map(|option| option.0).collect();
        let hint = nearest(&text, &names).map(|near| format!("; did you mean \"{near}\"?"));
        self.refuse(format_args!(
            "is {text:?}, but must be {}{}",
            quoted(&names, " or "),
            hint.unwrap_or_default()
        ));
        None
    }
}

/// A table and how it is called.
pub(super) struct Section<'a> {
    key: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    reader: &'a Reader<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a Spanned<DeTable<'a>>, reader: &'a Reader<'a>) -> Section<'a> {
        let span = table.span();
        Section { key: String::new(), span, table: table.get_ref(), reader, known: vec![] }
    }

    pub(super) fn refuse(&self, message: impl Display) {
        self.reader.refuse(&self.span, &self.key, message);
    }

    fn full_key(&self, key: &str) -> String {
        if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) }
    }

    /// The item under this key, if it is there.
    pub(super) fn item(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let Some(value) = self.table.get(key) else {
            self.reader.absent.borrow_mut().push(self.full_key(key));
            return None;
        };
        Some(Item { key: self.full_key(key), value, reader: self.reader })
    }

    /// The item under this key, refused with the way out when it is not there.
    pub(super) fn required(&mut self, key: &'static str, way_out: &str) -> Option<Item<'a>> {
        let item = self.item(key);
        if item.is_none() {
            let key = self.full_key(key);
            self.reader.refuse(&self.span, &key, format_args!("is missing; {way_out}"));
        }
        item
    }

    /// All items, for tables whose keys are names: their name and where it stands.
    pub(super) fn named_items(&self) -> Vec<(String, Item<'a>)> {
        let items = self.table.iter().map(|(name, value)| {
            let name = name.get_ref().to_string();
            let key = self.full_key(&name);
            (name, Item { key, value, reader: self.reader })
        });
        items.collect()
    }

    /// The table under this key; an absent one reads as empty, so that its keys are known.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let found = self.item(key).and_then(|item| item.section());
        found.unwrap_or_else(|| {
            static EMPTY: std::sync::OnceLock<DeTable<'static>> = std::sync::OnceLock::new();
            let table = EMPTY.get_or_init(DeTable::new);
            let (key, span) = (self.full_key(key), self.span.clone());
            Section { key, span, table, reader: self.reader, known: vec![] }
        })
    }

    pub(super) fn integer(&mut self, key: &'static str, bound: &Bound<u64>) -> u64 {
        self.item(key).and_then(|item| item.integer(bound)).unwrap_or(bound.default)
    }

    pub(super) fn size(&mut self, key: &'static str, bound: &Bound<u64>) -> u64 {
        self.item(key).and_then(|item| item.size(bound)).unwrap_or(bound.default)
    }

    pub(super) fn duration(&mut self, key: &'static str, bound: &Bound<Duration>) -> Duration {
        self.item(key).and_then(|item| item.duration(bound)).unwrap_or(bound.default)
    }

    /// One of `options`; the first is the default.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, options: &[(&str, T)]) -> T {
        self.item(key).and_then(|item| item.choice(options)).unwrap_or(options[0].1)
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(self) {
        for (name, _) in self.table.iter() {
            let found: &str = name.get_ref();
            if self.known.contains(&found) {
                continue;
            }
            let way_out = match nearest(found, &self.known) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("known here: {}", quoted(&self.known, ", ")),
            };
            let key = self.full_key(found);
            self.reader.refuse(&name.span(), &key, format_args!("is not a known key; {way_out}"));
        }
    }
}

/// The name that was meant, if one is near: two typing errors, or a third of its length.
pub(super) fn nearest<'n, N: AsRef<str>>(found: &str, names: &'n [N]) -> Option<&'n str> {
    let found = found.to_lowercase().replace('-', "_");
    let scored = names.iter().map(|name| {
        let plain = name.as_ref().to_lowercase().replace('-', "_");
        (strsim::damerau_levenshtein(&found, &plain), name.as_ref())
    });
    let (distance, name) = scored.min_by_key(|scored| scored.0)?;
    (distance <= (name.len() / 3).max(2) && distance < name.len()).then_some(name)
}

/// `"a", "b" or "c"` with the given last joint.
pub(super) fn quoted(names: &[&str], last: &str) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        match index {
            0 => {}
            _ if index + 1 == names.len() => text.push_str(last),
            _ => text.push_str(", "),
        }
        text.push_str(&format!("\"{name}\""));
    }
    text
}

/// A size as it would be written in the file.
fn size_text(size: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if size >= 1 << shift && size.is_multiple_of(1 << shift) {
            return format!("{}{unit}", size >> shift);
        }
    }
    format!("{size}B")
}

/// A duration as it would be written in the file.
fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
