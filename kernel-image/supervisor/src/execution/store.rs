//! The executions that the sandbox keeps, and the journal of all that the session ever ran: an id never runs twice, not even after
//! its sandbox is gone.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use cap_std::fs::Dir;
use kernelbox_proto::{
    Error, ExecutionId,
    v1::{self, ErrorCode},
};
use sha2::{Digest as _, Sha256};

use super::{Execution, Identity};
use crate::{
    output::{Meter, OutputFiles},
    sync::lock,
};

/// The most finished executions that are kept.
const MAX_KEPT: usize = 1_000;
/// The most memory that finished executions take together.
const MAX_MEMORY: usize = 12 << 20;
/// The most disk that finished executions take together.
const MAX_DISK: u64 = 256 << 20;
/// The most ids that the journal holds; the oldest are forgotten.
const MAX_JOURNAL: usize = 200_000;

#[derive(Debug)]
pub struct Executions {
    spill: PathBuf,
    workspace: Arc<Dir>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    journal: File,
    /// Hashes of every id that ever ran.
    ran: HashSet<u64>,
    by_number: BTreeMap<u64, Arc<Execution>>,
    numbers: HashMap<ExecutionId, u64>,
    next: u64,
}

/// What became of a request.
pub enum Admitted {
    /// It is new and has to be run, once.
    New(Arc<Execution>),
    /// It was asked for before.
    Known(Arc<Execution>),
}

impl Executions {
    /// Opens the journal below `state_dir`; events spilled by an earlier sandbox are removed.
    pub fn open(state_dir: &Path, workspace: Arc<Dir>) -> io::Result<Self> {
        let spill = state_dir.join("events");
        if spill.exists() {
            fs::remove_dir_all(&spill)?;
        }
        fs::create_dir_all(&spill)?;
        let path = state_dir.join("executions");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let lines: Vec<_> = text.lines().collect();
        let recent = &lines[lines.len().saturating_sub(MAX_JOURNAL)..];
        if recent.len() < lines.len() {
            let temporary = path.with_extension("new");
            fs::write(&temporary, recent.join("\n") + "\n")?;
            fs::rename(&temporary, &path)?;
        }
        let mut journal = File::options().create(true).append(true).open(&path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            journal.write_all(b"\n")?;
        }
        let ran = recent.iter().map(|id| hash(id)).collect();
        let kept = Kept { journal, ran, by_number: BTreeMap::new(), numbers: HashMap::new(), next: 0 };
        Ok(Self { spill, workspace, kept: Mutex::new(kept) })
    }

    /// Takes a request in. The id is in the journal before this returns a new execution.
    pub fn admit(&self, identity: Identity, code: &str, output_limit: u64) -> Result<Admitted, Error> {
        let fingerprint = fingerprint(&identity, code);
        let mut kept = lock(&self.kept);
        let id = identity.id.clone();
        if let Some(known) = kept.numbers.get(&id).and_then(|number| kept.by_number.get(number)) {
            return if known.fingerprint == fingerprint {
                Ok(Admitted::Known(Arc::clone(known)))
            } else {
                Err(Error::new(
                    ErrorCode::RequestIdReused,
                    format!("request_id {id} was used for another request; take a new one"),
                ))
            };
        }
        if kept.ran.contains(&hash(id.as_str())) {
            return Err(Error::new(
                ErrorCode::RequestIdReused,
                format!("request_id {id} ran before and its events are gone; it is not run again, take a new one"),
            ));
        }
        kept.journal.write_all(format!("{id}\n").as_bytes()).map_err(|error| {
            tracing::error!(%error, "cannot write the journal of executions");
            Error::new(ErrorCode::Internal, "the execution cannot be noted, so it was not run")
        })?;
        kept.ran.insert(hash(id.as_str()));
        let number = kept.next;
        kept.next += 1;
        let meter = Meter::new(output_limit, OutputFiles::new(Arc::clone(&self.workspace), id.as_str()));
        let spill = self.spill.join(id.as_str());
        let execution = Arc::new(Execution::new(identity, code, fingerprint, spill, meter));
        kept.numbers.insert(id, number);
        kept.by_number.insert(number, Arc::clone(&execution));
        kept.evict();
        Ok(Admitted::New(execution))
    }

    pub fn get(&self, id: &ExecutionId) -> Result<Arc<Execution>, Error> {
        let kept = lock(&self.kept);
        kept.numbers.get(id).and_then(|number| kept.by_number.get(number)).cloned().ok_or_else(|| {
            Error::new(
                ErrorCode::ExecutionNotFound,
                format!("no execution {id}: never started, or its events are gone"),
            )
        })
    }

    /// A page, newest first: those numbered below `before`, and where the next page begins.
    pub fn list(&self, before: Option<u64>, size: usize) -> (Vec<v1::Execution>, Option<u64>) {
        let page: Vec<_> = {
            let kept = lock(&self.kept);
            let older = kept.by_number.range(..before.unwrap_or(u64::MAX)).rev();
            older.take(size + 1).map(|(number, execution)| (*number, Arc::clone(execution))).collect()
        };
        let next = (page.len() > size).then(|| page[size - 1].0);
        (page.iter().take(size).map(|(_, execution)| execution.describe()).collect(), next)
    }
}

impl Kept {
    /// Lets the oldest finished executions go while there are too many.
    fn evict(&mut self) {
        let finished: Vec<_> =
            self.by_number.iter().filter(|(_, e)| e.is_finished()).map(|(n, e)| (*n, e.cost())).collect();
        let mut count = finished.len();
        let mut memory: usize = finished.iter().map(|(_, (memory, _))| memory).sum();
        let mut disk: u64 = finished.iter().map(|(_, (_, disk))| disk).sum();
        for (number, cost) in finished {
            if count <= MAX_KEPT && memory <= MAX_MEMORY && disk <= MAX_DISK {
                break;
            }
            count -= 1;
            memory -= cost.0;
            disk -= cost.1;
            if let Some(execution) = self.by_number.remove(&number) {
                self.numbers.remove(&execution.identity.id);
            }
        }
    }
}

fn hash(id: &str) -> u64 {
    let digest = Sha256::digest(id);
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// Tells whether two requests ask for the same.
fn fingerprint(identity: &Identity, code: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    for text in [&identity.context, &identity.kernel, code] {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::Outcome;
    use cap_std::ambient_authority;
    use kernelbox_proto::v1::ExecutionStatus;

    fn open(dir: &Path) -> Executions {
        let workspace = Dir::open_ambient_dir(dir, ambient_authority()).unwrap();
        Executions::open(dir, workspace.into()).unwrap()
    }

    fn identity(id: &str) -> Identity {
        Identity {
            id: id.parse().unwrap(),
            name: format!("sessions/s/executions/{id}"),
            context: "python3".into(),
            kernel: "python3".into(),
        }
    }

    #[test]
    fn the_same_request_again_is_the_same_execution_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let executions = open(dir.path());
        let Ok(Admitted::New(first)) = executions.admit(identity("a"), "1", 10) else { panic!() };
        let Ok(Admitted::Known(again)) = executions.admit(identity("a"), "1", 10) else { panic!() };
        assert!(Arc::ptr_eq(&first, &again));
        let error = executions.admit(identity("a"), "2", 10).err().unwrap();
        assert_eq!(error.code, ErrorCode::RequestIdReused);
    }

    #[test]
    fn an_id_of_an_earlier_sandbox_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).admit(identity("a"), "1", 10).is_ok());
        let executions = open(dir.path());
        assert_eq!(executions.admit(identity("a"), "1", 10).err().unwrap().code, ErrorCode::RequestIdReused);
        assert!(executions.admit(identity("b"), "1", 10).is_ok());
    }

    #[test]
    fn the_oldest_finished_executions_go_and_their_ids_stay_used() {
        let dir = tempfile::tempdir().unwrap();
        let executions = open(dir.path());
        let run = |id: String| match executions.admit(identity(&id), "1", 10) {
            Ok(Admitted::New(execution)) => execution,
            _ => panic!("{id}"),
        };
        let running = run("running".into());
        for n in 0..=MAX_KEPT + 1 {
            run(format!("e{n}")).finish(Outcome::new(ExecutionStatus::Ok));
        }
        run("last".into());
        assert!(executions.get(&running.identity.id).is_ok(), "what runs is never let go");
        assert_eq!(executions.get(&"e0".parse().unwrap()).err().unwrap().code, ErrorCode::ExecutionNotFound);
        assert_eq!(executions.admit(identity("e0"), "1", 10).err().unwrap().code, ErrorCode::RequestIdReused);
        let (page, next) = executions.list(None, 2);
        assert_eq!(page[0].name, "sessions/s/executions/last");
        let (page, _) = executions.list(next, 1);
        assert_eq!(page[0].name, format!("sessions/s/executions/e{MAX_KEPT}"));
    }
}
