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
