//! YAML documents that somebody else may have written: keys keep their order, scalars their spelling, nodes their place.
//!
//! A value that the factory does not know must leave it as it came, so `1.10` is never read as a number. Pure.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Mistake, parse};
pub use write::{render, render_documents};

/// Where a node begins, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// A value and where it stands. Two nodes are equal if they mean the same, wherever they stand.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins. Nodes made by the factory have none.
    pub place: Place,
    /// An explicit tag, as written.
    pub tag: Option<String>,
    /// The value.
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string, number, boolean or null.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(Map),
}

/// A scalar and how it was written.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text, after escapes.
    pub text: String,
    /// The notation. It tells the string "1.10" from the number.
    pub style: Style,
}

/// Notations of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: readers decide by its looks what it is.
    Plain,
    /// `'text'`.
    Single,
    /// `"text"`.
    Double,
    /// A block of lines, `|`.
    Block,
}

/// A mapping in the order of its file.
#[derive(Clone, Debug, Default)]
pub struct Map(Vec<(Scalar, Node)>);

impl Node {
    /// A string. It is quoted where it would be read as something else.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let style = if write::is_plain(text) {
            Style::Plain
        } else {
            Style::Double
        };
        Value::Scalar(Scalar {
            text: text.to_owned(),
            style,
        })
        .into()
    }

    /// A word that is no string: `true`, `null`, `5`.
    #[must_use]
    pub fn word(word: &str) -> Self {
        Value::Scalar(Scalar {
            text: word.to_owned(),
            style: Style::Plain,
        })
        .into()
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean(value: bool) -> Self {
        Self::word(if value { "true" } else { "false" })
    }

    /// `null`.
    #[must_use]
    pub fn null() -> Self {
        Self::word("null")
    }

    /// A list of strings.
    pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Value::List(texts.into_iter().map(Self::text).collect()).into()
    }

    /// The text of a scalar that is not null.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(&scalar.text),
            _ => None,
        }
    }

    /// A boolean, in the spellings of YAML 1.1.
    #[must_use]
    pub fn as_boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar(scalar) if scalar.style == Style::Plain => {
                match scalar.text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" => Some(true),
                    "false" | "no" | "off" => Some(false),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The items of a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The mapping.
    #[must_use]
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Whether it says nothing: `null`, `~` or empty.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// What it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => "null",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        Self {
            place: Place::default(),
            tag: None,
            value,
        }
    }
}

impl From<Map> for Node {
    fn from(map: Map) -> Self {
        Value::Map(map).into()
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.tag == other.tag && self.value == other.value
    }
}

impl Scalar {
    fn is_null(&self) -> bool {
        self.style == Style::Plain
            && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Whether readers take it for a string.
    fn is_string(&self) -> bool {
        self.style != Style::Plain || write::is_plain(&self.text)
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        (self.is_null() && other.is_null())
            || (self.text == other.text
                && (self.style == other.style || self.is_string() == other.is_string()))
    }
}

impl Map {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0
            .iter()
            .find(|(candidate, _)| candidate.text == key)
            .map(|(_, node)| node)
    }

    /// The text of a key's scalar, if it is there and not null.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// The strings of a key's list. Anything else counts as empty.
    #[must_use]
    pub fn texts(&self, key: &str) -> Vec<&str> {
        self.get(key)
            .and_then(Node::as_list)
            .map(|items| items.iter().filter_map(Node::as_text).collect())
            .unwrap_or_default()
    }

    /// The mapping of a key.
    #[must_use]
    pub fn map(&self, key: &str) -> Option<&Map> {
        self.get(key)?.as_map()
    }

    /// All keys and values, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(key, node)| (key.text.as_str(), node))
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a key at the end. The caller knows that it is new.
    pub fn push(&mut self, key: &str, node: impl Into<Node>) {
        let key = Scalar {
            text: key.to_owned(),
            style: if write::is_plain(key) {
                Style::Plain
            } else {
                Style::Double
            },
        };
        self.0.push((key, node.into()));
    }

    /// Sets a key. One that is there keeps its place, and its spelling if it means the same; a new one goes where `order`
    /// puts it.
    pub fn set(&mut self, order: &[&str], key: &str, node: impl Into<Node>) {
        let node = node.into();
        if let Some((_, old)) = self.0.iter_mut().find(|(k, _)| k.text == key) {
            if *old != node {
                *old = node;
            }
            return;
        }
        let rank = |key: &str| order.iter().position(|candidate| *candidate == key);
        let at = rank(key).and_then(|mine| {
            let ranks: Vec<_> = self.0.iter().map(|(k, _)| rank(&k.text)).collect();
            let next = ranks.iter().position(|theirs| *theirs > Some(mine));
            let last = ranks
                .iter()
                .rposition(|theirs| theirs.is_some_and(|theirs| theirs < mine));
            next.or(last.map(|last| last + 1))
        });
        let at = at.unwrap_or(self.0.len());
        self.push(key, node);
        self.0[at..].rotate_right(1);
    }

    /// Sets a key unless it is there, be it null.
    pub fn set_default(&mut self, order: &[&str], key: &str, node: impl Into<Node>) {
        if self.get(key).is_none() {
            self.set(order, key, node);
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let at = self.0.iter().position(|(k, _)| k.text == key)?;
        Some(self.0.remove(at).1)
    }

    /// The same without some keys.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(key, _)| !keys.contains(&key.text.as_str()))
                .cloned()
                .collect(),
        )
    }
}

/// Order is for readers; it carries no meaning.
impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .all(|(key, node)| other.get(&key.text) == Some(node))
    }
}
