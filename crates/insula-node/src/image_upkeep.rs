//! What is done for mounted images in the background: their bytes are read again for damage, and memory that holds
//! them twice is given back.
//!
//! A mount reads its image's file through the page cache of that file, and has a page cache of its own: after
//! everything was read once, all of it is in memory twice. What the mount has stays when the file's part is dropped,
//! and reading it again does not bring the file's part back. So it is dropped some seconds after a mount, when the
//! first containers have started, and from then on now and then. The launcher, who mounts, does nothing that is slow.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_image::progress::Watch;
use insula_image::store::{Scrubbed, Store};
use insula_kernel::idle_priority::make_this_thread_idle;
use insula_model::{Bytes, ImageId};
use insula_plan::protocol::launcher::ImageKey;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::context::Context;
use crate::machine::image_key;

/// Mounts that are waited for one by one; what comes on top is dropped at the next turn of all.
const DUE_MAX: usize = 256;

/// Does all of it until the daemon ends.
pub(crate) async fn keep_up(context: Arc<Context>) {
    tokio::join!(drop_caches(&context), scrub(&context));
}

/// The mounted ones of the store's versions.
fn versions_of(store: &Store, mounted: &HashSet<ImageKey>) -> Vec<ImageId> {
    let images = store.list().into_iter();
    images.filter(|image| mounted.contains(&image_key(&image.info))).map(|image| image.info.id.clone()).collect()
}

async fn drop_caches(context: &Context) {
    let Some((after, interval)) = context.config.images.cache_drops() else { return };
    let mut mounts = context.host.mounts();
    let mut due: VecDeque<Instant> = VecDeque::from([Instant::now() + after]);
    let mut all = Instant::now() + interval;
    loop {
        if mounts.borrow_and_update().is_empty() {
            // Nothing to do and nobody to wake for.
            due.clear();
            if mounts.changed().await.is_err() {
                return;
            }
            due.push_back(Instant::now() + after);
            continue;
        }
        let next = due.front().map_or(all, |due| all.min(*due));
        tokio::select! {
            changed = mounts.changed() => {
                if changed.is_err() {
                    return;
                }
                if due.len() < DUE_MAX {
                    due.push_back(Instant::now() + after);
                }
                continue;
            }
            () = sleep_until(next) => {}
        }
        while due.front().is_some_and(|due| *due <= next) {
            due.pop_front();
        }
        all = Instant::now() + interval;
        let (store, mounted) = (context.images.store(), mounts.borrow().clone());
        let dropped = tokio::task::spawn_blocking(move || {
            for image in versions_of(&store, &mounted) {
                if let Err(error) = store.drop_cached(&image) {
                    tracing::debug!(%image, error = &error as &dyn std::error::Error, "drop the second copy in memory");
                }
            }
        });
        dropped.await.ok();
    }
}

/// Tells the thread that reads that nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn scrub(context: &Context) {
    let Some(interval) = context.config.images.scrub_interval() else { return };
    loop {
        tokio::time::sleep(interval).await;
        let mounted = context.host.mounts().borrow().clone();
        if mounted.is_empty() {
            continue;
        }
        let store = context.images.store();
        let rate = context.config.images.scrub_rate;
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(stop.clone());
        let (send, done) = oneshot::channel();
        // A thread of its own: it never gets its priority back.
        let reader = std::thread::Builder::new().name("image-scrub".to_owned()).spawn(move || {
            if let Err(errno) = make_this_thread_idle() {
                tracing::debug!(%errno, "images are checked with ordinary priority");
            }
            send.send(scrub_next(&store, &mounted, rate, &stop)).ok();
        });
        if let Err(error) = reader {
            tracing::warn!(%error, "no thread to check an image with");
            continue;
        }
        if let Ok(Some((image, damage))) = done.await {
            context.images.publish(&context.catalog);
            context.images.tell_damage(&image, &damage, context.running_of(&image));
        }
    }
}

/// Reads the version that was checked the longest time ago. What is wrong with it, if anything is.
fn scrub_next(
    store: &Store,
    mounted: &HashSet<ImageKey>,
    rate: Bytes,
    stop: &AtomicBool,
) -> Option<(ImageId, Vec<String>)> {
    let image = store.least_recently_checked(versions_of(store, mounted))?;
    let watch = Watch { progress: &|_| {}, cancelled: &|| stop.load(Ordering::Relaxed) };
    match store.scrub(&image, rate, Timestamp::now(), watch) {
        Ok(Scrubbed::Intact) => {
            tracing::debug!(%image, "every byte is right");
            None
        }
        Ok(Scrubbed::Misread) => {
            tracing::warn!(%image, "its bytes were read wrongly once, and rightly the next time: look at the disk");
            None
        }
        Ok(Scrubbed::Damaged(report)) => Some((image, report.damage.iter().map(ToString::to_string).collect())),
        Err(error) => {
            tracing::warn!(%image, error = &error as &dyn std::error::Error, "check of a mounted image");
            None
        }
    }
}
