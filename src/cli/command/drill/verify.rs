//! `backstay drill verify`

use std::path::{Path, PathBuf};

use super::place;
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::drill::evidence::{EVIDENCE, Evidence};
use crate::drill::seal::{self, Named};
use crate::drill::sshsig;
use crate::error::{Error, IoContext as _, Result};
use crate::store::EvidenceStore;

/// The largest file of evidence that is read.
const LIMIT: u64 = 64 << 20;

/// Prove that the evidence of a drill is what was written.
///
/// Every file is compared with its digest, every line of the journal with the one before, and the
/// signature with the digests; where the policy has `sign_with` there has to be one. A directory
/// with the files of a drill is verified without any repository. Damage is exit code 5.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The drill: its id or the start of it, or a directory with its files. Default: the newest.
    #[arg(value_name = "ID|DIR")]
    drill: Option<String>,

    /// The public key that has to have signed: a file as `ssh-keygen` writes it.
    #[arg(long, value_name = "FILE")]
    signer: Option<PathBuf>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let signer = args.signer.as_deref().map(fingerprint).transpose()?;
    let directory = args.drill.as_deref().map(Path::new).filter(|path| path.is_dir());
    let (files, drill) = if let Some(directory) = directory {
        of_directory(directory)?
    } else {
        let found = place::find_drill(app, args.drill.as_deref())?;
        let store = EvidenceStore::new(&found.store, &found.stack, &found.drill);
        (store.files()?, found.drill)
    };
    let verified = seal::verify(&files, &drill, signer.as_deref())?;
    if verified.signed_by.is_none() && wants_signature(app, &verified.evidence) {
        let what = format!("the evidence of drill {drill} is not signed");
        return Err(Error::damaged(format!("{what}, and the policy says that it is: `sign_with`"))
            .hint("whoever can write to the repository could have written it")
            .hint("or it is older than `sign_with` in the policy: hold the drill again"));
    }
    if app.printer.is_json() {
        app.printer.json(&verified)?;
        return Ok(ExitStatus::Done);
    }
    app.printer.data(format!(
        "{}: {} files and {} lines of the journal are what was written ({})",
        verified.drill,
        verified.files,
        verified.records,
        verified.evidence.verdict.words()
    ))?;
    match (&verified.signed_by, &signer) {
        (Some(by), Some(_)) => app.printer.data(format!("signed by {by}, as it has to be"))?,
        (Some(by), None) => {
            app.printer.data(format!("signed by {by}"))?;
            app.printer
                .hint("compare that with the key of who holds drills, or give it: --signer FILE");
        }
        (None, _) => app.printer.warning(
            "it is not signed: whoever can write to the repository could have written all of it",
        ),
    }
    Ok(ExitStatus::Done)
}

/// Whether the policy has this drill signed. Without a policy nobody says so.
fn wants_signature(app: &App, evidence: &Evidence) -> bool {
    if app.repository_url().is_some() {
        return false;
    }
    let Ok(set) = app.policies_to_read() else { return false };
    let policy = set.policies.iter().find(|policy| policy.stack == evidence.stack);
    let drill = policy.and_then(|policy| policy.drills.get(&evidence.name));
    drill.is_some_and(|drill| drill.sign_with.is_some())
}

fn fingerprint(path: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(path).doing(|| format!("failed to read {}", path.display()))?;
    sshsig::fingerprint_of_line(&text)
}

/// The files in a directory, and the drill that they say they are of.
fn of_directory(directory: &Path) -> Result<(Vec<Named>, String)> {
    let failed = || format!("failed to read {}", directory.display());
    let mut files: Vec<Named> = Vec::new();
    for entry in directory.read_dir().doing(failed)? {
        let entry = entry.doing(failed)?;
        let path = entry.path();
        let size = entry.metadata().doing(failed)?.len();
        if size > LIMIT {
            return Err(Error::damaged(format!("{} is too large", path.display())));
        }
        let bytes = std::fs::read(&path).doing(|| format!("failed to read {}", path.display()))?;
        files.push((entry.file_name().to_string_lossy().into_owned(), bytes.into()));
    }
    let drill = files
        .iter()
        .find(|(name, _)| name == EVIDENCE)
        .and_then(|(_, bytes)| serde_json::from_slice::<Evidence>(bytes).ok())
        .map(|evidence| evidence.drill)
        .ok_or_else(|| {
            Error::damaged(format!("{} has no {EVIDENCE} that can be read", directory.display()))
        })?;
    Ok((files, drill))
}
