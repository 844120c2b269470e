//! What a run said.

use std::fs::File;
use std::io::{Cursor, Read, Seek as _, SeekFrom};
use std::path::Path;

use crate::error::{Error, IoContext as _, Result};
use crate::state::{Ledger, RunRow};

/// What a run said, from the files of this machine's daemon or as far as the state keeps it; of
/// more than `most` bytes the end.
pub fn of(
    ledger: &dyn Ledger,
    logs: &Path,
    run: &RunRow,
    most: Option<u64>,
) -> Result<Box<dyn Read>> {
    let path = logs.join(&run.id).with_extension("log");
    let failed = || format!("failed to read {}", path.display());
    match (File::open(&path), ledger.words(&run.id)?) {
        // Elsewhere it may have gone on after it was begun here.
        (_, Some(words)) => {
            let skip = most.map_or(0, |most| words.len().saturating_sub(most as usize));
            Ok(Box::new(Cursor::new(words.into_bytes().split_off(skip))))
        }
        (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => Err(
            Error::not_found(format!("run {} said nothing: it is {}", run.id, run.state.word())),
        ),
        (file, None) => {
            let mut file = file.doing(failed)?;
            if let Some(most) = most {
                let length = file.metadata().doing(failed)?.len();
                file.seek(SeekFrom::Start(length.saturating_sub(most))).doing(failed)?;
            }
            Ok(Box::new(file))
        }
    }
}
