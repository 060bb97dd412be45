//! Reads what the user named: files, directories, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::problem::Problem;

/// More than this is no list of images.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Text and where it came from.
#[derive(Debug)]
pub(super) struct Source {
    /// A path, or "<stdin>".
    pub(super) name: String,
    pub(super) text: String,
}

/// Reads everything, in the order given; the files of a directory by name. What cannot be read is a problem, not the end.
pub(super) fn read(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<Source> {
    let mut sources = Vec::new();
    for path in paths {
        let files = match files(path) {
            Ok(files) if files.is_empty() => {
                problems.push(problem(path, "the directory holds no .yaml or .yml file"));
                continue;
            }
            Ok(files) => files,
            Err(error) => {
                problems.push(problem(path, &error.to_string()));
                continue;
            }
        };
        for file in files {
            match read_one(&file) {
                Ok(source) => sources.push(source),
                Err(error) => problems.push(problem(&file, &error.to_string())),
            }
        }
    }
    sources
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path == Path::new("-") || !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let is_yaml = file.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if is_yaml && file.is_file() {
            files.push(file);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn read_one(path: &Path) -> io::Result<Source> {
    let (name, reader): (String, Box<dyn Read>) = if path == Path::new("-") {
        ("<stdin>".to_owned(), Box::new(io::stdin()))
    } else {
        (path.display().to_string(), Box::new(fs::File::open(path)?))
    };
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(
            "larger than 16 MiB: that is no list of images",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8 text"))?;
    let text = text
        .strip_prefix('\u{feff}')
        .map_or(text.clone(), str::to_owned);
    Ok(Source { name, text })
}

fn problem(path: &Path, message: &str) -> Problem {
    let place = match path.to_str() {
        Some("-") => "<stdin>".to_owned(),
        _ => path.display().to_string(),
    };
    Problem {
        place,
        message: message.to_owned(),
    }
}
