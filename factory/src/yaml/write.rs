//! Writes nodes as people write YAML: one key a line, lists indented below their key.

use std::fmt::Write as _;

use super::{Map, Node, Scalar, Style, Value};

/// One document. Each line of `header` becomes a comment at its top.
#[must_use]
pub fn render(header: &str, map: &Map) -> String {
    render_documents(header, std::slice::from_ref(map))
}

/// Several documents with markers between them.
#[must_use]
pub fn render_documents(header: &str, documents: &[Map]) -> String {
    let mut out = String::new();
    for line in header.lines() {
        out.push_str("# ");
        out.push_str(line);
        out.push('\n');
    }
    for (index, map) in documents.iter().enumerate() {
        if index > 0 {
            out.push_str("---\n");
        }
        write_map(&mut out, map, 0, false);
    }
    out
}

/// Whether a reader of either YAML version takes the bare text for that very string.
pub(super) fn is_plain(text: &str) -> bool {
    // A line of its own is the library's field: it knows all words, numbers and dates that have to be quoted.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&text, options)
        .is_ok_and(|written| written.trim_end_matches('\n') == text)
}

/// `is_open` says that the first key stands on a line that is begun already, behind a dash.
fn write_map(out: &mut String, map: &Map, indent: usize, is_open: bool) {
    for (index, (key, node)) in map.0.iter().enumerate() {
        if index > 0 || !is_open {
            pad(out, indent);
        }
        write_scalar(out, &single_line(key), indent);
        out.push(':');
        write_value(out, node, indent);
    }
}

/// Writes what follows a colon, and ends the line.
fn write_value(out: &mut String, node: &Node, indent: usize) {
    if let Some(tag) = &node.tag {
        out.push(' ');
        out.push_str(tag);
    }
    match &node.value {
        Value::Map(map) if !map.is_empty() => {
            out.push('\n');
            write_map(out, map, indent + 2, false);
        }
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            write_list(out, items, indent + 2);
        }
        other => {
            out.push(' ');
            write_leaf(out, other, indent + 2);
        }
    }
}

fn write_list(out: &mut String, items: &[Node], indent: usize) {
    for item in items {
        pad(out, indent);
        out.push('-');
        match &item.value {
            Value::Map(map) if !map.is_empty() && item.tag.is_none() => {
                out.push(' ');
                write_map(out, map, indent + 2, true);
            }
            _ => write_value(out, item, indent),
        }
    }
}

/// Scalars and empty collections.
fn write_leaf(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Scalar(scalar) => write_scalar(out, scalar, indent),
        Value::List(_) => out.push_str("[]"),
        Value::Map(_) => out.push_str("{}"),
    }
    out.push('\n');
}

fn write_scalar(out: &mut String, scalar: &Scalar, indent: usize) {
    let text = scalar.text.as_str();
    let is_one_line = !text.contains(|c: char| c.is_control());
    match scalar.style {
        // A plain text over several lines has no breaks left but paragraphs; quotes carry those.
        Style::Plain if is_one_line => out.push_str(text),
        Style::Single if is_one_line => {
            out.push('\'');
            out.push_str(&text.replace('\'', "''"));
            out.push('\'');
        }
        Style::Block if fits_block(text) => write_block(out, text, indent),
        _ => write_quoted(out, text),
    }
}

/// Keys stand on one line.
fn single_line(key: &Scalar) -> Scalar {
    let style = match key.style {
        Style::Block => Style::Double,
        style => style,
    };
    Scalar {
        text: key.text.clone(),
        style,
    }
}

/// Blocks have no escapes, and the first line sets the indentation.
fn fits_block(text: &str) -> bool {
    !text.trim().is_empty()
        && !text.starts_with([' ', '\t', '\n'])
        && !text.contains(|c: char| c.is_control() && c != '\n')
}

fn write_block(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    let breaks = text.len() - body.len();
    out.push_str(match breaks {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
    }
    // The break that ends the last line is the caller's.
    for _ in 1..breaks {
        out.push('\n');
    }
}

fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}
