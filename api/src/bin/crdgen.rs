//! Prints the custom resource definitions: the only writer of the chart's `crds` directory.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use drop_api::{CrdFile, render};

const USAGE: &str = "usage: crdgen                print all definitions
       crdgen --dir DIR      write one file per definition
       crdgen --check DIR    exit 1 and name the files that are not current";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let files = match render() {
        Ok(files) => files,
        Err(error) => return fail(&error.to_string()),
    };
    let outcome = match args.as_slice() {
        [] => print(&files),
        ["--dir", dir] => write(&files, Path::new(dir)),
        ["--check", dir] => check(&files, Path::new(dir)),
        _ => {
            let _ = writeln!(io::stderr(), "{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "crdgen: {message}");
    ExitCode::FAILURE
}

fn print(files: &[CrdFile]) -> Result<(), String> {
    let documents: Vec<&str> = files.iter().map(|file| file.yaml.as_str()).collect();
    io::stdout()
        .write_all(documents.join("---\n").as_bytes())
        .map_err(|error| format!("cannot print: {error}"))
}

fn write(files: &[CrdFile], dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    for file in files {
        let path = dir.join(&file.name);
        fs::write(&path, &file.yaml)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn check(files: &[CrdFile], dir: &Path) -> Result<(), String> {
    let mut stale = String::new();
    for file in files {
        let path = dir.join(&file.name);
        if fs::read_to_string(&path).ok().as_ref() != Some(&file.yaml) {
            let _ = write!(stale, "\n  {}", path.display());
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!(
        "not current, run crdgen --dir {}:{stale}",
        dir.display()
    ))
}
