//! Where WAL of a cluster lies, and which cluster it is.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::archive::crypt::{Keyring, Recipients};
use crate::error::{Error, IoContext as _, Result};
use crate::id::SourceAddress;
use crate::store::{KeyInfo, Repository, WalStore};

/// The WAL of a source in one repository.
pub struct Archive {
    /// The repository's name.
    pub name: String,
    /// Without it a file does not count as archived.
    pub required: bool,
    /// The repository.
    pub repository: Repository,
    /// Its WAL.
    pub wal: WalStore,
    /// What opens it.
    pub keys: Keyring,
}

impl Archive {
    /// To write to.
    pub fn to_write(
        name: &str,
        required: bool,
        repository: Repository,
        address: &SourceAddress,
    ) -> Result<Self> {
        let recipients = repository.write_key().map(KeyInfo::recipients).transpose()?;
        let source = repository.source(address);
        let wal = WalStore::new(&source, &recipients.unwrap_or_else(Recipients::default));
        Ok(Self { name: name.to_owned(), required, repository, wal, keys: Keyring::default() })
    }

    /// To read from.
    pub fn to_read(
        name: &str,
        repository: Repository,
        address: &SourceAddress,
        keys: Keyring,
    ) -> Self {
        let wal = WalStore::reader(&repository.source(address), repository.is_encrypted());
        Self { name: name.to_owned(), required: false, repository, wal, keys }
    }
}

/// The cluster whose data directory this is: the first field of its `pg_control`. `None` if there
/// is no such file.
pub fn system_id_of(data: &Path) -> Result<Option<u64>> {
    let path = data.join("global/pg_control");
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.doing(|| format!("failed to open {}", path.display()))?,
    };
    let mut id = [0; 8];
    file.read_exact(&mut id).doing(|| format!("failed to read {}", path.display()))?;
    // Written in the order of the machine, which is the server's.
    match u64::from_ne_bytes(id) {
        0 => Err(Error::damaged(format!("{} has no system identifier", path.display()))),
        id => Ok(Some(id)),
    }
}
