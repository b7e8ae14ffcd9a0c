//! The stream of a turn's events after any of them: from the database what was, then live what comes.
use std::{sync::Arc, time::Duration};

use async_stream::try_stream;
use futures::stream::BoxStream;
use kernelbox_proto::{
    Error, TurnName,
    v1::{ErrorCode, TurnEvent, turn_event::Kind},
};
use tokio::sync::broadcast::error::RecvError;

use super::Running;
use crate::store::Store;

/// How often a turn that runs elsewhere is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Ends after the turn's last event.
pub(super) fn events(
    store: Store,
    running: Option<Arc<Running>>,
    name: TurnName,
    after: i64,
) -> BoxStream<'static, Result<TurnEvent, Error>> {
    Box::pin(try_stream! {
        let mut last = after;
        // Before the first look into the database, so that nothing falls between the two.
        let mut live = running.as_ref().map(|running| running.recorder.subscribe());
        loop {
            let page = store.turn_events(&name, last).await?.ok_or_else(|| super::not_found(&name))?;
            check(&page.events, last, page.last_sequence, page.ended)?;
            let more = page.events.last().is_some_and(|event| event.sequence < page.last_sequence);
            for event in page.events {
                last = event.sequence;
                yield event;
            }
            if more {
                continue;
            }
            if page.ended {
                return;
            }
            let Some(live) = &mut live else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            loop {
                match live.recv().await {
                    Ok(event) if event.sequence <= last => {}
                    Ok(event) if event.sequence == last + 1 => {
                        last = event.sequence;
                        let over = is_last(&event);
                        yield event;
                        if over {
                            return;
                        }
                    }
                    // Some were missed, or it ended: the database has them.
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => {
                        tokio::time::sleep(LOOK).await;
                        break;
                    }
                }
            }
        }
    })
}

/// Whether the events go on where the caller left off.
fn check(events: &[TurnEvent], after: i64, last: i64, ended: bool) -> Result<(), Error> {
    if after > last {
        let problem =
            format!("after_sequence: the turn has {last} events so far; give the number of the last one that you got");
        return Err(Error::new(ErrorCode::OutOfRange, problem));
    }
    let removed = match events.first() {
        Some(first) => first.sequence != after + 1,
        None => ended && after < last,
    };
    if removed {
        return Err(Error::new(
            ErrorCode::OutOfRange,
            "the turn's events were removed (--turn-event-retention); GetTurn has its answer",
        ));
    }
    Ok(())
}

pub(super) fn is_last(event: &TurnEvent) -> bool {
    matches!(event.kind, Some(Kind::Completed(_) | Kind::Cancelled(_) | Kind::Failed(_)))
}
