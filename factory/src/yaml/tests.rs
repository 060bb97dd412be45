use std::fmt::Write as _;

use super::*;

fn read(text: &str) -> Map {
    match parse(text).unwrap().unwrap().value {
        Value::Map(map) => map,
        other => panic!("{other:?} is no mapping"),
    }
}

fn again(text: &str) -> String {
    render("", &read(text))
}

#[test]
fn values_that_are_not_understood_leave_as_they_came() {
    let text = "\
weight: 1.10
octal: 0o17
date: 2024-12-04
nothing: ~
yes: no
quoted: \"1.10\"
single: 'it''s'
tagged: !!str 1.10
list:
  - a
  - b: 1
    c: {}
  - []
deep:
  more:
    most: x
";
    assert_eq!(again(text), text);
}

#[test]
fn blocks_of_lines_survive() {
    for text in [
        "a: |\n  one\n\n  two\nb: 1\n",
        "a: |-\n  one\n  two\nb: 1\n",
        "a: |+\n  one\n\nb: 1\n",
        "a:\n  b:\n    - |\n      x: y\n",
    ] {
        assert_eq!(again(text), text);
    }
    for text in [
        "a: >\n  folded\n  text\n",
        "a: |2\n    indented\n",
        "a: \"tab\\there\"\n",
    ] {
        let written = again(text);
        assert_eq!(read(&written), read(text), "{written}");
    }
}

#[test]
fn strings_that_look_like_something_else_are_quoted() {
    for text in [
        "1.10",
        "1",
        "0x1f",
        "1e3",
        "true",
        "no",
        "null",
        "~",
        "",
        " a",
        "a: b",
        "a #b",
        "- a",
        "2024-12-04",
        "2024-12-04T10:00:00Z",
        "12:30:00",
        "@a",
        "*a",
        "&a",
        "!a",
        "%a",
        "[a",
        "{a",
        "a\nb",
        "\u{7f}",
        "'a",
        "\"a",
        "a:",
    ] {
        let mut map = Map::default();
        map.push("key", Node::text(text));
        let written = render("", &map);
        let back = read(&written);
        assert_eq!(
            back.get("key").and_then(Node::as_text),
            Some(text),
            "{written}"
        );
        let Some(Value::Scalar(scalar)) = back.get("key").map(|node| &node.value) else {
            panic!("{written}");
        };
        assert_ne!(scalar.style, Style::Plain, "{written}");
    }
    for text in [
        "22-bookworm-slim",
        "sha256:abc",
        "ghcr.io/owner/app",
        "^1\\.10$",
        "7d",
        "v1.0",
        "^.*$",
    ] {
        let mut map = Map::default();
        map.push("key", Node::text(text));
        assert_eq!(render("", &map), format!("key: {text}\n"));
    }
}

#[test]
fn a_key_keeps_its_place_and_a_new_one_finds_its_own() {
    let order = ["name", "tag", "digest", "when"];
    let mut map = read("name: a\nmine: 1\nwhen: b\n");
    map.set(&order, "digest", Node::text("d"));
    map.set(&order, "name", Node::text("z"));
    map.set(&order, "other", Node::text("o"));
    assert_eq!(
        render("", &map),
        "name: z\nmine: 1\ndigest: d\nwhen: b\nother: o\n"
    );
}

#[test]
fn a_value_that_means_the_same_keeps_its_spelling() {
    let mut map = read("a: 'x'\nb: 1.10\n");
    map.set(&[], "a", Node::text("x"));
    map.set(&[], "b", Node::text("1.10"));
    assert_eq!(render("", &map), "a: 'x'\nb: \"1.10\"\n");
}

#[test]
fn mistakes_have_line_and_column() {
    for (text, line, column, words) in [
        ("a: 1\na: 2\n", 2, 1, "second time"),
        ("a: [1\nb: 2\n", 2, 0, ""),
        ("a: *gone\n", 1, 4, "unknown anchor"),
        ("a: 1\n---\nb: 1\n", 2, 1, "second document"),
        ("a:\n\t- b\n", 2, 0, "tab"),
        ("[a]: 1\n", 1, 1, "single word"),
        ("a: 1\n<<: 3\n", 2, 5, "<<"),
    ] {
        let found = parse(text).unwrap_err();
        assert_eq!(found.place.line, line, "{text}: {found:?}");
        assert!(
            column == 0 || found.place.column == column,
            "{text}: {found:?}"
        );
        assert!(found.message.contains(words), "{text}: {found:?}");
    }
}

#[test]
fn aliases_and_merges_are_expanded() {
    let map = read("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\nsame: *b\n");
    assert_eq!(render("", map.map("mine").unwrap()), "y: 3\nx: 1\n");
    assert_eq!(map.get("same"), map.get("base"));
}

#[test]
fn aliases_of_aliases_cannot_fill_the_memory() {
    let mut text = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let items = vec![format!("*l{}", level - 1); 10].join(", ");
        writeln!(text, "l{level}: &l{level} [{items}]").unwrap();
    }
    assert!(parse(&text).unwrap_err().message.contains("too many"));
}

#[test]
fn a_text_without_values_is_empty() {
    for text in ["", "# only a comment\n", "---\n", "null\n", "\u{feff}"] {
        assert!(parse(text).unwrap().is_none(), "{text:?}");
    }
}
