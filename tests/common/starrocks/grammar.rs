//! The statements, word for word: `StarRocks.g4` of 3.3, and what 3.4 added to it.

/// A statement that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    ShowFrontends,
    ShowBackends,
    ShowRepositories,
    ShowDatabases,
    /// `ADMIN SHOW FRONTEND CONFIG [LIKE 'x']`
    ShowConfig(Option<String>),
    /// Tables of a database, from `information_schema`.
    Tables(String),
    MaterializedViews(String),
    BackendConfig,
    Count(String, String),
    ShowPartitions(String, String),
    ShowCreate(&'static str, String, String),
    CreateRepository {
        name: String,
        read_only: bool,
        location: String,
        properties: Vec<(String, String)>,
    },
    DropRepository(String),
    Backup {
        database: String,
        label: String,
        repository: String,
        objects: Vec<Object>,
        properties: Vec<(String, String)>,
    },
    Restore {
        database: String,
        label: String,
        repository: String,
        objects: Vec<Object>,
        properties: Vec<(String, String)>,
    },
    ShowBackup(Option<String>),
    ShowRestore(Option<String>),
    CancelBackup(String),
    CancelRestore(String),
    ShowSnapshot {
        repository: String,
        label: Option<String>,
        timestamp: Option<String>,
    },
    CreateDatabase(String),
    RenameDatabase(String, String),
    DropDatabase(String),
    AlterProperties {
        database: String,
        table: String,
        properties: Vec<(String, String)>,
    },
    DropPartition(String, String, String),
    /// Something of which there is nothing to show: its name.
    Nothing(&'static str),
    ShowUsers,
    ShowRoles,
    ShowGrants(String),
    CreateRole(String),
    CreateUser(String),
    Grant(String),
    Revoke(String),
    /// `INSERT INTO … SELECT * FROM … WHERE FALSE`: the table that nothing is written to.
    InsertNothing(String, String),
    CreateTable(String, String),
    CreateView(String, String),
    CreateMaterialized(String, String),
    Use(String),
    ShowCatalogs,
    ShowCreateCatalog(String),
}

/// A table in `ON (…)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub table: String,
    pub partitions: Vec<String>,
    pub alias: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word without quotes.
    Word(String),
    /// In backticks.
    Quoted(String),
    /// In quotes.
    Text(String),
    Mark(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(&letter) = letters.peek() {
        match letter {
            c if c.is_whitespace() => _ = letters.next(),
            '`' => {
                letters.next();
                let mut name = String::new();
                loop {
                    match letters.next().ok_or("a name does not end")? {
                        '`' if letters.peek() == Some(&'`') => {
                            letters.next();
                            name.push('`');
                        }
                        '`' => break,
                        other => name.push(other),
                    }
                }
                found.push(Token::Quoted(name));
            }
            '\'' | '"' => {
                let quote = letter;
                letters.next();
                let mut text = String::new();
                loop {
                    match letters.next().ok_or("a text does not end")? {
                        '\\' => text.push(letters.next().ok_or("a text does not end")?),
                        other if other == quote => break,
                        other => text.push(other),
                    }
                }
                found.push(Token::Text(text));
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::new();
                while let Some(&c) = letters.peek() {
                    if !(c.is_alphanumeric() || c == '_') {
                        break;
                    }
                    word.push(c);
                    letters.next();
                }
                found.push(Token::Word(word));
            }
            '(' | ')' | ',' | '.' | '=' | '*' | '@' | '%' => {
                found.push(Token::Mark(letter));
                letters.next();
            }
            other => return Err(format!("Unexpected input '{other}'")),
        }
    }
    Ok(found)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// The version, as in (3, 4).
    version: (u32, u32),
}

type Parsed<T> = Result<T, String>;

/// Reads a statement. The error is the text of a syntax error.
pub fn parse(text: &str, version: (u32, u32)) -> Parsed<Statement> {
    let wrong = |detail: String| {
        format!("Getting syntax error at line 1, column 0. Detail message: {detail}.")
    };
    let tokens = tokens(text).map_err(wrong)?;
    let mut parser = Parser { tokens, at: 0, version };
    let statement = parser.statement(text).map_err(wrong)?;
    if parser.at < parser.tokens.len()
        && !matches!(statement, Statement::Grant(_) | Statement::Revoke(_))
    {
        return Err(wrong(parser.unexpected()));
    }
    Ok(statement)
}

impl Parser {
    fn unexpected(&self) -> String {
        match self.tokens.get(self.at) {
            None => {
                "Unexpected input '<EOF>', the most similar input is {a legal identifier}".into()
            }
            Some(Token::Word(text) | Token::Quoted(text)) => {
                format!("Unexpected input '{text}', the most similar input is {{<EOF>, ';'}}")
            }
            Some(Token::Text(text)) => format!(
                "Unexpected input ''{text}'', the most similar input is {{a legal identifier}}"
            ),
            Some(Token::Mark(mark)) => {
                format!(
                    "Unexpected input '{mark}', the most similar input is {{a legal identifier}}"
                )
            }
        }
    }

    fn has(&self, word: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word))
    }

    /// Takes these words, if they come next.
    fn take(&mut self, words: &str) -> bool {
        let start = self.at;
        for word in words.split(' ') {
            if !self.has(word) {
                self.at = start;
                return false;
            }
            self.at += 1;
        }
        true
    }

    fn need(&mut self, words: &str) -> Parsed<()> {
        if self.take(words) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn mark(&mut self, mark: char) -> bool {
        let there = self.tokens.get(self.at) == Some(&Token::Mark(mark));
        self.at += usize::from(there);
        there
    }

    fn need_mark(&mut self, mark: char) -> Parsed<()> {
        if self.mark(mark) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// An identifier: a word or something in backticks, never in quotes.
    fn identifier(&mut self) -> Parsed<String> {
        match self.tokens.get(self.at) {
            Some(Token::Word(name)) if name.starts_with(|c: char| c.is_ascii_digit()) => {
                Err(self.unexpected())
            }
            Some(Token::Word(name) | Token::Quoted(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn text(&mut self) -> Parsed<String> {
        match self.tokens.get(self.at) {
            Some(Token::Text(text)) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn qualified(&mut self) -> Parsed<(String, String)> {
        let first = self.identifier()?;
        self.need_mark('.')?;
        Ok((first, self.identifier()?))
    }

    fn property_list(&mut self) -> Parsed<Vec<(String, String)>> {
        self.need_mark('(')?;
        let mut list = Vec::new();
        loop {
            let key = self.text()?;
            self.need_mark('=')?;
            list.push((key, self.text()?));
            if !self.mark(',') {
                break;
            }
        }
        self.need_mark(')')?;
        Ok(list)
    }

    fn properties(&mut self) -> Parsed<Vec<(String, String)>> {
        if self.take("PROPERTIES") { self.property_list() } else { Ok(Vec::new()) }
    }

    fn objects(&mut self, alias: bool) -> Parsed<Vec<Object>> {
        if !self.take("ON") {
            return Ok(Vec::new());
        }
        self.need_mark('(')?;
        let mut list = Vec::new();
        loop {
            // 3.4 also takes TABLE before a name; older ones do not.
            if self.has("TABLE") && self.version >= (3, 4) {
                self.at += 1;
            }
            let table = self.identifier()?;
            let mut partitions = Vec::new();
            if self.take("PARTITION") || self.take("PARTITIONS") {
                self.need_mark('(')?;
                loop {
                    partitions.push(self.identifier()?);
                    if !self.mark(',') {
                        break;
                    }
                }
                self.need_mark(')')?;
            }
            let alias = if alias && self.take("AS") { Some(self.identifier()?) } else { None };
            list.push(Object { table, partitions, alias });
            if !self.mark(',') {
                break;
            }
        }
        self.need_mark(')')?;
        Ok(list)
    }

    fn in_database(&mut self) -> Parsed<Option<String>> {
        if self.take("FROM") || self.take("IN") { self.identifier().map(Some) } else { Ok(None) }
    }

    fn statement(&mut self, text: &str) -> Parsed<Statement> {
        if self.take("SHOW") {
            return self.show();
        }
        if self.take("ADMIN SHOW FRONTEND CONFIG") {
            let like = if self.take("LIKE") { Some(self.text()?) } else { None };
            return Ok(Statement::ShowConfig(like));
        }
        if self.take("SELECT") {
            return self.select();
        }
        if self.take("CREATE") {
            return self.create(text);
        }
        if self.take("BACKUP SNAPSHOT") {
            let (database, label) = self.qualified()?;
            self.need("TO")?;
            let repository = self.identifier()?;
            let objects = self.objects(false)?;
            let properties = self.properties()?;
            return Ok(Statement::Backup { database, label, repository, objects, properties });
        }
        if self.take("RESTORE SNAPSHOT") {
            let (database, label) = self.qualified()?;
            self.need("FROM")?;
            let repository = self.identifier()?;
            let objects = self.objects(true)?;
            let properties = self.properties()?;
            return Ok(Statement::Restore { database, label, repository, objects, properties });
        }
        if self.take("CANCEL BACKUP") {
            return Ok(Statement::CancelBackup(self.in_database()?.ok_or("NullPointerException")?));
        }
        if self.take("CANCEL RESTORE") {
            let database = self.in_database()?.ok_or("NullPointerException")?;
            return Ok(Statement::CancelRestore(database));
        }
        if self.take("USE") {
            return Ok(Statement::Use(self.identifier()?));
        }
        if self.take("DROP REPOSITORY") {
            return Ok(Statement::DropRepository(self.identifier()?));
        }
        if self.take("DROP DATABASE") {
            let name = self.identifier()?;
            self.need("FORCE")?;
            return Ok(Statement::DropDatabase(name));
        }
        if self.take("ALTER DATABASE") {
            let from = self.identifier()?;
            self.need("RENAME")?;
            return Ok(Statement::RenameDatabase(from, self.identifier()?));
        }
        if self.take("ALTER TABLE") {
            let (database, table) = self.qualified()?;
            if self.take("DROP PARTITION") {
                let partition = self.identifier()?;
                self.need("FORCE")?;
                return Ok(Statement::DropPartition(database, table, partition));
            }
            self.need("SET")?;
            let properties = self.property_list()?;
            return Ok(Statement::AlterProperties { database, table, properties });
        }
        if self.take("GRANT") {
            return Ok(Statement::Grant(text.to_owned()));
        }
        if self.take("REVOKE") {
            return Ok(Statement::Revoke(text.to_owned()));
        }
        if self.take("INSERT INTO") {
            let into = self.qualified()?;
            self.need("SELECT")?;
            self.need_mark('*')?;
            self.need("FROM")?;
            if self.qualified()? != into {
                return Err(self.unexpected());
            }
            self.need("WHERE FALSE")?;
            return Ok(Statement::InsertNothing(into.0, into.1));
        }
        Err(self.unexpected())
    }

    fn create(&mut self, text: &str) -> Parsed<Statement> {
        let read_only = self.take("READ ONLY");
        if self.take("REPOSITORY") {
            let name = self.identifier()?;
            self.need("WITH BROKER")?;
            self.need("ON LOCATION")?;
            let location = self.text()?;
            let properties = self.properties()?;
            return Ok(Statement::CreateRepository { name, read_only, location, properties });
        }
        if read_only {
            return Err(self.unexpected());
        }
        if self.take("DATABASE") {
            return Ok(Statement::CreateDatabase(self.identifier()?));
        }
        if self.take("ROLE IF NOT EXISTS") {
            return Ok(Statement::CreateRole(self.identifier()?));
        }
        if self.take("USER IF NOT EXISTS") {
            let user = self.text()?;
            self.need_mark('@')?;
            return Ok(Statement::CreateUser(format!("'{user}'@'{}'", self.text()?)));
        }
        let kind = if self.take("TABLE") {
            "table"
        } else if self.take("MATERIALIZED VIEW") {
            "materialized"
        } else {
            self.need("VIEW")?;
            "view"
        };
        let name = self.identifier()?;
        self.at = self.tokens.len();
        Ok(match kind {
            "table" => Statement::CreateTable(name, text.to_owned()),
            "materialized" => Statement::CreateMaterialized(name, text.to_owned()),
            _ => Statement::CreateView(name, text.to_owned()),
        })
    }

    fn select(&mut self) -> Parsed<Statement> {
        if self.take("COUNT") {
            self.need_mark('(')?;
            self.need_mark('*')?;
            self.need_mark(')')?;
            self.need("FROM")?;
            let (database, table) = self.qualified()?;
            return Ok(Statement::Count(database, table));
        }
        if self.mark('*') {
            self.need("FROM information_schema")?;
            self.need_mark('.')?;
            self.need("be_configs")?;
            return Ok(Statement::BackendConfig);
        }
        self.need("TABLE_NAME")?;
        let tables = self.mark(',');
        if tables {
            self.need("TABLE_TYPE")?;
            self.need_mark(',')?;
            self.need("ENGINE")?;
        }
        self.need("FROM information_schema")?;
        self.need_mark('.')?;
        self.need(if tables { "tables" } else { "materialized_views" })?;
        self.need("WHERE TABLE_SCHEMA")?;
        self.need_mark('=')?;
        let database = self.text()?;
        Ok(if tables {
            Statement::Tables(database)
        } else {
            Statement::MaterializedViews(database)
        })
    }

    fn show(&mut self) -> Parsed<Statement> {
        if self.take("FRONTENDS") {
            return Ok(Statement::ShowFrontends);
        }
        if self.take("BACKENDS") {
            return Ok(Statement::ShowBackends);
        }
        if self.take("REPOSITORIES") {
            return Ok(Statement::ShowRepositories);
        }
        if self.take("DATABASES") {
            return Ok(Statement::ShowDatabases);
        }
        if self.take("PARTITIONS FROM") {
            let (database, table) = self.qualified()?;
            return Ok(Statement::ShowPartitions(database, table));
        }
        if self.take("CREATE CATALOG") {
            return Ok(Statement::ShowCreateCatalog(self.identifier()?));
        }
        for (words, kind) in [
            ("CREATE TABLE", "table"),
            ("CREATE VIEW", "view"),
            ("CREATE MATERIALIZED VIEW", "materialized view"),
        ] {
            if self.take(words) {
                let (database, name) = self.qualified()?;
                return Ok(Statement::ShowCreate(kind, database, name));
            }
        }
        if self.take("BACKUP") {
            return Ok(Statement::ShowBackup(self.in_database()?));
        }
        if self.take("RESTORE") {
            return Ok(Statement::ShowRestore(self.in_database()?));
        }
        if self.take("SNAPSHOT ON") {
            return self.show_snapshot();
        }
        if self.take("CATALOGS") {
            return Ok(Statement::ShowCatalogs);
        }
        if self.take("GRANTS FOR ROLE") {
            return Ok(Statement::ShowGrants(self.identifier()?));
        }
        if self.take("GRANTS FOR") {
            let user = self.text()?;
            self.need_mark('@')?;
            return Ok(Statement::ShowGrants(format!("'{user}'@'{}'", self.text()?)));
        }
        if self.version >= (3, 0) && self.take("USERS") {
            return Ok(Statement::ShowUsers);
        }
        if self.version >= (3, 0) && self.take("ROLES") {
            return Ok(Statement::ShowRoles);
        }
        for (words, name) in [
            ("GLOBAL VARIABLES", "variables"),
            ("RESOURCE GROUPS ALL", "resource groups"),
            ("STORAGE VOLUMES", "storage volumes"),
            ("ALL GRANTS", "grants"),
        ] {
            if self.take(words) {
                return Ok(Statement::Nothing(name));
            }
        }
        if self.take("PROC") {
            self.text()?;
            return Ok(Statement::Nothing("proc"));
        }
        if self.take("ALL ROUTINE LOAD FROM") || self.take("FULL FUNCTIONS FROM") {
            self.identifier()?;
            return Ok(Statement::Nothing("of a database"));
        }
        Err(self.unexpected())
    }

    fn show_snapshot(&mut self) -> Parsed<Statement> {
        let repository = self.identifier()?;
        let (mut label, mut timestamp) = (None, None);
        if self.take("WHERE") {
            self.need("SNAPSHOT")?;
            self.need_mark('=')?;
            label = Some(self.text()?);
            if self.take("AND TIMESTAMP") {
                self.need_mark('=')?;
                timestamp = Some(self.text()?);
            }
        }
        Ok(Statement::ShowSnapshot { repository, label, timestamp })
    }
}
