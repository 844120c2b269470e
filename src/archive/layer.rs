//! Files that are made of several members: a whole file, and increments over it.

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Position, SegmentRef};
use super::increment::increment_path;
use crate::error::{Error, Result};

/// One of the members that together make a file: the first is a whole file, each further one an
/// increment to be laid over what those before it make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The tree segment that holds it.
    #[serde(rename = "in")]
    pub segment: SegmentRef,
    /// Where in the segment.
    pub at: Position,
    /// Bytes of the member.
    pub size: u64,
    /// SHA-256 of the member's content, hex.
    pub sha256: String,
    /// The number of the part, from 2 on, where a backup stored several increments of one file.
    #[serde(default, skip_serializing_if = "is_none")]
    pub part: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none(value: &u32) -> bool {
    *value == 0
}

impl Entry {
    /// What makes its content: its layers, or the one member that it is.
    pub fn as_layers(&self) -> Vec<Layer> {
        if !self.layers.is_empty() {
            return self.layers.clone();
        }
        let whole = self.segment.clone().zip(self.at).zip(self.sha256);
        let layer = whole.map(|((segment, at), sha256)| {
            let (size, sha256) = (self.size, hex::encode(sha256));
            Layer { segment, at, size, sha256, part: 0 }
        });
        layer.into_iter().collect()
    }

    /// One of its layers, as the member that it is in its segment.
    pub fn layer(&self, number: usize) -> Option<Self> {
        let layer = self.layers.get(number)?;
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&layer.sha256, &mut sha256).ok()?;
        let path = match number {
            0 => self.path.clone(),
            _ => increment_path(&self.path, layer.part),
        };
        Some(Self {
            path,
            size: layer.size,
            sha256: Some(sha256),
            segment: Some(layer.segment.clone()),
            at: Some(layer.at),
            layers: Vec::new(),
            is_layer: true,
            ..self.clone()
        })
    }

    /// The members of tree segments that hold its content.
    pub fn members(&self) -> Vec<Self> {
        if self.layers.is_empty() {
            return if self.segment.is_some() { vec![self.clone()] } else { Vec::new() };
        }
        (0..self.layers.len()).filter_map(|number| self.layer(number)).collect()
    }

    /// The segments that hold its content.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentRef> {
        let layers = self.layers.iter().map(|layer| &layer.segment);
        self.segment.iter().chain(self.parts.iter().map(|part| &part.segment)).chain(layers)
    }

    /// Takes over the content of an earlier file, where it lies.
    #[must_use]
    pub fn with_content_of(self, earlier: &Self) -> Self {
        Self {
            size: earlier.size,
            sha256: earlier.sha256,
            segment: earlier.segment.clone(),
            at: earlier.at,
            parts: earlier.parts.clone(),
            layers: earlier.layers.clone(),
            sparse: earlier.sparse.clone(),
            ..self
        }
    }
}

/// An error unless the layers are those of an entry that is `layered`, or none of one that is not.
pub(super) fn check_layers(layered: bool, layers: &[Layer]) -> Result<()> {
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if layered == layers.is_empty() || layers.len() == 1 {
        return Err(Error::damaged("an entry with layers that make no file"));
    }
    if !layers.iter().all(|layer| is_hex(&layer.sha256)) {
        return Err(Error::damaged("a layer with a bad SHA-256"));
    }
    // Each is laid over older ones; parts of one backup have pages of their own.
    let ascending = layers.is_sorted_by(|a, b| a.segment.backup <= b.segment.backup);
    let over_itself =
        layers.first_chunk::<2>().is_some_and(|[a, b]| a.segment.backup == b.segment.backup);
    if !ascending || over_itself {
        return Err(Error::damaged("an entry with layers out of order"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::archive::entry::EntryType;
    use crate::archive::index::line_of;

    fn layer(segment: &str, part: u32) -> Layer {
        let segment = SegmentRef::try_from(segment.to_owned()).unwrap();
        Layer { segment, at: Position(0, 512, 99), size: 12, sha256: "ab".repeat(32), part }
    }

    const OLD: &str = "20261121T020000Z-full-7k3f/000001";
    const NEW: &str = "20261122T020000Z-incr-9d2m/000001";
    const NEWER: &str = "20261123T020000Z-incr-aaaa/000007";

    fn read(layers: Vec<Layer>) -> Result<Entry> {
        let mut entry = Entry::new("base/5/16384", EntryType::File);
        entry.size = 8192;
        entry.layers = layers;
        let line = line_of(&entry)?;
        let text = String::from_utf8_lossy(&line).into_owned();
        // What does not know of layers must not take the file for one that it can restore.
        assert_eq!(text.contains("\"type\":\"layered\""), !entry.layers.is_empty(), "{text}");
        serde_json::from_slice(&line).map_err(|error| Error::damaged(error.to_string()))
    }

    #[test]
    fn layers_are_members_of_their_own() {
        let layers = vec![layer(OLD, 0), layer(NEW, 0), layer(NEW, 2), layer(NEWER, 0)];
        let entry = read(layers.clone()).unwrap();
        assert_eq!((entry.kind, &entry.layers), (EntryType::File, &layers));
        let names: Vec<String> = entry.members().iter().map(Entry::display_path).collect();
        let delta = "base/5/INCREMENTAL.16384";
        assert_eq!(names, ["base/5/16384", delta, &format!("{delta}~2"), delta]);
        assert_eq!(entry.segments().count(), 4);
        assert_eq!(entry.as_layers(), layers);
        let whole = &entry.members()[0];
        assert!(whole.is_layer && whole.layers.is_empty() && whole.size == 12);
        assert_eq!(whole.as_layers(), layers[..1]);
    }

    #[test]
    fn layers_that_make_no_file_are_refused() {
        assert!(read(Vec::new()).is_ok());
        for wrong in [
            vec![layer(OLD, 0)],
            vec![layer(NEW, 0), layer(OLD, 0)],
            vec![layer(NEW, 0), layer(NEW, 0)],
            vec![layer(OLD, 0), Layer { sha256: "x".into(), ..layer(NEW, 0) }],
        ] {
            assert!(read(wrong).is_err());
        }
    }
}
