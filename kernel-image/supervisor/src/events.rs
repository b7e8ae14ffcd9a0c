//! What happens in a session outside its executions, for those who watch it.
//!
//! One ring, bounded in events and bytes, that all watchers read: a slow one loses the oldest and the log says so; nobody ever waits
//! for a watcher.
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use futures::{Stream, stream};
use kernelbox_proto::v1::{SessionEvent, session_event::Kind};
use prost::Message as _;
use tokio::sync::Notify;

use crate::sync::lock;

/// The most events kept for slow watchers.
const MAX_EVENTS: usize = 1024;
/// The most bytes kept for slow watchers.
const MAX_BYTES: usize = 4 << 20;

/// The events of a session. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct SessionEvents(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<(SessionEvent, usize)>,
    bytes: usize,
    /// The number of the event that comes next.
    next: u64,
    watchers: usize,
    closed: bool,
}

impl SessionEvents {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        lock(&self.0.ring)
    }

    /// Tells all watchers; never waits.
    pub fn send(&self, kind: Kind) {
        let mut ring = self.lock();
        if ring.watchers == 0 || ring.closed {
            return;
        }
        let event = SessionEvent { time: Some(SystemTime::now().into()), kind: Some(kind) };
        let size = event.encoded_len();
        ring.events.push_back((event, size));
        ring.bytes += size;
        ring.next += 1;
        while ring.events.len() > MAX_EVENTS || (ring.bytes > MAX_BYTES && ring.events.len() > 1) {
            if let Some((_, size)) = ring.events.pop_front() {
                ring.bytes -= size;
            }
        }
        drop(ring);
        self.0.news.notify_waiters();
    }

    /// Ends every watcher's stream once it has read what there is.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.news.notify_waiters();
    }

    /// What is published from now on.
    pub fn watch(&self) -> impl Stream<Item = SessionEvent> + Send + use<> {
        let mut ring = self.lock();
        ring.watchers += 1;
        let watcher = Watcher { events: self.clone(), next: ring.next };
        drop(ring);
        stream::unfold(watcher, |mut watcher| async move { watcher.next().await.map(|event| (event, watcher)) })
    }
}

struct Watcher {
    events: SessionEvents,
    next: u64,
}

impl Watcher {
    async fn next(&mut self) -> Option<SessionEvent> {
        loop {
            let news = self.events.0.news.notified();
            tokio::pin!(news);
            // Enabled before the look, so that an event published between look and wait still wakes.
            news.as_mut().enable();
            {
                let ring = self.events.lock();
                let first = ring.next - ring.events.len() as u64;
                if self.next < first {
                    tracing::warn!(lost = first - self.next, "a watcher of the session is too slow and lost events");
                    self.next = first;
                }
                let at = usize::try_from(self.next - first).unwrap_or(usize::MAX);
                if let Some((event, _)) = ring.events.get(at) {
                    self.next += 1;
                    return Some(event.clone());
                }
                if ring.closed {
                    return None;
                }
            }
            news.await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut ring = self.events.lock();
        ring.watchers -= 1;
        if ring.watchers == 0 {
            ring.events.clear();
            ring.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures::StreamExt as _;
    use kernelbox_proto::v1::{Artifact, LateOutput, StreamText, late_output::Output};

    use super::*;

    fn artifact(size: i64) -> Kind {
        Kind::Artifact(Artifact { path: "a".into(), size, ..Artifact::default() })
    }

    fn size(event: &SessionEvent) -> i64 {
        match &event.kind {
            Some(Kind::Artifact(artifact)) => artifact.size,
            other => panic!("not an artifact: {other:?}"),
        }
    }

    #[tokio::test]
    async fn each_watcher_hears_all_from_when_it_came() {
        let events = SessionEvents::new();
        let mut first = pin!(events.watch());
        events.send(artifact(1));
        let mut second = pin!(events.watch());
        events.send(artifact(2));
        assert_eq!(size(&first.next().await.unwrap()), 1);
        assert_eq!(size(&first.next().await.unwrap()), 2);
        assert_eq!(size(&second.next().await.unwrap()), 2);
        events.close();
        assert!(first.next().await.is_none() && second.next().await.is_none());
    }

    #[tokio::test]
    async fn a_waiting_watcher_wakes() {
        let events = SessionEvents::new();
        let watcher = events.watch();
        let waiting = tokio::spawn(async move { pin!(watcher).next().await });
        tokio::task::yield_now().await;
        events.send(artifact(7));
        let event = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert_eq!(size(&event.unwrap()), 7);
    }

    #[tokio::test]
    async fn a_slow_watcher_loses_the_oldest_and_holds_up_nobody() {
        let events = SessionEvents::new();
        let mut slow = pin!(events.watch());
        let total = i64::try_from(MAX_EVENTS).unwrap() + 100;
        for n in 0..total {
            events.send(artifact(n));
        }
        assert_eq!(size(&slow.next().await.unwrap()), 100);
        events.close();
        assert_eq!(slow.count().await, MAX_EVENTS - 1);
    }

    #[test]
    fn large_events_are_bounded_in_bytes_and_gone_with_the_last_watcher() {
        let events = SessionEvents::new();
        let watcher = events.watch();
        for _ in 0..100 {
            let text = Some(Output::Stdout(StreamText { text: "x".repeat(256 << 10) }));
            events.send(Kind::LateOutput(LateOutput { output: text, ..LateOutput::default() }));
        }
        assert!(events.lock().bytes <= MAX_BYTES);
        drop(watcher);
        events.send(artifact(1));
        let ring = events.lock();
        assert_eq!((ring.bytes, ring.events.len()), (0, 0), "kept for nobody");
    }
}
