//! Session tickets: the state of a session, sealed for its client to keep (RFC 5077, RFC 8446
//! 4.6.1).
//!
//! Their keys are drawn at the start and rotated by rustls, or come from a file that several
//! gateways share, so that each of them resumes the sessions of the others. The first key of the
//! file seals, and all of them open:
//!
//! ```text
//!   secret, a line of the file --HKDF--> name of the key (16 bytes)
//!                              --HKDF with a salt--> key of one ticket
//!
//!   ticket = name | salt (32 random bytes) | AES-256-GCM(time of issue, session) | tag
//! ```
//!
//! A key that seals once needs no nonce of its own: however many tickets several gateways seal
//! under one secret, no pair of key and nonce comes twice. The name is authenticated, and the time
//! of issue ends a ticket whose key is never replaced.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{aead, hkdf};
use data_encoding::HEXLOWER_PERMISSIVE;
use rustls::crypto::aws_lc_rs as rustls_aws_lc;
use rustls::server::ProducesTickets;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::error::{Kind, TlsError};
use super::files::read_secret;
use super::fill_random;
use crate::limits::{TICKET_KEY_COUNT_MAX, TICKET_LIFETIME};

const SECRET_LEN: usize = 32;
const NAME_LEN: usize = 16;
const SALT_LEN: usize = 32;
/// Length of the time of issue, in seconds since 1970.
const TIME_LEN: usize = 8;

/// The source of ticket keys. Clones share their keys.
#[derive(Debug, Clone)]
pub(super) enum Tickets {
    /// Keys of this process, which rustls replaces every six hours.
    Drawn(Arc<dyn ProducesTickets>),
    OfFile(Arc<FileTicketer>),
}

impl Tickets {
    /// Reads the keys of a file, or draws keys if there is none.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, TlsError> {
        let Some(path) = path else {
            let drawn = rustls_aws_lc::Ticketer::new();
            let drawn = drawn.map_err(|error| TlsError::nowhere(Kind::Settings(error)))?;
            return Ok(Self::Drawn(drawn));
        };
        let keys = RwLock::new(read_keys(path)?);
        Ok(Self::OfFile(Arc::new(FileTicketer { keys, clock: Arc::new(DefaultTimeProvider) })))
    }

    /// Reads the keys that a new configuration names. Drawn ones are kept.
    pub(super) fn reload(&self, path: Option<&Path>) -> Result<Self, TlsError> {
        match (self, path) {
            (Self::Drawn(_), None) => Ok(self.clone()),
            _ => Self::load(path),
        }
    }

    /// Reads the same file again, and uses what it holds from now on, for all settings that were
    /// made of it. Returns a summary if that is new. After an error the keys are those before it.
    pub(super) fn refresh(&self, path: Option<&Path>) -> Result<Option<String>, TlsError> {
        let (Self::OfFile(ticketer), Some(path)) = (self, path) else { return Ok(None) };
        let keys = read_keys(path)?;
        let mut current = ticketer.keys.write().unwrap_or_else(PoisonError::into_inner);
        if names(&current) == names(&keys) {
            return Ok(None);
        }
        let summary = format!("{}: {}", path.display(), counted(&keys));
        *current = keys;
        Ok(Some(summary))
    }

    /// Returns a description of the keys if they are not those of `earlier`.
    pub(super) fn summary_since(&self, earlier: &Self) -> Option<String> {
        match (self, earlier) {
            (Self::Drawn(_), Self::Drawn(_)) => None,
            (Self::Drawn(_), Self::OfFile(_)) => Some("drawn by this process".to_owned()),
            (Self::OfFile(ticketer), earlier) => {
                let keys = ticketer.keys();
                let known = match earlier {
                    Self::OfFile(earlier) => names(&earlier.keys()),
                    Self::Drawn(_) => Vec::new(),
                };
                (names(&keys) != known).then(|| counted(&keys))
            }
        }
    }

    pub(super) fn ticketer(&self) -> Arc<dyn ProducesTickets> {
        match self {
            Self::Drawn(ticketer) => Arc::clone(ticketer),
            Self::OfFile(ticketer) => Arc::clone(ticketer) as Arc<dyn ProducesTickets>,
        }
    }
}

/// A fault of a file of ticket keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TicketKeyFault {
    None,
    /// A line that is no key.
    Malformed,
    /// The key of an earlier line.
    Repeated {
        first: usize,
    },
    TooMany,
}

impl fmt::Display for TicketKeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str(
                "holds no key of session tickets; make one with `openssl rand -hex 32 > FILE`",
            ),
            Self::Malformed => f.write_str(
                "is no key of session tickets, which has 64 hexadecimal digits; make one with \
                 `openssl rand -hex 32`",
            ),
            Self::Repeated { first } => {
                write!(f, "is the key of line {first} again; remove one of them")
            }
            Self::TooMany => write!(
                f,
                "is one key more than the {TICKET_KEY_COUNT_MAX} that are read; remove those at \
                 the end, which are older than the tickets under them live"
            ),
        }
    }
}

/// Reads the keys of a file: each line is one, in hexadecimal form. Empty lines and those that
/// begin with `#` are skipped.
fn read_keys(path: &Path) -> Result<Vec<TicketKey>, TlsError> {
    let bytes = read_secret(path)?;
    let mut keys: Vec<(usize, TicketKey)> = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let (number, line) = (index + 1, line.trim_ascii());
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let refuse = |fault| Err(TlsError::at(path, number, Kind::TicketKey(fault)));
        let secret = HEXLOWER_PERMISSIVE.decode(line).ok();
        let secret = secret.and_then(|secret| <[u8; SECRET_LEN]>::try_from(secret).ok());
        let Some(key) = secret.map(|secret| TicketKey::of(&secret)) else {
            return refuse(TicketKeyFault::Malformed);
        };
        if let Some((first, _)) = keys.iter().find(|(_, known)| known.name == key.name) {
            return refuse(TicketKeyFault::Repeated { first: *first });
        }
        if keys.len() == TICKET_KEY_COUNT_MAX {
            return refuse(TicketKeyFault::TooMany);
        }
        keys.push((number, key));
    }
    if keys.is_empty() {
        return Err(TlsError::of(path, Kind::TicketKey(TicketKeyFault::None)));
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

fn names(keys: &[TicketKey]) -> Vec<[u8; NAME_LEN]> {
    keys.iter().map(|key| key.name).collect()
}

fn counted(keys: &[TicketKey]) -> String {
    match keys.len() {
        1 => "1 key".to_owned(),
        count => format!("{count} keys"),
    }
}

/// The keys of a file at work.
pub(super) struct FileTicketer {
    /// At least one. The first one seals.
    keys: RwLock<Vec<TicketKey>>,
    clock: Arc<dyn TimeProvider>,
}

impl FileTicketer {
    fn keys(&self) -> std::sync::RwLockReadGuard<'_, Vec<TicketKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducesTickets for FileTicketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(TICKET_LIFETIME.as_secs()).expect("a week at most (RFC 8446 4.6.1)")
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.current_time()?.as_secs();
        let mut salt = [0; SALT_LEN];
        fill_random(&mut salt);
        self.keys().first()?.seal(&salt, now, session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.current_time()?.as_secs();
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>()?;
        let keys = self.keys();
        let (issued, session) = keys.iter().find(|key| key.name == *name)?.open(sealed)?;
        // The clock of another gateway may be ahead of ours.
        (now.abs_diff(issued) <= TICKET_LIFETIME.as_secs()).then_some(session)
    }
}

impl fmt::Debug for FileTicketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTicketer").finish_non_exhaustive()
    }
}

/// One key of a file.
struct TicketKey {
    name: [u8; NAME_LEN],
    secret: hkdf::Prk,
}

impl TicketKey {
    fn of(secret: &[u8; SECRET_LEN]) -> Self {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ringway session tickets").extract(secret);
        let mut name = [0; NAME_LEN];
        let filled = secret.expand(&[b"name"], NameLen).and_then(|derived| derived.fill(&mut name));
        filled.expect("HKDF yields more than a name");
        Self { name, secret }
    }

    fn seal(&self, salt: &[u8; SALT_LEN], issued: u64, session: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = Vec::with_capacity(TIME_LEN + session.len() + aead::MAX_TAG_LEN);
        sealed.extend_from_slice(&issued.to_be_bytes());
        sealed.extend_from_slice(session);
        let (key, nonce) = self.ticket_key(salt)?;
        key.seal_in_place_append_tag(nonce, aead::Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name[..], salt, &sealed].concat())
    }

    /// Returns the time of issue and the session of a ticket, whose name was read.
    fn open(&self, sealed: &[u8]) -> Option<(u64, Vec<u8>)> {
        let (salt, sealed) = sealed.split_first_chunk::<SALT_LEN>()?;
        let (key, nonce) = self.ticket_key(salt)?;
        let mut sealed = sealed.to_vec();
        let opened = key.open_in_place(nonce, aead::Aad::from(self.name), &mut sealed).ok()?;
        let (issued, session) = opened.split_first_chunk::<TIME_LEN>()?;
        Some((u64::from_be_bytes(*issued), session.to_vec()))
    }

    /// Returns the key of one ticket, with its only nonce.
    fn ticket_key(&self, salt: &[u8; SALT_LEN]) -> Option<(aead::LessSafeKey, aead::Nonce)> {
        let info = [&b"ticket"[..], salt];
        let derived = self.secret.expand(&info, &aead::AES_256_GCM).ok()?;
        let key = aead::LessSafeKey::new(aead::UnboundKey::from(derived));
        Some((key, aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])))
    }
}

/// The length of a name, for HKDF.
struct NameLen;

impl hkdf::KeyType for NameLen {
    fn len(&self) -> usize {
        NAME_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Clock;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const NOON: u64 = 1_800_000_000;
    const SESSION: &[u8] = b"the state of a session";

    fn line(byte: u8) -> String {
        format!("{byte:02X}").repeat(SECRET_LEN)
    }

    /// Returns the ticketer of a gateway whose file has these keys, and its clock.
    fn gateway(keys: &[u8]) -> (FileTicketer, Arc<Clock>) {
        let clock = Arc::new(Clock::at(NOON));
        let keys = keys.iter().map(|byte| TicketKey::of(&[*byte; SECRET_LEN])).collect();
        let ticketer = FileTicketer { keys: RwLock::new(keys), clock: Arc::clone(&clock) as _ };
        (ticketer, clock)
    }

    #[test]
    fn gateways_with_one_file_open_the_tickets_of_each_other() {
        let ((one, _), (other, _)) = (gateway(&[1]), gateway(&[1]));
        let ticket = one.encrypt(SESSION).unwrap();
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(SESSION));
        assert_eq!(gateway(&[2]).0.decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_is_good_while_its_key_is_in_the_file() {
        let old = gateway(&[1]).0.encrypt(SESSION).unwrap();
        let (rotated, _) = gateway(&[2, 1]);
        assert_eq!(rotated.decrypt(&old).as_deref(), Some(SESSION));
        let new = rotated.encrypt(SESSION).unwrap();
        let (last, _) = gateway(&[3, 2]);
        assert_eq!(last.decrypt(&old), None);
        assert_eq!(last.decrypt(&new).as_deref(), Some(SESSION));
        assert_eq!(gateway(&[1]).0.decrypt(&new), None, "the first key seals");
    }

    #[test]
    fn a_ticket_ends_after_its_lifetime() {
        let (ticketer, clock) = gateway(&[1]);
        let ticket = ticketer.encrypt(SESSION).unwrap();
        let lifetime = u64::from(ticketer.lifetime());
        for (now, is_good) in [
            (NOON + lifetime, true),
            (NOON + lifetime + 1, false),
            (NOON - 30, true),
            (NOON - lifetime - 1, false),
        ] {
            clock.set(now);
            assert_eq!(ticketer.decrypt(&ticket).is_some(), is_good, "{now}");
        }
    }

    #[test]
    fn a_ticket_that_was_changed_anywhere_is_refused() {
        let (ticketer, _) = gateway(&[1, 2]);
        let ticket = ticketer.encrypt(SESSION).unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ticketer.decrypt(&changed), None, "byte {at}");
            assert_eq!(ticketer.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        // A name is authenticated: that of another key in front does not help.
        let foreign = [&gateway(&[2]).0.keys()[0].name[..], &ticket[NAME_LEN..]].concat();
        assert_eq!(ticketer.decrypt(&foreign), None);
    }

    #[test]
    fn no_two_tickets_are_sealed_alike() {
        let (ticketer, _) = gateway(&[1]);
        let one = ticketer.encrypt(SESSION).unwrap();
        let other = ticketer.encrypt(SESSION).unwrap();
        assert_eq!(one[..NAME_LEN], other[..NAME_LEN]);
        assert_ne!(one[NAME_LEN..][..SALT_LEN], other[NAME_LEN..][..SALT_LEN]);
        assert_ne!(one[NAME_LEN + SALT_LEN..], other[NAME_LEN + SALT_LEN..]);
    }

    #[test]
    fn a_file_of_keys_is_read_or_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tickets.keys");
        let read = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_keys(&path).map(|keys| names(&keys)).map_err(|error| error.to_string())
        };
        let [one, two] = [1, 2].map(|byte| TicketKey::of(&[byte; SECRET_LEN]).name);
        let text = format!("# of Monday\n{}\r\n\n  {}", line(1), line(2).to_lowercase());
        assert_eq!(read(&text, 0o600), Ok(vec![one, two]));
        for (text, words) in [
            (String::new(), "holds no key"),
            ("# nothing\n".to_owned(), "openssl rand -hex 32"),
            (format!("{}\n{}", line(1), &line(2)[2..]), ":2: is no key"),
            ("x".repeat(64), ":1: is no key"),
            (format!("{}\n\n{}", line(1), line(1)), ":3: is the key of line 1"),
            ((0..17).map(|key| line(key) + "\n").collect(), ":17: is one key more"),
        ] {
            let error = read(&text, 0o600).unwrap_err();
            assert!(error.contains(words), "{error:?} lacks {words:?}");
        }
        assert!(read(&line(1), 0o644).unwrap_err().contains("0644"));
        fs::remove_file(&path).unwrap();
        assert!(read_keys(&path).err().unwrap().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_changed_file_is_taken_and_a_bad_one_keeps_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tickets.keys");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write(&line(1));
        let tickets = Tickets::load(Some(&path)).unwrap();
        let ticketer = tickets.ticketer();
        let ticket = ticketer.encrypt(SESSION).unwrap();
        assert_eq!(tickets.refresh(Some(&path)).unwrap(), None);
        write("hello");
        assert!(tickets.refresh(Some(&path)).is_err());
        assert!(ticketer.decrypt(&ticket).is_some());
        write(&format!("{}\n{}\n", line(2), line(1)));
        assert!(tickets.refresh(Some(&path)).unwrap().unwrap().ends_with(": 2 keys"));
        assert!(ticketer.decrypt(&ticket).is_some());
        write(&line(2));
        assert!(tickets.refresh(Some(&path)).unwrap().unwrap().ends_with(": 1 key"));
        assert_eq!(ticketer.decrypt(&ticket), None);

        // A reload makes settings of its own, and keeps keys that were drawn.
        let reloaded = tickets.reload(Some(&path)).unwrap();
        assert_eq!(reloaded.summary_since(&tickets), None);
        let drawn = tickets.reload(None).unwrap();
        assert!(drawn.summary_since(&tickets).is_some());
        assert_eq!(tickets.summary_since(&drawn).as_deref(), Some("1 key"));
        let ticket = drawn.ticketer().encrypt(SESSION).unwrap();
        assert!(drawn.reload(None).unwrap().ticketer().decrypt(&ticket).is_some());
    }
}
