//! Text to a tree with positions, within limits. The only user of the YAML library.
//!
//! A tree of our own, not `serde` straight from the parser, because the rules across fields need
//! the position of everything, every bad item of a section has to be reported and not only the
//! first, and secrets have to be found in the text before any of it is shown.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::diagnostic::Problem;

/// The deepest nesting taken. A real policy needs about eight.
const MAX_DEPTH: usize = 48;
/// The most nodes taken, aliases counted as often as they are used.
const MAX_NODES: usize = 50_000;

/// A range of the text. Lines and columns count from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
    /// The first character, counted from the start of the text.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
}

impl Place {
    /// The start of the text.
    pub(super) const START: Self = Self { line: 1, column: 1, start: 0, end: 0 };

    fn of(span: Span) -> Self {
        Self {
            line: span.start.line().max(1),
            column: span.start.col() + 1,
            start: span.start.index(),
            end: span.end.index().max(span.start.index()),
        }
    }
}

/// A value and where it is written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Text as written; `plain` if without quotes, so that it may also be a number, a truth value
    /// or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// The key of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub name: String,
    pub place: Place,
}

impl Node {
    /// The entries of a mapping; empty for anything else.
    pub(super) fn entries(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; empty for anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Whether nothing is written here.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The entry of a mapping.
    pub(super) fn entry(&self, name: &str) -> Option<&(Key, Self)> {
        self.entries().iter().find(|(key, _)| key.name == name)
    }

    /// The value under `name`, if there is one that is not null.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// The node at `path`; in a list a step is an index.
    pub(super) fn find(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::List(items) => items.get(step.parse::<usize>().ok()?),
            _ => node.entry(step).map(|(_, value)| value),
        })
    }

    /// Where to point for the value at `path`, or for the nearest thing around it.
    pub(super) fn place_of(&self, path: &[&str]) -> Place {
        match self.find(path) {
            // A block mapping or list starts on the line below its key: the key says more.
            Some(node) if node.text().is_some_and(|text| !text.is_empty()) => node.place,
            _ => self.key_place_of(path),
        }
    }

    /// Where to point for the key at the end of `path`, or for the nearest thing around it.
    pub(super) fn key_place_of(&self, path: &[&str]) -> Place {
        let mut node = self;
        let mut place = self.place;
        for step in path {
            let next = if let Value::List(items) = &node.value {
                let item = step.parse().ok().and_then(|index: usize| items.get(index));
                item.map(|item| (item, item.place))
            } else {
                node.entry(step).map(|(key, value)| (value, key.place))
            };
            let Some(next) = next else { break };
            (node, place) = next;
        }
        place
    }
}

/// Parses one document.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut builder = Builder {
        text,
        parser: Parser::new(StrInput::new(text)),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let root = builder.document()?;
    match root {
        Some(root) if !root.is_null() => Ok(root),
        _ => Err(Problem::error(Place::START, "the policy is empty")
            .hint("start with `version: 1` and `stack: NAME`")),
    }
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Option<Node>, Problem> {
        let mut root = None;
        while let Some((event, place)) = self.next()? {
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Problem::error(place, "a second document starts here")
                        .hint("one file is one policy: move this part to a file of its own"));
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, place, 0)?),
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Place)>, Problem> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, Place::of(span)))),
            Some(Err(error)) => {
                let marker = error.marker();
                let place = Place {
                    line: marker.line().max(1),
                    column: marker.col() + 1,
                    start: marker.index(),
                    end: marker.index(),
                };
                // The parser may stumble a line before it, and over something else.
                let near = marker.line().max(1)..=marker.line().max(1) + 1;
                if let Some(place) = indented_by_tab(self.text, near) {
                    return Err(syntax_problem(place, "a tab in the indentation"));
                }
                Err(syntax_problem(place, &error.info()))
            }
        }
    }

    /// The node that `event` starts.
    fn node(&mut self, event: Event<'a>, place: Place, depth: usize) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::error(place, "the policy is nested too deeply")
                .hint(format!("at most {MAX_DEPTH} levels are read")));
        }
        self.count(1, place)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                let plain = style == ScalarStyle::Plain;
                (anchor, Value::Scalar { text: text.into_owned(), plain })
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                (anchor, Value::List(self.list(depth)?))
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                (anchor, Value::Map(self.map(depth)?))
            }
            Event::Alias(id) => return self.alias(id, place, depth),
            _ => return Err(Problem::error(place, "a value is missing here")),
        };
        let node = Node { place, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                None | Some((Event::SequenceEnd, _)) => return Ok(items),
                Some((event, place)) => items.push(self.node(event, place, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Problem> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, place) = match self.next()? {
                None | Some((Event::MappingEnd, _)) => return Ok(entries),
                Some(next) => next,
            };
            let key = self.node(event, place, depth + 1)?;
            let Value::Scalar { text: name, .. } = key.value else {
                return Err(Problem::error(place, "a key must be text"));
            };
            if name == "<<" {
                return Err(Problem::error(place, "merge keys (`<<`) are not read")
                    .hint("repeat the settings, or use an alias for the whole value"));
            }
            if let Some(line) = seen.insert(name.clone(), place.line) {
                return Err(Problem::error(place, format!("`{name}` is given twice"))
                    .hint(format!("the first is on line {line}: keep one of them")));
            }
            let Some((event, value_place)) = self.next()? else {
                return Err(Problem::error(place, format!("`{name}` has no value")));
            };
            let value = self.node(event, value_place, depth + 1)?;
            entries.push((Key { name, place }, value));
        }
    }

    fn alias(&mut self, id: usize, place: Place, depth: usize) -> Result<Node, Problem> {
        // An anchor inside itself is not complete yet, so it is not found.
        let Some(node) = self.anchors.get(&id) else {
            return Err(Problem::error(place, "this alias refers to something it is part of"));
        };
        let (nodes, levels) = measure(node);
        let mut node = node.clone();
        self.count(nodes, place)?;
        if depth + levels > MAX_DEPTH {
            return Err(Problem::error(place, "the policy is nested too deeply")
                .hint(format!("at most {MAX_DEPTH} levels are read")));
        }
        node.place = place;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Problem::error(place, "the policy has too many values").hint(format!(
                "at most {MAX_NODES} are read, aliases counted each time they are used"
            )));
        }
        Ok(())
    }
}

/// Nodes and levels of a tree. Depth is bounded by `MAX_DEPTH`.
fn measure(node: &Node) -> (usize, usize) {
    let add = |(nodes, levels): (usize, usize), child: &Node| {
        let (more, deeper) = measure(child);
        (nodes + more, levels.max(deeper + 1))
    };
    match &node.value {
        Value::Scalar { .. } => (1, 0),
        Value::List(items) => items.iter().fold((1, 0), add),
        Value::Map(entries) => entries.iter().map(|(_, value)| value).fold((1, 0), add),
    }
}

fn refuse_tag(present: bool, place: Place) -> Result<(), Problem> {
    if present {
        return Err(Problem::error(place, "YAML tags (`!…`) are not read")
            .hint("remove the tag: the policy's own types decide how a value is read"));
    }
    Ok(())
}

/// The first tab before the text of one of these lines.
fn indented_by_tab(text: &str, lines: std::ops::RangeInclusive<usize>) -> Option<Place> {
    let mut start = 0;
    for (line, content) in (1..).zip(text.split_inclusive('\n')) {
        let blank = content.chars().take_while(|c| c.is_whitespace());
        if lines.contains(&line)
            && let Some(column) = blank.into_iter().position(|c| c == '\t')
            && !content.trim().is_empty()
        {
            let start = start + column;
            return Some(Place { line, column: column + 1, start, end: start + 1 });
        }
        start += content.chars().count();
    }
    None
}

fn syntax_problem(place: Place, info: &str) -> Problem {
    let info = info.trim_end_matches('.').lines().next().unwrap_or_default();
    let problem = Problem::error(place, format!("the YAML cannot be read: {}", lower_first(info)));
    let lower = info.to_lowercase();
    if lower.contains("tab") {
        problem.hint("indent with spaces, never with tabs")
    } else if lower.contains("anchor") {
        problem.hint("an alias (`*name`) needs an anchor (`&name`) before it; quote text that starts with `*` or `&`")
    } else if lower.contains("cannot start any token") || lower.contains("reserved") {
        problem.hint("put the value in double quotes")
    } else {
        problem.hint(
            "look for a missing quote, bracket, colon or space on this line and the one above",
        )
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // An abbreviation at the start stays as it is.
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}
