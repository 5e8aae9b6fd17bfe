//! The file as the source of the configurations of reloads.

use std::path::PathBuf;
use std::sync::Arc;

use super::{ACCOUNTS, fixed_names, warnings};
use crate::cli::LevelHandle;
use crate::config::{self, Change, Config};
use crate::control::{Candidate, Refusal, Source};
use crate::tls::ServerTls;
use crate::worker::mailbox::Snapshot;

/// The configuration file of this process.
pub(super) struct FileSource {
    pub(super) path: PathBuf,
    pub(super) log_level: LevelHandle,
}

impl Source for FileSource {
    fn read(&mut self, running: &Snapshot) -> Result<Candidate, Refusal> {
        let config = config::load(&self.path, ACCOUNTS)
            .map_err(|errors| Refusal::of_configuration(lines(errors)))?;
        let changes = config.changes_since(&running.config);
        let (tls, mut errors) = match running.tls.reload(&config.certificates, config.tls) {
            Ok(tls) => (Some(tls), Vec::new()),
            Err(error) => (None, lines(error)),
        };
        let fixed = changes.iter().filter(|change| change.is_fixed());
        errors.extend(fixed.map(|change| {
            format!("{change}: this cannot change while the process runs; restart it instead")
        }));
        errors.extend(other_listeners(&config, &running.config));
        let Some(tls) = tls.filter(|_| errors.is_empty()) else {
            return Err(Refusal::of_configuration(errors));
        };
        Ok(Candidate {
            changes: all_changes(&changes, &tls, running),
            warnings: [warnings(&config, &tls), fixed_names(&config)].concat(),
            snapshot: Snapshot {
                generation: running.generation + 1,
                config: Arc::new(config),
                tls,
            },
        })
    }

    fn applied(&mut self, snapshot: &Snapshot) {
        self.log_level.set(snapshot.config.log.level);
    }
}

/// Returns the changes of keys, and the certificates whose files hold others than before.
fn all_changes(changes: &[Change], tls: &ServerTls, running: &Snapshot) -> Vec<String> {
    let renewed = tls.summaries_since(&running.tls);
    let renewed = renewed.into_iter().map(|summary| format!("certificate read: {summary}"));
    changes.iter().map(Change::to_string).chain(renewed).collect()
}

fn lines(text: impl ToString) -> Vec<String> {
    text.to_string().lines().map(str::to_owned).collect()
}

/// Returns an error if the listeners or their addresses are others.
fn other_listeners(config: &Config, running: &Config) -> Option<String> {
    let bound = |config: &Config| {
        let listeners = config.listeners.iter();
        listeners.map(|one| (one.name.clone(), one.addresses.clone())).collect::<Vec<_>>()
    };
    (bound(config) != bound(running)).then(|| {
        "listeners: names, order and addresses cannot change while the process runs; restart it \
         instead"
            .to_owned()
    })
}
