//! The contexts of a sandbox.
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use kernelbox_proto::{
    ContextId, Error,
    v1::{self, ErrorCode},
};

use crate::{
    context::{Context, Settings},
    sandbox::Sandbox,
    spec::Spec,
    sync::lock,
};

#[derive(Debug)]
pub struct Contexts {
    sandbox: Arc<Sandbox>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they were made.
    live: Vec<Arc<Context>>,
    /// Being ended: their names are free when they are.
    ending: HashSet<String>,
    ended: bool,
}

/// How a new context is to be.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub cwd: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub fresh: bool,
}

impl Contexts {
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox, state: Mutex::default() }
    }

    /// The context for an execution; one that does not exist is made. Empty names mean the default.
    pub fn for_execution(&self, id: &str, kernel: &str) -> Result<Arc<Context>, Error> {
        let existing = |id: &str| lock(&self.state).live.iter().find(|context| context.id == id).cloned();
        if !id.is_empty() {
            let id: ContextId = id.parse()?;
            if let Some(context) = existing(id.as_str()) {
                return same_kernel(context, kernel);
            }
            return self.create(id.as_str(), kernel, Wanted::default());
        }
        let id = default_id(if kernel.is_empty() { crate::spec::PYTHON } else { kernel });
        match existing(&id) {
            Some(context) => same_kernel(context, kernel),
            None => self.create(&id, kernel, Wanted::default()),
        }
    }

    /// Makes a context. One that exists with the same kernel is the answer too.
    pub fn create(&self, id: &str, kernel: &str, wanted: Wanted) -> Result<Arc<Context>, Error> {
        let id: ContextId = id.parse()?;
        let spec = self.sandbox.specs.find(kernel)?;
        let mut state = lock(&self.state);
        if let Some(context) = state.live.iter().find(|context| context.id == id.as_str()) {
            return same_kernel(Arc::clone(context), &spec.name);
        }
        if state.ended || state.ending.contains(id.as_str()) {
            return Err(Error::new(ErrorCode::Conflict, format!("context {id} is being deleted; try again")));
        }
        if state.live.len() >= self.sandbox.max_contexts {
            let message = format!("there are {} contexts, the most allowed; delete one", state.live.len());
            return Err(Error::new(ErrorCode::QuotaExceeded, message));
        }
        let context = Arc::new(self.start(id.as_str(), spec, wanted));
        state.live.push(Arc::clone(&context));
        Ok(context)
    }

    /// The context of that name.
    pub fn get(&self, id: &ContextId) -> Result<Arc<Context>, Error> {
        let state = lock(&self.state);
        state.live.iter().find(|context| context.id == id.as_str()).cloned().ok_or_else(|| {
            Error::new(ErrorCode::ContextNotFound, format!("no context {id}; ListContexts says which there are"))
        })
    }

    /// Ends a context; returns when its kernel is gone.
    pub async fn delete(&self, id: &ContextId) -> Result<(), Error> {
        let context = {
            let mut state = lock(&self.state);
            let place = state.live.iter().position(|context| context.id == id.as_str()).ok_or_else(|| {
                Error::new(ErrorCode::ContextNotFound, format!("no context {id}; ListContexts says which there are"))
            })?;
            state.ending.insert(id.to_string());
            state.live.remove(place)
        };
        context.end().await;
        lock(&self.state).ending.remove(id.as_str());
        Ok(())
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<Context>> {
        lock(&self.state).live.clone()
    }

    /// All of them as the API tells them.
    pub fn describe(&self, session: &str) -> Vec<v1::Context> {
        self.list().iter().map(|context| context.describe(session)).collect()
    }

    /// Ends all; none can be made any more.
    pub async fn end(&self) {
        let live = {
            let mut state = lock(&self.state);
            state.ended = true;
            std::mem::take(&mut state.live)
        };
        futures::future::join_all(live.iter().map(|context| context.end())).await;
    }

    fn start(&self, id: &str, spec: Spec, wanted: Wanted) -> Context {
        let Wanted { cwd, env, fresh } = wanted;
        let cwd = cwd.unwrap_or_else(|| self.sandbox.workspace.clone());
        Context::start(Arc::clone(&self.sandbox), id, Settings { spec, fresh, cwd, env })
    }
}

fn same_kernel(context: Arc<Context>, kernel: &str) -> Result<Arc<Context>, Error> {
    if kernel.is_empty() || context.kernel == kernel {
        return Ok(context);
    }
    let message = format!("context {} exists with kernel {}; name another context", context.id, context.kernel);
    Err(Error::new(ErrorCode::AlreadyExists, message))
}

/// A kernel's own context bears its name, as far as an id can.
fn default_id(kernel: &str) -> String {
    let id: String = kernel
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c) { c } else { '-' })
        .take(63)
        .collect();
    if id.starts_with('-') { format!("k{}", &id[..id.len().min(62)]) } else { id }
}
