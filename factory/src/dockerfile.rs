//! Which images a Dockerfile is built from, by the rules of the Dockerfile reference. Pure.
//!
//! It decides what is an image and what is a stage of the same file; it does not know registries, and takes no guess where
//! a build argument decides.

mod lines;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeSet;

use drop_oci::Reference;

use lines::Instruction;
use words::{Variables, expand, flags, split};

/// The empty image: nothing to watch.
const SCRATCH: &str = "scratch";

/// The images that one Dockerfile needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Base images and other external inputs as written, each once, in order.
    pub images: Vec<String>,
    /// What only a build could say.
    pub unresolved: Vec<Unresolved>,
}

/// A place where an image is named by something that the file does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The line, counted from 1.
    pub line: usize,
    /// The image, as written.
    pub image: String,
    /// What is missing.
    pub reason: String,
}

/// Why a text is no Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Finds the images of a Dockerfile.
pub fn discover(text: &str) -> Result<Discovery, Mistake> {
    let (instructions, escape) = lines::instructions(text)?;
    let mut finder = Finder {
        escape,
        globals: Variables::new(),
        stages: stage_names(&instructions),
        earlier: BTreeSet::new(),
        seen: BTreeSet::new(),
        found: Discovery::default(),
    };
    let mut has_stage = false;
    for instruction in &instructions {
        match instruction.keyword.as_str() {
            "FROM" => {
                has_stage = true;
                finder.from(instruction)?;
            }
            "ARG" if !has_stage => finder.global(instruction),
            _ if !has_stage => {
                return Err(mistake(
                    instruction.line,
                    &format!("{} stands before the first FROM", instruction.keyword),
                ));
            }
            "COPY" => finder.copy(instruction),
            "RUN" => finder.run(instruction),
            _ => {}
        }
    }
    if !has_stage {
        return Err(mistake(
            instructions.last().map_or(1, |last| last.line),
            "there is no FROM: a Dockerfile has at least one",
        ));
    }
    Ok(finder.found)
}

struct Finder {
    escape: char,
    /// `ARG`s before the first `FROM`.
    globals: Variables,
    /// Stages of the whole file: `--from` may name any.
    stages: BTreeSet<String>,
    /// Stages before the current one: `FROM` may name only these.
    earlier: BTreeSet<String>,
    seen: BTreeSet<Reference>,
    found: Discovery,
}

impl Finder {
    fn global(&mut self, instruction: &Instruction) {
        for word in split(&instruction.rest, self.escape) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, expand(value, self.escape, &self.globals).ok()),
                None => (word.as_str(), None),
            };
            self.globals.insert(name.to_owned(), value);
        }
    }

    fn from(&mut self, instruction: &Instruction) -> Result<(), Mistake> {
        let words = split(&instruction.rest, self.escape);
        let words: Vec<&str> = words
            .iter()
            .map(String::as_str)
            .skip_while(|word| word.starts_with("--"))
            .collect();
        let (image, stage) = match words[..] {
            [image] => (image, None),
            [image, word, stage] if word.eq_ignore_ascii_case("as") => (image, Some(stage)),
            _ => {
                return Err(mistake(
                    instruction.line,
                    "FROM takes an image, or an image AS a name",
                ));
            }
        };
        self.base(image, instruction.line)?;
        if let Some(stage) = stage {
            self.earlier.insert(stage.to_ascii_lowercase());
        }
        Ok(())
    }

    fn base(&mut self, written: &str, line: usize) -> Result<(), Mistake> {
        let image = match expand(written, self.escape, &self.globals) {
            Ok(image) => image,
            Err(reason) => {
                self.unresolved(line, written, reason.to_string());
                return Ok(());
            }
        };
        if image.eq_ignore_ascii_case(SCRATCH) || self.earlier.contains(&image.to_ascii_lowercase())
        {
            return Ok(());
        }
        match image.parse::<Reference>() {
            Ok(reference) => self.image(reference, image),
            // Without the build's arguments it may be incomplete, and complete with them.
            Err(error) if written.contains('$') => {
                self.unresolved(line, written, error.to_string());
            }
            Err(error) => return Err(mistake(line, &error.to_string())),
        }
        Ok(())
    }

    fn copy(&mut self, instruction: &Instruction) {
        for (name, value) in flags(&instruction.rest, self.escape) {
            if name == "from" {
                self.input(&value, instruction.line);
            }
        }
    }

    fn run(&mut self, instruction: &Instruction) {
        for (name, value) in flags(&instruction.rest, self.escape) {
            if name != "mount" {
                continue;
            }
            for option in value.split(',') {
                let option = option.trim().trim_matches('"');
                if let Some((key, value)) = option.split_once('=')
                    && key.eq_ignore_ascii_case("from")
                {
                    self.input(value, instruction.line);
                }
            }
        }
    }

    /// What `--from` or `from=` names: a stage, a stage's number, or an image. Variables are not replaced there.
    fn input(&mut self, written: &str, line: usize) {
        let is_stage =
            self.stages.contains(&written.to_ascii_lowercase()) || written.parse::<usize>().is_ok();
        if is_stage || written.is_empty() || written.eq_ignore_ascii_case(SCRATCH) {
            return;
        }
        if written.contains('$') {
            let reason = "variables are not replaced here: name a stage with FROM ... AS";
            self.unresolved(line, written, reason.to_owned());
            return;
        }
        if let Ok(reference) = written.parse::<Reference>() {
            self.image(reference, written.to_owned());
        } else {
            let reason = "neither a stage nor an image: a context that the build names";
            self.unresolved(line, written, reason.to_owned());
        }
    }

    fn image(&mut self, reference: Reference, written: String) {
        if self.seen.insert(reference.or_latest()) {
            self.found.images.push(written);
        }
    }

    fn unresolved(&mut self, line: usize, image: &str, reason: String) {
        self.found.unresolved.push(Unresolved {
            line,
            image: image.to_owned(),
            reason,
        });
    }
}

fn stage_names(instructions: &[Instruction]) -> BTreeSet<String> {
    instructions
        .iter()
        .filter(|instruction| instruction.keyword == "FROM")
        .filter_map(|instruction| {
            let words: Vec<&str> = instruction.rest.split_whitespace().collect();
            match words[..] {
                [.., word, stage] if word.eq_ignore_ascii_case("as") => {
                    Some(stage.to_ascii_lowercase())
                }
                _ => None,
            }
        })
        .collect()
}

fn mistake(line: usize, message: &str) -> Mistake {
    Mistake {
        line,
        message: message.to_owned(),
    }
}
