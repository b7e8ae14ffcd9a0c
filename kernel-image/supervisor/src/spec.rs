//! Kernel specs: which kernels the sandbox has, and how they are started.
use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use kernelbox_proto::{Error, v1::ErrorCode};
use serde::Deserialize;

/// The kernel that is forked from the zygote.
pub const PYTHON: &str = "python3";

/// How kernels are found and started.
#[derive(Debug, Clone)]
pub struct Specs {
    folders: Vec<PathBuf>,
    python: PathBuf,
}

/// A kernel that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    pub display_name: String,
    pub language: String,
    /// `{connection_file}` stands for the connection file. Empty for python3, which the zygote starts.
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Interrupts are sent as messages, not as signals.
    pub interrupt_by_message: bool,
}

impl Spec {
    /// Whether it is Kernelbox's own Python kernel, which knows per-cell settings and tells its variables.
    pub fn is_ours(&self) -> bool {
        self.name == PYTHON
    }
}

#[derive(Deserialize)]
struct File {
    argv: Vec<String>,
    #[serde(default)]
    display_name: String,
    #[serde(default)]
    language: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    interrupt_mode: String,
}

impl Specs {
    /// Kernels of the interpreter's prefix, of JUPYTER_PATH, of the machine and of the user, the first of a name wins.
    pub fn new(python: &Path) -> Self {
        let mut folders: Vec<PathBuf> = env::var_os("JUPYTER_PATH")
            .map(|paths| env::split_paths(&paths).map(|path| path.join("kernels")).collect())
            .unwrap_or_default();
        if let Some(prefix) = python.parent().and_then(Path::parent) {
            folders.push(prefix.join("share/jupyter/kernels"));
        }
        if let Some(home) = env::var_os("HOME") {
            folders.push(PathBuf::from(home).join(".local/share/jupyter/kernels"));
        }
        folders.extend(["/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels"].map(PathBuf::from));
        Self { folders, python: python.to_owned() }
    }

    /// The kernel of that name. An empty name means python3.
    pub fn find(&self, name: &str) -> Result<Spec, Error> {
        let name = if name.is_empty() { PYTHON } else { name };
        let valid = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b)) && !name.starts_with('.');
        let found = valid.then(|| self.folders.iter().find_map(|folder| self.read(&folder.join(name), name))).flatten();
        match found {
            Some(spec) => Ok(spec),
            None if name == PYTHON => Ok(python()),
            None => {
                let known = self.list().into_iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ");
                Err(Error::new(
                    ErrorCode::KernelNotFound,
                    format!("kernel {name:?} is not installed; there are: {known}"),
                ))
            }
        }
    }

    /// All kernels, sorted by name.
    pub fn list(&self) -> Vec<Spec> {
        let mut specs = BTreeMap::from([(PYTHON.to_owned(), python())]);
        for folder in self.folders.iter().rev() {
            let Ok(entries) = folder.read_dir() else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().to_lowercase();
                if let Some(spec) = self.read(&entry.path(), &name) {
                    specs.insert(name, spec);
                }
            }
        }
        specs.into_values().collect()
    }

    fn read(&self, folder: &Path, name: &str) -> Option<Spec> {
        let text = std::fs::read(folder.join("kernel.json")).ok()?;
        let File { argv, display_name, language, env, interrupt_mode } = serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, folder = %folder.display(), "odd kernel spec"))
            .ok()?;
        let display_name = if display_name.is_empty() { name.to_owned() } else { display_name };
        let ours = name == PYTHON;
        let argv = if ours { Vec::new() } else { argv.iter().map(|arg| self.expand(arg, folder)).collect() };
        let spec = Spec {
            name: name.to_owned(),
            display_name,
            language,
            argv: self.interpreter(argv),
            env,
            interrupt_by_message: !ours && interrupt_mode == "message",
        };
        (ours || !spec.argv.is_empty()).then_some(spec)
    }

    fn expand(&self, arg: &str, folder: &Path) -> String {
        let prefix = self.python.parent().and_then(Path::parent).unwrap_or(Path::new(""));
        arg.replace("{resource_dir}", &folder.to_string_lossy()).replace("{prefix}", &prefix.to_string_lossy())
    }

    /// A spec that says only "python" means the interpreter that it was installed for.
    fn interpreter(&self, mut argv: Vec<String>) -> Vec<String> {
        if let Some(program) = argv.first_mut()
            && (program == "python" || program == "python3")
        {
            *program = self.python.to_string_lossy().into_owned();
        }
        argv
    }
}

fn python() -> Spec {
    Spec {
        name: PYTHON.to_owned(),
        display_name: "Python 3 (ipykernel)".to_owned(),
        language: "python".to_owned(),
        argv: Vec::new(),
        env: BTreeMap::new(),
        interrupt_by_message: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_found_by_name_and_odd_names_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("share/jupyter/kernels/bash");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("kernel.json"),
            r#"{"argv":["python","-m","bash_kernel","-f","{connection_file}"],"display_name":"Bash","language":"bash"}"#,
        )
        .unwrap();
        let python = dir.path().join("bin/python");
        let specs = Specs { folders: vec![dir.path().join("share/jupyter/kernels")], python: python.clone() };
        let bash = specs.find("bash").unwrap();
        assert_eq!((bash.argv[0].as_str(), bash.language.as_str()), (python.to_str().unwrap(), "bash"));
        assert!(specs.find("").unwrap().is_ours());
        assert_eq!(specs.list().into_iter().map(|s| s.name).collect::<Vec<_>>(), ["bash", "python3"]);
        for name in ["../bash", "julia", ".", "a/b"] {
            assert_eq!(specs.find(name).unwrap_err().code, ErrorCode::KernelNotFound, "{name}");
        }
    }
}
