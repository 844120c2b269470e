//! From files to policies. The only I/O of the module is here.

use std::{
    collections::HashMap,
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    assemble::assemble,
    diagnostic::{Diagnostic, Problem, Severity, render_all},
    drill::Drill,
    lint,
    model::Policy,
    redact::Mask,
    yaml::{self, Place},
};
use crate::error::{Error, ErrorKind};

/// The largest policy file that is read, in bytes.
pub const MAX_FILE_SIZE: u64 = 1024 * 1024;
/// The most files of a directory that are read.
const MAX_FILES: usize = 1000;

/// The most problems of one file that are shown.
const MAX_DIAGNOSTICS: usize = 200;

/// Policies that passed, by stack name in the order of their files.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySet {
    /// One per file.
    pub policies: Vec<Policy>,
    /// What works but may hurt.
    pub warnings: Vec<Diagnostic>,
}

/// Why policies are refused.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadError {
    /// Everything that is wrong, warnings included, in the order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
    kind: ErrorKind,
}

impl LoadError {
    fn one(kind: ErrorKind, diagnostic: Diagnostic) -> Self {
        Self { diagnostics: vec![diagnostic], kind }
    }

    /// [`ErrorKind::Policy`], or what kept the file from being read.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// How many of the diagnostics are errors.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|one| one.severity == Severity::Error).count()
    }

    /// All diagnostics as text for people.
    pub fn render(&self, color: bool) -> String {
        render_all(&self.diagnostics, color)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self.diagnostics.iter().filter(|one| one.severity == Severity::Error);
        let Some(first) = errors.next() else {
            return f.write_str("the policy is refused");
        };
        match first.line {
            0 => write!(f, "{}: {}", first.file, first.message)?,
            line => write!(f, "{}:{line}:{}: {}", first.file, first.column, first.message)?,
        }
        match errors.count() {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        let message = match error.errors() {
            1 => "the policy is invalid".to_owned(),
            errors => format!("the policy is invalid: {errors} errors"),
        };
        let message = if error.kind == ErrorKind::Policy {
            message
        } else {
            "failed to read the policy".to_owned()
        };
        Self::new(error.kind, message).with_source(error)
    }
}

/// What tells whether policy files changed: their names, lengths and times.
pub type Fingerprint = Vec<(PathBuf, u64, Option<std::time::SystemTime>)>;

/// The present fingerprint of a policy file, or of a directory of them. Empty if there is none.
pub fn fingerprint(path: &Path) -> Fingerprint {
    files(path)
        .unwrap_or_default()
        .into_iter()
        .map(|file| {
            let metadata = std::fs::metadata(&file).ok();
            let length = metadata.as_ref().map_or(0, std::fs::Metadata::len);
            (file, length, metadata.and_then(|metadata| metadata.modified().ok()))
        })
        .collect()
}

/// Reads a policy file, or all `*.yaml` and `*.yml` of a directory by name.
///
/// # Errors
/// [`ErrorKind::Policy`] with everything that is wrong; [`ErrorKind::NotFound`] and
/// [`ErrorKind::Denied`] where there is nothing to read.
pub fn load(path: &Path) -> Result<PolicySet, LoadError> {
    match load_valid(path)? {
        (set, None) => Ok(set),
        (_, Some(broken)) => Err(broken),
    }
}

/// The same, but one file that is refused does not keep the others from being used: what is wrong
/// with it is the second value, which has the warnings of the others too.
///
/// # Errors
/// As [`load`], where no policy can be used.
pub fn load_valid(path: &Path) -> Result<(PolicySet, Option<LoadError>), LoadError> {
    load_named(path, &|file| file.display().to_string())
}

/// Loads copies that [`keep`](super::keep()) made of the policies in `from`: what is said of them names
/// the files that a person has.
///
/// # Errors
/// As [`load`].
pub fn load_kept(kept: &Path, from: &Path) -> Result<PolicySet, LoadError> {
    let alone = !from.is_dir();
    let named = |file: &Path| match file.file_name() {
        Some(name) if !alone => from.join(name).display().to_string(),
        _ => from.display().to_string(),
    };
    match load_named(kept, &named)? {
        (set, None) => Ok(set),
        (_, Some(broken)) => Err(broken),
    }
}

fn load_named(
    path: &Path,
    named: &dyn Fn(&Path) -> String,
) -> Result<(PolicySet, Option<LoadError>), LoadError> {
    let mut policies: Vec<Policy> = Vec::new();
    let mut diagnostics = Vec::new();
    let mut failed = None;
    let mut stacks: HashMap<String, PathBuf> = HashMap::new();
    for file in files(path)? {
        let name = named(&file);
        match read(&file).and_then(|bytes| parse(bytes, &name)) {
            Ok(set) => {
                diagnostics.extend(set.warnings);
                for mut policy in set.policies {
                    if let Some(other) = stacks.insert(policy.stack.clone(), file.clone()) {
                        failed = Some(ErrorKind::Policy);
                        diagnostics.push(same_stack(&policy, &name, &other));
                        continue;
                    }
                    policy.file.clone_from(&file);
                    policies.push(policy);
                }
            }
            Err(error) => {
                failed = Some(error.kind);
                diagnostics.extend(error.diagnostics);
            }
        }
    }
    let broken = failed.map(|kind| LoadError { diagnostics: diagnostics.clone(), kind });
    match broken {
        Some(broken) if policies.is_empty() => Err(broken),
        broken => Ok((PolicySet { policies, warnings: diagnostics }, broken)),
    }
}

pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let name = path.display().to_string();
    let refuse = |error: &std::io::Error| io_error(&name, error);
    if !std::fs::metadata(path).map_err(|error| refuse(&error))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| refuse(&error))? {
        let file = entry.map_err(|error| refuse(&error))?.path();
        let yaml = file.extension().is_some_and(|end| end == "yaml" || end == "yml");
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if yaml && !hidden && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        let diagnostic = Diagnostic::of_file(&name, "no policy in this directory")
            .hint("a policy is a file that ends in .yaml or .yml");
        return Err(LoadError::one(ErrorKind::NotFound, diagnostic));
    }
    if files.len() > MAX_FILES {
        let diagnostic =
            Diagnostic::of_file(&name, format!("{} policy files in this directory", files.len()))
                .hint(format!("at most {MAX_FILES} are read: is this the right directory?"));
        return Err(LoadError::one(ErrorKind::Policy, diagnostic));
    }
    files.sort();
    Ok(files)
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, LoadError> {
    let name = file.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        // One byte more than is allowed tells a file that is too large, even one without a size.
        .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes))
        .map_err(|error| io_error(&name, &error))?;
    Ok(bytes)
}

fn io_error(name: &str, error: &std::io::Error) -> LoadError {
    let (kind, message, hint) = match error.kind() {
        std::io::ErrorKind::NotFound => (
            ErrorKind::NotFound,
            "no such file or directory".to_owned(),
            "name a policy with --policy PATH or BACKSTAY_POLICY",
        ),
        std::io::ErrorKind::PermissionDenied => (
            ErrorKind::Denied,
            "permission denied".to_owned(),
            "policies must be readable by the user this runs as",
        ),
        _ => (
            ErrorKind::Failed,
            format!("failed to read the file: {error}"),
            "try to read it by hand",
        ),
    };
    LoadError::one(kind, Diagnostic::of_file(name, message).hint(hint))
}

fn same_stack(policy: &Policy, name: &str, other: &Path) -> Diagnostic {
    let place = yaml::parse(&policy.text).map_or(Place::START, |root| root.place_of(&["stack"]));
    let message = format!("the stack `{}` is also in {}", policy.stack, other.display());
    let problem = Problem::error(place, message)
        .hint("one stack is one file: rename one of them, or merge both into one");
    diagnostic(&problem, name, &Mask::new(&policy.text, None))
}

/// Reads a policy from bytes. `file` names it in diagnostics. Pure.
///
/// # Errors
/// [`ErrorKind::Policy`] with everything that is wrong.
pub fn parse(bytes: impl AsRef<[u8]>, file: &str) -> Result<PolicySet, LoadError> {
    let refuse = |one| LoadError::one(ErrorKind::Policy, one);
    let text = text_of(bytes.as_ref(), file)?;
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err(problem) => return Err(refuse(diagnostic(&problem, file, &Mask::new(text, None)))),
    };
    let (policy, mut problems) = assemble(&root, file, text);
    let complete = problems.is_empty();
    if let Some(policy) = &policy {
        problems.extend(lint::lint(policy, &root, complete));
    }
    problems.sort_by_key(|problem| (problem.place.line, problem.place.column, problem.severity));
    let mask = Mask::new(text, Some(&root));
    let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
    let more = problems.len().saturating_sub(MAX_DIAGNOSTICS);
    let mut diagnostics: Vec<Diagnostic> = problems
        .iter()
        .take(MAX_DIAGNOSTICS)
        .map(|problem| diagnostic(problem, file, &mask))
        .collect();
    if more > 0 {
        let message = format!("{more} more problems are not shown");
        diagnostics.push(Diagnostic::of_file(file, message).hint("mend these first"));
    }
    match policy {
        Some(mut policy) if !failed => {
            let drills = policy.drills.iter();
            let held = drills
                .filter_map(|(name, drill)| Some((Drill::job_name(name), drill.job(name)?)))
                .collect::<Vec<_>>();
            policy.jobs.extend(held);
            Ok(PolicySet { policies: vec![policy], warnings: diagnostics })
        }
        _ => Err(LoadError { diagnostics, kind: ErrorKind::Policy }),
    }
}

fn text_of<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str, LoadError> {
    if bytes.len() as u64 > MAX_FILE_SIZE {
        let diagnostic = Diagnostic::of_file(file, "the policy is larger than 1 MiB")
            .hint("is this a policy? Split it by stack, one file each");
        return Err(LoadError::one(ErrorKind::Policy, diagnostic));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = good.matches('\n').count() + 1;
            let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let mut diagnostic = Diagnostic::of_file(file, "the policy is not UTF-8 text").hint(
                "save the file as UTF-8; `file NAME` and `iconv` help to find out what it is",
            );
            (diagnostic.line, diagnostic.column) = (line, column);
            return Err(LoadError::one(ErrorKind::Policy, diagnostic));
        }
    };
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Ties a problem to its file and masks it.
fn diagnostic(problem: &Problem, file: &str, mask: &Mask<'_>) -> Diagnostic {
    let Place { line, column, start, end } = problem.place;
    let (snippet, mark_start) = mask.line(line, column);
    let width = snippet.chars().count();
    Diagnostic {
        severity: problem.severity,
        file: file.to_owned(),
        line,
        column,
        message: mask.scrub(&problem.message),
        snippet,
        mark_start,
        mark_length: (end - start).clamp(1, width.saturating_sub(mark_start).max(1)),
        hints: problem.hints.iter().map(|hint| mask.scrub(hint)).collect(),
    }
}

/// The JSON Schema of a policy file, for editors.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Policy).to_value()
}
