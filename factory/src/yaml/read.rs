//! Builds nodes from the parser's events: expands aliases and `<<` merges, refuses duplicate keys.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{Map, Node, Place, Scalar, Style, Value};

/// Most nodes that the aliases of one document may copy: a few lines of nested aliases can stand for billions.
const MAX_COPIES: usize = 100_000;

/// Why a text is no YAML that the factory reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Reads a text of at most one document. `None` is an empty one.
pub fn parse(text: &str) -> Result<Option<Node>, Mistake> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = granit_parser::options! { emit_comments: false };
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        copies: 0,
    };
    let mut document = None;
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(..) if document.is_some() => {
                return Err(mistake(
                    span.start,
                    "a second document begins here: keep all in one document, without ---",
                ));
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd => {}
            event => document = Some(reader.node(event, span)?),
        }
    }
    Ok(document.filter(|node| !node.is_null()))
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    copies: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Mistake> {
        self.events
            .next_event()
            .transpose()
            .map_err(|error| mistake(*error.marker(), &error.info()))
    }

    /// The event after one that cannot be the last.
    fn following(&mut self, span: &Span) -> Result<(Event<'a>, Span), Mistake> {
        self.next()?
            .ok_or_else(|| mistake(span.start, "what begins here does not end"))
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Mistake> {
        let (value, anchor, tag) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let text = text.into_owned();
                (Value::Scalar(Scalar { text, style }), anchor, tag)
            }
            Event::SequenceStart(_, anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    match self.following(&span)? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span)?),
                    }
                }
                (Value::List(items), anchor, tag)
            }
            Event::MappingStart(_, anchor, tag) => (Value::Map(self.map(&span)?), anchor, tag),
            Event::Alias(id) => return self.copy(id, &span),
            _ => return Err(mistake(span.start, "a value is expected here")),
        };
        let node = Node {
            place: place(span.start),
            tag: tag.map(|tag| Tag::original(&tag)),
            value,
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn map(&mut self, span: &Span) -> Result<Map, Mistake> {
        let mut map = Map::default();
        let mut merges = Vec::new();
        loop {
            let (event, key_span) = match self.following(span)? {
                (Event::MappingEnd, _) => break,
                other => other,
            };
            let key = self.node(event, key_span)?;
            let Value::Scalar(scalar) = key.value else {
                return Err(mistake(key_span.start, "a key must be a single word"));
            };
            let (event, value_span) = self.following(span)?;
            let node = self.node(event, value_span)?;
            if scalar.text == "<<" && scalar.style == Style::Plain {
                merges.push(node);
                continue;
            }
            if map.get(&scalar.text).is_some() {
                let message = format!(
                    "the key {} is here a second time: keep one of them",
                    scalar.text
                );
                return Err(mistake(key_span.start, &message));
            }
            map.0.push((scalar, node));
        }
        for node in merges {
            merge(&mut map, &node)?;
        }
        Ok(map)
    }

    fn copy(&mut self, id: usize, span: &Span) -> Result<Node, Mistake> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(mistake(
                span.start,
                "this alias stands within its own anchor",
            ));
        };
        self.copies += size(node);
        if self.copies > MAX_COPIES {
            return Err(mistake(
                span.start,
                "the aliases of this file stand for too many values",
            ));
        }
        Ok(node.clone())
    }
}

/// `<<: *defaults`, as YAML 1.1 readers take it: keys that are there win.
fn merge(map: &mut Map, from: &Node) -> Result<(), Mistake> {
    match &from.value {
        Value::Map(more) => {
            for (key, node) in &more.0 {
                if map.get(&key.text).is_none() {
                    map.0.push((key.clone(), node.clone()));
                }
            }
            Ok(())
        }
        Value::List(nodes) => nodes.iter().try_for_each(|node| merge(map, node)),
        Value::Scalar(_) => Err(Mistake {
            place: from.place,
            message: "<< takes a mapping, such as <<: *defaults".to_owned(),
        }),
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(map) => 1 + map.0.iter().map(|(_, node)| 1 + size(node)).sum::<usize>(),
    }
}

/// The parser counts columns from 0.
fn place(marker: Marker) -> Place {
    Place {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

fn mistake(marker: Marker, message: &str) -> Mistake {
    Mistake {
        place: place(marker),
        message: message.to_owned(),
    }
}
