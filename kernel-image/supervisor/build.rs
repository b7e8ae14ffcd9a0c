//! Lists the Python files that the supervisor carries, so that a new one needs no line of Rust.
use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../kernel/kernelbox_kernel");
    println!("cargo:rerun-if-changed={}", package.display());
    let mut files = Vec::new();
    if package.is_dir() {
        for entry in fs::read_dir(&package)? {
            let path = entry?.path();
            if path.is_file() {
                println!("cargo:rerun-if-changed={}", path.display());
                files.push(path);
            }
        }
    }
    files.sort();
    let mut list = format!("pub(crate) const FILES: [(&str, &str); {}] = [\n", files.len());
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(list, "    ({name:?}, include_str!({:?})),", path.display().to_string())?;
    }
    list.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("python_files.rs"), list)?;
    Ok(())
}
