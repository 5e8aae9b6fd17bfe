//! The watch of the files of certificates and of ticket keys, and of the last days of certificates.
//!
//! ```text
//!  inotify ---rings--+
//!                    +--> look at the files --changed, then quiet--> read on a thread
//!  once a minute ----+                                                  |             |
//!                                                                 valid |             | refused
//!                                      a snapshot for the workers                     v
//!                                      (connections go on)            read again, then an
//!                                                                     error; the old one stays
//! ```
//!
//! The kernel's events only ring: whether a file has changed is seen by its state. File systems
//! whose changes are not reported, as those of a network, are looked at once a minute.

mod expiries;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout_at};

use crate::host::inotify::{FolderWatch, folders_on_the_way};
use crate::metrics::{CertificateFacts, CertificateReport};
use crate::tls::{Refreshed, ServerTls, TlsError};
use crate::worker::mailbox::Snapshot;

use super::state::State;
use expiries::Expiries;
use schedule::{Schedule, Verdict};

/// The longest time between two looks at the files, and at the clock for days that are left.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The pause after the bell has rung. Folders may hold files that change all the time.
const RING_PAUSE: Duration = Duration::from_millis(100);

/// Keeps the certificates of a process like their files, until the process ends.
pub(super) async fn keep(state: Rc<State>, clock: fn() -> (Instant, SystemTime)) {
    let (_, wall) = clock();
    let running = state.running();
    let tls = &running.tls;
    let mut keeper = Keeper {
        generation: running.generation,
        schedule: Schedule::new(tls.files().clone()),
        expiries: Expiries::begin(&tls.expiries(), wall),
        bell: bell(),
        refused_folders: BTreeSet::new(),
        refused: BTreeMap::new(),
        report: CertificateReport::default(),
    };
    keeper.publish(&state, tls);
    loop {
        let (now, wall) = clock();
        keeper.follow(&state);
        keeper.look(now);
        if keeper.schedule.is_due(now) {
            keeper.load(&state, clock).await;
        }
        let tls = state.running().tls.clone();
        tls.note_time(wall);
        keeper.expiries.log(&tls.expiries(), wall);
        keeper.wait(now).await;
    }
}

struct Keeper {
    /// The generation of the snapshot whose files it watches.
    generation: u64,
    schedule: Schedule,
    expiries: Expiries,
    bell: Option<FolderWatch>,
    /// Folders that could not be watched, each of which has been logged.
    refused_folders: BTreeSet<std::path::PathBuf>,
    /// The errors of certificates whose files are refused.
    refused: BTreeMap<String, TlsError>,
    report: CertificateReport,
}

impl Keeper {
    /// Takes the files of a configuration that a reload has brought.
    fn follow(&mut self, state: &State) {
        let running = state.running();
        if running.generation != self.generation {
            self.generation = running.generation;
            self.schedule = Schedule::new(running.tls.files().clone());
            self.refused.clear();
            self.publish(state, &running.tls);
        }
    }

    /// Looks at the files, and watches the folders on the way to each of them.
    fn look(&mut self, now: Instant) {
        let files = self.schedule.files();
        if let Some(bell) = &mut self.bell {
            // Before the look: what changes later rings.
            let folders = files.paths().flat_map(folders_on_the_way).collect();
            for (folder, error) in bell.watch(&folders) {
                if self.refused_folders.insert(folder.clone()) {
                    tracing::warn!(
                        "{} cannot be watched ({error}): a changed file in it is noticed \
                         once a minute only",
                        folder.display()
                    );
                }
            }
        }
        let files = files.look_again();
        self.schedule.look(now, files);
    }

    /// Waits until the bell rings, or it is time to look anyway.
    async fn wait(&mut self, now: Instant) {
        let next = self.schedule.next().unwrap_or(now + LOOK_INTERVAL);
        let at = next.min(now + LOOK_INTERVAL).into();
        let Some(bell) = &mut self.bell else { return sleep_until(at).await };
        let Ok(rung) = timeout_at(at, bell.changed()).await else { return };
        if let Err(error) = rung {
            tracing::warn!("certificates are looked at once a minute from now on: {error}");
            self.bell = None;
        }
        sleep(RING_PAUSE).await;
    }

    /// Reads the files on a thread of its own, since a network's file system may block, and hands
    /// what is new to the workers.
    async fn load(&mut self, state: &State, clock: fn() -> (Instant, SystemTime)) {
        let _turn = state.turn().await;
        // A reload may have had the turn before, with other files.
        self.follow(state);
        let snapshot = state.running();
        let read = Arc::clone(&snapshot);
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::Builder::new().name("certificates".to_owned());
        let spawned = thread.spawn(move || {
            // Fails if the process ends meanwhile.
            let _ = sender.send(read.tls.refresh(&read.config.certificates, &read.config.tls));
        });
        let refreshed = match spawned {
            Ok(_) => receiver.await.map_err(|_| "the thread that read them has died".to_owned()),
            Err(error) => Err(format!("no thread can be started: {error}")),
        };
        let (now, wall) = clock();
        match refreshed {
            Ok(refreshed) => self.take(state, &snapshot, refreshed, now, wall).await,
            Err(why) => {
                tracing::error!("changed certificates could not be read: {why}");
                self.schedule.handle_outcome(now, false);
            }
        }
    }

    async fn take(
        &mut self,
        state: &State,
        snapshot: &Snapshot,
        refreshed: Refreshed,
        now: Instant,
        wall: SystemTime,
    ) {
        let Refreshed { tls, renewed, refused, ticket_keys } = refreshed;
        if let Ok(Some(summary)) = &ticket_keys {
            tracing::info!("new ticket keys: {summary}");
        }
        for summary in &renewed {
            tracing::info!("{summary}");
        }
        self.report.loaded_count += renewed.len() as u64;
        if !renewed.is_empty() {
            tls.warnings(wall).iter().for_each(|warning| tracing::warn!("{warning}"));
            // An expired statement is never stapled.
            tls.note_time(wall);
            self.generation = snapshot.generation + 1;
            let next = Snapshot {
                config: Arc::clone(&snapshot.config),
                tls: tls.clone(),
                generation: self.generation,
                edges: snapshot.edges.clone(),
                listening: snapshot.listening.clone(),
            };
            for failure in state.swap(Arc::new(next)).await {
                tracing::error!("{failure}");
            }
        }
        let verdict = self.schedule.handle_outcome(now, refused.is_empty() && ticket_keys.is_ok());
        if verdict == Verdict::Report {
            self.report.refused_count += refused.len() as u64;
            if let Err(error) = &ticket_keys {
                tracing::error!("{error}; the ticket keys before it stay in use");
            }
            for refusal in &refused {
                tracing::error!("{}; what was read before it stays in use", refusal.error);
            }
            self.refused =
                refused.into_iter().map(|refusal| (refusal.certificate, refusal.error)).collect();
        }
        self.publish(state, &tls);
    }

    /// Publishes the facts for the metrics.
    fn publish(&mut self, state: &State, tls: &ServerTls) {
        let facts = tls.expiries().into_iter().map(|expiry| {
            let is_refused = self.refused.contains_key(&expiry.certificate);
            let not_after = expiry.not_after;
            (expiry.certificate, CertificateFacts { not_after, is_refused })
        });
        self.report.certificates = facts.collect();
        state.publish_certificates(self.report.clone());
    }
}

/// Returns the bell, or `None` if the host has none to give.
fn bell() -> Option<FolderWatch> {
    FolderWatch::new()
        .inspect_err(|error| {
            tracing::warn!(
                "folders cannot be watched ({error}): changed certificates are noticed once a \
                 minute only; see /proc/sys/fs/inotify"
            );
        })
        .ok()
}
