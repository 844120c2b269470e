//! Rows as text, read by the names of their columns: positions change from version to version.

/// What a statement gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Values in the order of the columns; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    columns: &'a [String],
    values: &'a [Option<String>],
}

impl Rows {
    /// Its rows.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row { columns: &self.columns, values })
    }

    /// The first row.
    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }
}

impl<'a> Row<'a> {
    /// The value in the column of this name, however it is written. StarRocks writes `NULL` where
    /// there is no time yet; that is none too.
    pub fn get(&self, column: &str) -> Option<&'a str> {
        let at = self.columns.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.values.get(at)?.as_deref().filter(|value| *value != "NULL")
    }

    /// The same, and nothing where there is none.
    pub fn text(&self, column: &str) -> &'a str {
        self.get(column).unwrap_or_default()
    }

    /// A number.
    pub fn number(&self, column: &str) -> Option<i64> {
        self.get(column)?.trim().parse().ok()
    }

    /// The value in the first column.
    pub fn at(&self, index: usize) -> &'a str {
        self.values.get(index).and_then(Option::as_deref).unwrap_or_default()
    }

    /// Names and values.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        self.columns.iter().map(String::as_str).zip(self.values.iter().map(Option::as_deref))
    }
}
