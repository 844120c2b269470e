//! The files of a drill's evidence: digests and signature, and whether they are what was written.

use bytes::Bytes;

use super::catalogue;
use super::evidence::{EVIDENCE, Evidence, JOURNAL, REPORT_HTML, REPORT_MARKDOWN, SIGNATURE, SUMS};
use super::journal::{self, Event};
use super::sshsig::{self, Signer};
use crate::archive::digest::sha256_hex;
use crate::error::{Error, Result};

/// The files that every drill has, in the order in which they are listed.
const FILES: [&str; 4] = [EVIDENCE, JOURNAL, REPORT_HTML, REPORT_MARKDOWN];

/// A file of evidence.
pub type Named = (String, Bytes);

/// Adds the digests of these files, and their signature where somebody signs.
pub fn seal(mut files: Vec<Named>, signer: Option<&Signer>) -> Vec<Named> {
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let sums = files.iter().map(|(name, bytes)| line(name, bytes)).collect::<Vec<_>>().concat();
    let signature = signer.map(|signer| signer.sign(sums.as_bytes()));
    files.push((SUMS.to_owned(), sums.into()));
    files.extend(signature.map(|signature| (SIGNATURE.to_owned(), signature.into())));
    files
}

/// Whether a file is the one that the digests speak of.
pub fn is_sealed(sums: &[u8], name: &str, bytes: &[u8]) -> bool {
    let line = line(name, bytes);
    String::from_utf8_lossy(sums).split_inclusive('\n').any(|found| found == line)
}

/// A line as `sha256sum` writes it.
fn line(name: &str, bytes: &[u8]) -> String {
    format!("{}  {name}\n", sha256_hex(bytes))
}

/// What was found of evidence that is what was written.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Verified {
    /// The drill.
    pub drill: String,
    /// How many files were compared with their digests.
    pub files: usize,
    /// How many lines of the journal follow from each other.
    pub records: u64,
    /// The fingerprint of the key that signed; none where nobody did.
    pub signed_by: Option<String>,
    /// What was said of it.
    #[serde(skip)]
    pub evidence: Evidence,
}

/// Checks the files of a drill: any byte that was changed is damage. `signer` is the fingerprint of
/// the key that has to have signed.
pub fn verify(files: &[Named], drill: &str, signer: Option<&str>) -> Result<Verified> {
    let get =
        |name: &str| {
            files.iter().find(|(found, _)| found == name).map(|(_, bytes)| bytes).ok_or_else(|| {
                Error::damaged(format!("the evidence of drill {drill} has no {name}"))
            })
        };
    let sums = get(SUMS)?;
    let expected: Vec<String> =
        FILES.iter().map(|name| Ok(line(name, get(name)?))).collect::<Result<_>>()?;
    let expected = expected.concat();
    if expected.as_bytes() != sums.as_ref() {
        let wrong = FILES
            .iter()
            .find(|name| {
                let digest = get(name).map(|bytes| sha256_hex(bytes)).unwrap_or_default();
                let line = format!("{digest}  {name}");
                !String::from_utf8_lossy(sums).lines().any(|found| found == line)
            })
            .copied()
            .unwrap_or(SUMS);
        return Err(Error::damaged(format!("{wrong} of drill {drill} is not what was written"))
            .hint("compare it with a copy of the repository"));
    }
    if let Some((name, _)) = files
        .iter()
        .find(|(name, _)| !FILES.contains(&name.as_str()) && name != SUMS && name != SIGNATURE)
    {
        let text =
            format!("the evidence of drill {drill} has a file `{}` too many", name.escape_debug());
        return Err(Error::damaged(text));
    }
    let evidence = catalogue::parse(get(EVIDENCE)?, drill)?;
    let text =
        std::str::from_utf8(get(JOURNAL)?).map_err(|_| Error::damaged("the journal is no text"))?;
    let (lines, end) = journal::read(text, drill)?;
    if end != evidence.journal {
        return Err(Error::damaged(format!(
            "the journal of drill {drill} has {} lines, and not the {} that the evidence speaks of",
            end.records, evidence.journal.records
        ))
        .hint("lines were removed or added at its end"));
    }
    let ended = lines.iter().rev().find_map(|line| match line.event {
        Event::Ended { verdict } => Some(verdict),
        _ => None,
    });
    if ended != Some(evidence.verdict) {
        return Err(Error::damaged(format!(
            "the journal of drill {drill} ends with another verdict than the evidence"
        )));
    }
    let signature = files.iter().find(|(name, _)| name == SIGNATURE).map(|(_, bytes)| bytes);
    let signed_by = match signature {
        Some(bytes) => {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| Error::damaged("the signature is no text"))?;
            Some(sshsig::verify(text, sums)?)
        }
        None => None,
    };
    check_signer(drill, signer, signed_by.as_deref())?;
    Ok(Verified {
        drill: drill.to_owned(),
        files: FILES.len(),
        records: end.records,
        signed_by,
        evidence,
    })
}

fn check_signer(drill: &str, wanted: Option<&str>, found: Option<&str>) -> Result<()> {
    match (wanted, found) {
        (Some(wanted), Some(found)) if wanted != found => Err(Error::damaged(format!(
            "the evidence of drill {drill} is signed by {found}, and not by {wanted}"
        ))),
        (Some(_), None) => {
            Err(Error::damaged(format!("the evidence of drill {drill} is not signed"))
                .hint("whoever can write to the repository could have written it"))
        }
        _ => Ok(()),
    }
}
