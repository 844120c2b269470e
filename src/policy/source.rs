//! Sources: what is backed up.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bucket::BucketSource,
    heartbeat::Heartbeat,
    mysql_dump::MysqlDump,
    objective::Targets,
    postgres_dump::PostgresDump,
    sqlite::Sqlite,
    starrocks::StarRocks,
    value::{Period, Setting, Size},
};
use crate::secret::SecretRef;

/// One thing that can be backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
pub struct Source {
    /// What it is, with the settings of its kind.
    pub spec: SourceSpec,
    /// The repository; the policy's first if `None`.
    pub repository: Option<String>,
    /// The only host whose daemons may back it up.
    pub host: Option<String>,
    /// Objectives that differ from the policy's.
    pub objectives: Targets,
    /// Compression that differs from the policy's.
    pub compression: Option<Compression>,
    /// What the daemon writes there, for drills to find in the copy.
    pub heartbeat: Option<Heartbeat>,
}

/// A source by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// Trees of files.
    Directory(DirectorySource),
    /// The output of programs.
    Command(CommandSource),
    /// Values of secrets, by name.
    Secrets(IndexMap<String, SecretRef>),
    /// A whole PostgreSQL cluster with its WAL.
    PostgresCluster(PostgresCluster),
    /// Databases of a PostgreSQL server, as dumps.
    PostgresDump(PostgresDump),
    /// One `SQLite` database.
    Sqlite(Sqlite),
    /// Databases of a MySQL or MariaDB server, as dumps.
    MysqlDump(MysqlDump),
    /// Databases of a StarRocks cluster, by its own snapshots.
    StarRocks(StarRocks),
    /// Objects of a bucket.
    Bucket(BucketSource),
}

/// The kinds of [`SourceSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// [`SourceSpec::Directory`].
    Directory,
    /// [`SourceSpec::Command`].
    Command,
    /// [`SourceSpec::Secrets`].
    Secrets,
    /// [`SourceSpec::PostgresCluster`].
    PostgresCluster,
    /// [`SourceSpec::PostgresDump`].
    PostgresDump,
    /// [`SourceSpec::Sqlite`].
    Sqlite,
    /// [`SourceSpec::MysqlDump`].
    MysqlDump,
    /// [`SourceSpec::StarRocks`].
    StarRocks,
    /// [`SourceSpec::Bucket`].
    Bucket,
}

impl SourceKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Directory,
        Self::Command,
        Self::Secrets,
        Self::PostgresCluster,
        Self::PostgresDump,
        Self::Sqlite,
        Self::MysqlDump,
        Self::StarRocks,
        Self::Bucket,
    ];

    /// The key in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Command => "command",
            Self::Secrets => "secrets",
            Self::PostgresCluster => "postgres_cluster",
            Self::PostgresDump => "postgres_dump",
            Self::Sqlite => "sqlite",
            Self::MysqlDump => "mysql_dump",
            Self::StarRocks => "starrocks",
            Self::Bucket => "bucket",
        }
    }

    /// The kinds this version can run. A policy with another one is valid and gets a warning.
    pub const fn implemented() -> &'static [Self] {
        &Self::ALL
    }
}

impl Source {
    /// The kind.
    pub const fn kind(&self) -> SourceKind {
        match self.spec {
            SourceSpec::Directory(_) => SourceKind::Directory,
            SourceSpec::Command(_) => SourceKind::Command,
            SourceSpec::Secrets(_) => SourceKind::Secrets,
            SourceSpec::PostgresCluster(_) => SourceKind::PostgresCluster,
            SourceSpec::PostgresDump(_) => SourceKind::PostgresDump,
            SourceSpec::Sqlite(_) => SourceKind::Sqlite,
            SourceSpec::MysqlDump(_) => SourceKind::MysqlDump,
            SourceSpec::StarRocks(_) => SourceKind::StarRocks,
            SourceSpec::Bucket(_) => SourceKind::Bucket,
        }
    }

    /// Whether a continuous WAL archive bounds the loss, whatever the schedule of base backups.
    pub const fn has_wal_archive(&self) -> bool {
        matches!(
            &self.spec,
            SourceSpec::PostgresCluster(PostgresCluster {
                wal: Some(Wal { archive: Some(_), .. }),
                ..
            })
        )
    }
}

/// A source as it is written: the kind is a key beside the others.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "Source")]
struct Written {
    /// Trees of files. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<DirectorySource>,
    /// The output of programs. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandSource>,
    /// Secrets by name; only into an encrypted repository. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<IndexMap<String, SecretRef>>,
    /// A PostgreSQL cluster with its WAL. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    postgres_cluster: Option<PostgresCluster>,
    /// Dumps of PostgreSQL databases. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    postgres_dump: Option<PostgresDump>,
    /// One SQLite database. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlite: Option<Sqlite>,
    /// Dumps of MySQL or MariaDB databases. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    mysql_dump: Option<MysqlDump>,
    /// Databases of a StarRocks cluster. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    starrocks: Option<StarRocks>,
    /// Objects of a bucket. Exactly one kind is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<BucketSource>,
    /// The repository; the first of the policy if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    /// The only host whose daemons may back it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// Objectives that differ from the policy's.
    objectives: Targets,
    /// Compression that differs from the policy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<Compression>,
    /// What the daemon writes there, for drills to find in the copy: a row, or a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat: Option<Heartbeat>,
}

impl TryFrom<Written> for Source {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let kinds = [
            written.directory.map(SourceSpec::Directory),
            written.command.map(SourceSpec::Command),
            written.secrets.map(SourceSpec::Secrets),
            written.postgres_cluster.map(SourceSpec::PostgresCluster),
            written.postgres_dump.map(SourceSpec::PostgresDump),
            written.sqlite.map(SourceSpec::Sqlite),
            written.mysql_dump.map(SourceSpec::MysqlDump),
            written.starrocks.map(SourceSpec::StarRocks),
            written.bucket.map(SourceSpec::Bucket),
        ];
        let mut kinds = kinds.into_iter().flatten();
        let (Some(spec), None) = (kinds.next(), kinds.next()) else {
            return Err("a source has exactly one kind");
        };
        Ok(Self {
            spec,
            repository: written.repository,
            host: written.host,
            objectives: written.objectives,
            compression: written.compression,
            heartbeat: written.heartbeat,
        })
    }
}

impl From<Source> for Written {
    fn from(source: Source) -> Self {
        let mut written = Self {
            repository: source.repository,
            host: source.host,
            objectives: source.objectives,
            compression: source.compression,
            heartbeat: source.heartbeat,
            ..Self::default()
        };
        match source.spec {
            SourceSpec::Directory(spec) => written.directory = Some(spec),
            SourceSpec::Command(spec) => written.command = Some(spec),
            SourceSpec::Secrets(spec) => written.secrets = Some(spec),
            SourceSpec::PostgresCluster(spec) => written.postgres_cluster = Some(spec),
            SourceSpec::PostgresDump(spec) => written.postgres_dump = Some(spec),
            SourceSpec::Sqlite(spec) => written.sqlite = Some(spec),
            SourceSpec::MysqlDump(spec) => written.mysql_dump = Some(spec),
            SourceSpec::StarRocks(spec) => written.starrocks = Some(spec),
            SourceSpec::Bucket(spec) => written.bucket = Some(spec),
        }
        written
    }
}

/// Trees of files. Exactly one of `path` and `paths` is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DirectorySource {
    /// An absolute path of a directory or file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Several absolute paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathBuf>>,
    /// Globs of what is left out, matched against paths below the source.
    pub exclude: Vec<String>,
    /// Whether other file systems mounted below are left out.
    pub one_file_system: bool,
    /// Whether directories with a `CACHEDIR.TAG` are left out.
    pub exclude_caches: bool,
    /// Whether the data directory of a running database is taken as files, which cannot be
    /// restored reliably.
    pub allow_live: bool,
    /// Accept that a directory that had files before has none now.
    #[serde(default)]
    pub allow_empty: bool,
    /// Whether content is compared, and not only sizes and times.
    pub paranoid: bool,
}

impl DirectorySource {
    /// All paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.path.iter().chain(self.paths.iter().flatten()).map(PathBuf::as_path)
    }
}

/// The output of programs, as one stream of bytes. Every program must end with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenCommand", into = "WrittenCommand")]
#[schemars(with = "WrittenCommand")]
pub struct CommandSource {
    /// What writes the stream to its standard output.
    pub program: Program,
    /// What reads the stream from its standard input, to restore.
    pub restore: Option<Program>,
    /// Variables added to the environment of both.
    pub environment: IndexMap<String, Setting>,
    /// The working directory of both.
    pub directory: Option<PathBuf>,
    /// How long it may take before it is killed and the backup fails.
    pub timeout: Option<Period>,
    /// Whether no output at all is a backup. Normally it is a failure.
    pub allow_empty: bool,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// One program with its arguments, without a shell.
    Argv(Vec<String>),
    /// Programs, each reading what the one before writes.
    Pipeline(Vec<Vec<String>>),
    /// A line for `bash -o pipefail -c`.
    Shell(String),
}

impl Program {
    /// The keys of which exactly one is written.
    pub(super) const KINDS: [&'static str; 3] = ["argv", "pipeline", "shell"];
}

/// A command as it is written: `argv`, `pipeline` or `shell` beside the other keys.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "CommandSource")]
struct WrittenCommand {
    /// One program with its arguments. Exactly one of `argv`, `pipeline`, `shell` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    argv: Option<Vec<String>>,
    /// Programs, each reading what the one before writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<Vec<Vec<String>>>,
    /// A line for `bash -o pipefail -c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    /// What reads the stream to restore: `argv`, `pipeline` or `shell`.
    #[serde(skip_serializing_if = "Option::is_none")]
    restore: Option<Program>,
    /// Variables; secrets as references.
    environment: IndexMap<String, Setting>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<PathBuf>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<Period>,
    /// Whether no output at all is a backup.
    allow_empty: bool,
}

impl TryFrom<WrittenCommand> for CommandSource {
    type Error = &'static str;

    fn try_from(written: WrittenCommand) -> Result<Self, Self::Error> {
        let program = match (written.argv, written.pipeline, written.shell) {
            (Some(argv), None, None) => Program::Argv(argv),
            (None, Some(pipeline), None) => Program::Pipeline(pipeline),
            (None, None, Some(shell)) => Program::Shell(shell),
            _ => return Err("exactly one of `argv`, `pipeline` and `shell` is needed"),
        };
        Ok(Self {
            program,
            restore: written.restore,
            environment: written.environment,
            directory: written.directory,
            timeout: written.timeout,
            allow_empty: written.allow_empty,
        })
    }
}

impl From<CommandSource> for WrittenCommand {
    fn from(source: CommandSource) -> Self {
        let mut written = Self {
            restore: source.restore,
            environment: source.environment,
            directory: source.directory,
            timeout: source.timeout,
            allow_empty: source.allow_empty,
            ..Self::default()
        };
        match source.program {
            Program::Argv(argv) => written.argv = Some(argv),
            Program::Pipeline(pipeline) => written.pipeline = Some(pipeline),
            Program::Shell(shell) => written.shell = Some(shell),
        }
        written
    }
}

/// A PostgreSQL cluster with its WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresCluster {
    /// A libpq connection string or URI; `password=` only as a reference.
    pub connection: String,
    /// Whether a base backup begins at once, with a `fast` checkpoint, or with the `spread` one
    /// that comes next and spares the disks.
    #[serde(default, skip_serializing_if = "Checkpoint::is_default")]
    pub checkpoint: Checkpoint,
    /// The most that a base backup reads of the server, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<Size>,
    /// The WAL archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal: Option<Wal>,
}

/// The checkpoint that a base backup begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checkpoint {
    /// At once.
    #[default]
    Fast,
    /// Spread over `checkpoint_completion_target`.
    Spread,
}

impl Checkpoint {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens to WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wal {
    /// Where WAL goes as it is written; without it only base backups are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<WalArchive>,
    /// The window of point-in-time recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Period>,
}

/// Where WAL goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WalArchive {
    /// Repositories a segment is sent to.
    pub to: Vec<String>,
    /// Those of them that must have it before PostgreSQL may forget it; all if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Vec<String>>,
}

/// Compression of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compression {
    /// The zstd level, 1 (fast) to 19 (small).
    #[schemars(range(min = 1, max = 19))]
    pub level: u8,
}

impl Default for Compression {
    fn default() -> Self {
        Self { level: 3 }
    }
}
