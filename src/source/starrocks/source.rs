//! The source itself.

use super::{probe, taking};
use crate::archive::manifest::Form;
use crate::error::Result;
use crate::id::BackupKind;
use crate::policy::{Databases, StarRocks};
use crate::source::{Captured, EntrySink, Order, Source, SourceContext, SourceProbe};

/// Databases of a cluster.
#[derive(Debug)]
pub struct StarRocksSource {
    /// As the policy has it.
    pub(super) config: StarRocks,
}

/// Which databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All but those that a pattern names.
    All {
        /// The patterns.
        except: Vec<String>,
    },
    /// These.
    Names(Vec<String>),
}

impl StarRocksSource {
    /// A source as the policy says.
    pub fn new(config: StarRocks) -> Self {
        Self { config }
    }

    /// Which databases the policy means.
    pub(super) fn which(&self) -> Which {
        match &self.config.databases {
            None | Some(Databases::All) => Which::All { except: self.config.exclude.clone() },
            Some(Databases::Names(names)) => Which::Names(names.clone()),
        }
    }
}

impl Source for StarRocksSource {
    fn kind(&self) -> &'static str {
        "starrocks"
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        asked
    }

    fn order(&self) -> Order {
        Order::Arrival
    }

    fn probe(&self, cx: &SourceContext) -> Result<SourceProbe> {
        probe::probe(self, cx)
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        taking::take(self, cx, sink)
    }
}
