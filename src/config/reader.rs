//! The reader walks the parsed TOML by hand, so that every refusal has its key and line, and one
//! run reports all of them.
//!
//! A [`Section`] is a table. The code that reads it asks for every key that it may have, then calls
//! [`Section::finish`], which refuses all others: the list of known keys is the code that reads
//! them. A refused value is read as its default, so that reading can continue.

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

/// A file being read, and its refusals so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    /// The directory of the file, where relative paths start.
    pub(super) folder: &'a Path,
    pub(super) surroundings: &'a Surroundings<'a>,
    errors: RefCell<Vec<ConfigError>>,
    /// Known keys that are not in the file.
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

    /// Adds a refusal at this place of the file.
    pub(super) fn refuse(&self, span: &Range<usize>, key: &str, message: impl Display) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        self.errors.borrow_mut().push(ConfigError {
            line: Some(line),
            key: key.to_owned(),
            message: message.to_string(),
        });
    }

    /// Adds a refusal of the file as a whole.
    pub(super) fn refuse_whole(&self, message: impl Display) {
        let message = message.to_string();
        self.errors.borrow_mut().push(ConfigError { line: None, key: String::new(), message });
    }

    /// Returns the refusals, and the known keys that are not in the file.
    pub(super) fn into_parts(self) -> (Vec<ConfigError>, Vec<String>) {
        (self.errors.into_inner(), self.absent.into_inner())
    }
}

/// A value and its key.
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

    /// Returns the string with `${NAME}` replaced.
    pub(super) fn string(&self) -> Option<String> {
        let Some(text) = self.value.get_ref().as_str() else {
            self.refuse_type("a string");
            return None;
        };
        expand(text, self.reader.surroundings.env).map_err(|message| self.refuse(message)).ok()
    }

    /// Returns true if the value is this string, after `${NAME}` is replaced.
    pub(super) fn is_str(&self, text: &str) -> bool {
        let found = self.value.get_ref().as_str();
        let found = found.and_then(|found| expand(found, self.reader.surroundings.env).ok());
        found.as_deref() == Some(text)
    }

    /// Returns the parsed string. An error of `parse` becomes a refusal.
    pub(super) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string()?;
        parse(&text).map_err(|message| self.refuse(message)).ok()
    }

    /// Returns a path. A relative one starts at the directory of the configuration file.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.string()?;
        if text.is_empty() {
            self.refuse("must be a path, but it is empty");
            return None;
        }
        Some(self.reader.folder.join(text))
    }

    /// Returns the items of a list, or the item itself if it is not a list.
    pub(super) fn one_or_many(self, what: &str) -> Vec<Item<'a>> {
        if self.value.get_ref().is_array() { self.filled_list(what) } else { vec![self] }
    }

    /// Returns the items of a list, which may be empty, or the item itself if it is not a list.
    pub(super) fn items(self) -> Vec<Item<'a>> {
        if self.value.get_ref().is_array() { self.list() } else { vec![self] }
    }

    /// Returns true if the value is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// Returns the items of a list. An empty one is refused: it must hold at least one `what`.
    pub(super) fn filled_list(&self, what: &str) -> Vec<Item<'a>> {
        let items = self.list();
        if items.is_empty() {
            self.refuse(format_args!("must hold at least one {what}"));
        }
        items
    }

    pub(super) fn list(&self) -> Vec<Item<'a>> {
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

    /// Returns a number: an integer, or a string, whose number may come from the environment.
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

    /// Returns a percentage such as `"25%"`.
    pub(super) fn percent(&self, bound: &Bound<u64>) -> Option<u64> {
        let range = format!("{}% to {}%", bound.min, bound.max);
        let text = self.string()?;
        let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
        let found = number.filter(|number| (bound.min..=bound.max).contains(number));
        if found.is_none() {
            self.refuse(format_args!("is {text:?}, but must be {range}; write it like \"25%\""));
        }
        found
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
            self.refuse("is a number without a unit; write a duration like \"2s\" or \"500ms\"");
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

    /// Returns a boolean: `true`, `false`, or one of them as a string.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            DeValue::String(_) => self.choice(&[("true", true), ("false", false)]),
            _ => {
                self.refuse_type("true or false");
                None
            }
        }
    }

    /// Returns whether the value is `true`; `None` if it is no boolean.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        }
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

/// A table and its key.
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

    /// Returns the item of this key, if there is one.
    pub(super) fn item(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let Some(value) = self.table.get(key) else {
            self.reader.absent.borrow_mut().push(self.full_key(key));
            return None;
        };
        Some(Item { key: self.full_key(key), value, reader: self.reader })
    }

    /// Returns the item of this key. If there is none, that is a refusal with this way out.
    pub(super) fn required(&mut self, key: &'static str, way_out: &str) -> Option<Item<'a>> {
        let item = self.item(key);
        if item.is_none() {
            let key = self.full_key(key);
            self.reader.refuse(&self.span, &key, format_args!("is missing; {way_out}"));
        }
        item
    }

    /// Returns all items with their keys, for tables whose keys are names.
    pub(super) fn named_items(&self) -> Vec<(String, Item<'a>)> {
        let items = self.table.iter().map(|(name, value)| {
            let name = name.get_ref().to_string();
            let key = self.full_key(&name);
            (name, Item { key, value, reader: self.reader })
        });
        items.collect()
    }

    /// Returns the table of this key. An absent one is read as empty, so that its keys are known.
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

    pub(super) fn percent(&mut self, key: &'static str, bound: &Bound<u64>) -> u64 {
        self.item(key).and_then(|item| item.percent(bound)).unwrap_or(bound.default)
    }

    pub(super) fn size(&mut self, key: &'static str, bound: &Bound<u64>) -> u64 {
        self.item(key).and_then(|item| item.size(bound)).unwrap_or(bound.default)
    }

    pub(super) fn duration(&mut self, key: &'static str, bound: &Bound<Duration>) -> Duration {
        self.item(key).and_then(|item| item.duration(bound)).unwrap_or(bound.default)
    }

    /// Returns a boolean that is false if the key is absent.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.item(key).and_then(|item| item.flag()).unwrap_or(false)
    }

    /// Returns one of `options`, of which the first is the default.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, options: &[(&str, T)]) -> T {
        self.item(key).and_then(|item| item.choice(options)).unwrap_or(options[0].1)
    }

    /// Refuses every key that has not been asked for.
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

/// Returns the most similar name, within two typing errors or a third of its length.
pub(super) fn nearest<'n, N: AsRef<str>>(found: &str, names: &'n [N]) -> Option<&'n str> {
    let found = found.to_lowercase().replace('-', "_");
    let scored = names.iter().map(|name| {
        let plain = name.as_ref().to_lowercase().replace('-', "_");
        (strsim::damerau_levenshtein(&found, &plain), name.as_ref())
    });
    let (distance, name) = scored.min_by_key(|scored| scored.0)?;
    (distance <= (name.len() / 3).max(2) && distance < name.len()).then_some(name)
}

/// Returns `"a", "b" or "c"`, where `last` is the last separator.
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

/// Returns a size as it is written in the file.
pub(super) fn size_text(size: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if size >= 1 << shift && size.is_multiple_of(1 << shift) {
            return format!("{}{unit}", size >> shift);
        }
    }
    format!("{size}B")
}

/// Returns a duration as it is written in the file.
pub(super) fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
