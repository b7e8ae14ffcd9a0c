//! Where a kernel's output goes: to the execution that it belongs to, and otherwise to those who watch the session.
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, Weak},
};

use kernelbox_proto::v1::{LateOutput, MimeBundle, MimePart, StreamText, late_output, mime_part, session_event};
use serde::Deserialize;

use crate::{
    convert::{self, Bundle, Content, Output},
    events::SessionEvents,
    execution::Execution,
    jupyter::Message,
    sync::lock,
};

/// The most displays whose makers are remembered.
const MAX_DISPLAYS: usize = 10_000;
/// The most executions to which late output is attributed.
const MAX_RECENT: usize = 1_000;
/// The most that is told of one late output.
const LATE_LIMIT: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Router {
    context: String,
    events: SessionEvents,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<(String, Arc<Execution>)>,
    /// Whether the current execution was told that widgets are not passed on.
    told_of_widgets: bool,
    displays: HashMap<String, String>,
    display_order: VecDeque<String>,
    recent: VecDeque<(String, Weak<Execution>)>,
}

impl Router {
    pub(super) fn new(context: &str, events: SessionEvents) -> Self {
        Self { context: context.to_owned(), events, state: Mutex::default() }
    }

    /// From now on messages of the request `id` belong to the execution.
    pub(super) fn open(&self, id: &str, execution: &Arc<Execution>) {
        let mut state = lock(&self.state);
        if state.recent.len() >= MAX_RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back((id.to_owned(), Arc::downgrade(execution)));
        state.current = Some((id.to_owned(), Arc::clone(execution)));
        state.told_of_widgets = false;
    }

    /// The execution gets no more.
    pub(super) fn close(&self) {
        lock(&self.state).current = None;
    }

    /// Takes a message of the iopub channel.
    pub(super) fn take(&self, message: &Message) {
        let mut state = lock(&self.state);
        let current = state.current.as_ref().filter(|(id, _)| *id == message.parent).map(|(_, e)| Arc::clone(e));
        match (message.kind.as_str(), current) {
            ("status" | "iopub_welcome", _) => {}
            ("execute_input", Some(execution)) => execution.started(execution_count(message)),
            ("execute_input", None) => {}
            ("comm_open", Some(execution)) => {
                if !std::mem::replace(&mut state.told_of_widgets, true) {
                    let note = "[kernelbox] widgets are not passed on: only their text is shown\n".to_owned();
                    execution.output(Output::Stderr(note), |_| String::new());
                }
            }
            ("comm_open" | "comm_msg" | "comm_close", _) => {}
            ("stream", Some(execution)) if execution.is_full() => {}
            (kind, current) => match convert::output(kind, &message.content) {
                Ok(Some(output)) => match current {
                    Some(execution) => state.own(&execution, output),
                    None => self.late(&state, &message.parent, output),
                },
                Ok(None) => tracing::info!(kind, context = self.context, "a message of this kind is not passed on"),
                Err(error) => tracing::warn!(%error, kind, context = self.context, "odd message of the kernel"),
            },
        }
    }

    fn late(&self, state: &State, parent: &str, output: Output) {
        let output = match output {
            Output::Stdout(text) => late_output::Output::Stdout(StreamText { text: cut(text) }),
            Output::Stderr(text) => late_output::Output::Stderr(StreamText { text: cut(text) }),
            Output::Display(bundle) | Output::Update(bundle) | Output::Result { bundle, .. } => {
                late_output::Output::Display(small(bundle))
            }
            Output::Error(error) => late_output::Output::Stderr(StreamText { text: cut(error.traceback.join("\n")) }),
            Output::Clear { .. } => return,
        };
        let owner =
            state.recent.iter().rev().find(|(id, _)| id == parent).and_then(|(_, execution)| execution.upgrade());
        self.events.send(session_event::Kind::LateOutput(LateOutput {
            context: self.context.clone(),
            execution: owner.map(|execution| execution.identity.name.clone()).unwrap_or_default(),
            output: Some(output),
        }));
    }
}

impl State {
    fn own(&mut self, execution: &Execution, output: Output) {
        if let Output::Display(Bundle { display_id, .. }) | Output::Result { bundle: Bundle { display_id, .. }, .. } =
            &output
            && !display_id.is_empty()
            && self.displays.insert(display_id.clone(), execution.identity.name.clone()).is_none()
        {
            self.display_order.push_back(display_id.clone());
            if self.display_order.len() > MAX_DISPLAYS
                && let Some(oldest) = self.display_order.pop_front()
            {
                self.displays.remove(&oldest);
            }
        }
        execution.output(output, |display_id| self.displays.get(display_id).cloned().unwrap_or_default());
    }
}

fn execution_count(message: &Message) -> i32 {
    #[derive(Deserialize)]
    struct Input {
        execution_count: i32,
    }
    serde_json::from_slice::<Input>(&message.content).map_or(0, |input| input.execution_count)
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LATE_LIMIT));
    text
}

/// A late display: its parts that are small enough.
fn small(bundle: Bundle) -> MimeBundle {
    let Bundle { parts, metadata, display_id } = bundle;
    let mut room = LATE_LIMIT;
    let parts = parts.into_iter().filter_map(|(media_type, content)| {
        room = room.checked_sub(content.size())?;
        let content = match content {
            Content::Text(text) => mime_part::Content::Text(text),
            Content::Json(json) => mime_part::Content::Json(json),
            Content::Data(data) => mime_part::Content::Data(data),
        };
        Some(MimePart { media_type, content: Some(content) })
    });
    MimeBundle { parts: parts.collect(), metadata, display_id }
}
