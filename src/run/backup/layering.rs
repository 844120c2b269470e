//! Increments on their way into segments: where a member lies is known some time after it was
//! written, and the file that it is a layer of has to wait for it.

use std::collections::VecDeque;

use crate::archive::entry::Entry;
use crate::archive::layer::Layer;

/// An increment that was pushed, and the file it makes.
pub struct Waiting {
    /// The member's name.
    pub member: Vec<u8>,
    /// The file, with the layers below.
    pub file: Entry,
    /// The number of the part.
    pub part: u32,
    /// More parts of the same file follow.
    pub more: bool,
}

/// Increments that wait for their place, in the order they were pushed.
#[derive(Default)]
pub struct Layering {
    waiting: VecDeque<Waiting>,
    /// Parts of the file at hand whose place is known.
    parts: Vec<Layer>,
}

impl Layering {
    /// An increment is about to be pushed.
    pub fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// The file whose increment was pushed last.
    pub fn last_mut(&mut self) -> Option<&mut Entry> {
        self.waiting.back_mut().map(|waiting| &mut waiting.file)
    }

    /// A member got its place: what goes into the index now, if anything does.
    pub fn settle(&mut self, member: Entry) -> Option<Entry> {
        let Some(Waiting { file, part, more, .. }) =
            self.waiting.pop_front_if(|waiting| waiting.member == member.path)
        else {
            return Some(member);
        };
        let layer = member
            .as_layers()
            .pop()
            .map(|layer| Layer { part: if part > 1 { part } else { 0 }, ..layer });
        self.parts.extend(layer);
        if more {
            return None;
        }
        let mut file = file;
        file.layers.append(&mut self.parts);
        Some(file)
    }
}
