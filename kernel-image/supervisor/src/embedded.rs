//! The Python side of the kernels, carried in the binary and written out at the start.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

include!(concat!(env!("OUT_DIR"), "/python_files.rs"));

/// Writes the Python files below `state_dir` and returns the program to start them with, `.../kernelbox_kernel/__main__.py`.
pub fn write(state_dir: &Path) -> io::Result<PathBuf> {
    let package = state_dir.join("python/kernelbox_kernel");
    fs::create_dir_all(&package)?;
    for (name, text) in FILES {
        let path = package.join(name);
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        // Another supervisor may share the folder: no reader must ever meet half a file.
        let temporary = package.join(format!(".{name}.{}", std::process::id()));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, &path)?;
    }
    Ok(package.join("__main__.py"))
}
