//! Rendering of tables, YAML and CSV.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Cell, Table, csv, yaml};

fn sample() -> Table {
    let mut table = Table::new(["NAME", "MEMORY USED", "COMMAND"]);
    table.push([Cell::from("web-1"), Cell::two("1.5 MiB", "1572864"), Cell::from("nginx -g \"daemon off;\"")]);
    table.push([Cell::from("db"), Cell::optional(None::<u64>), Cell::from("a\x1b[31m,b")]);
    table
}

#[test]
fn columns_are_aligned_and_control_characters_are_shown() {
    insta::assert_snapshot!(sample().aligned(), @r#"
    NAME   MEMORY USED  COMMAND
    web-1  1.5 MiB      nginx -g "daemon off;"
    db     -            a\u{1b}[31m,b
    "#);
    assert!(sample().aligned().lines().all(|line| !line.ends_with(' ')));
    assert_eq!(sample().first_column(), "web-1\ndb\n");
}

#[test]
fn csv_has_exact_values_and_quotes_what_needs_it() {
    assert_eq!(
        csv::write(&sample()),
        "name,memory_used,command\nweb-1,1572864,\"nginx -g \"\"daemon off;\"\"\"\ndb,,\"a\u{1b}[31m,b\"\n"
    );
}

#[test]
fn yaml_is_in_blocks() {
    let value = json!({
        "name": "web-1", "pid": 42, "exit_code": null, "ports": [], "labels": {"a b": "no", "c": "1.0"},
        "volumes": [{"source": "/srv", "flags": ["ro", "x y"]}, {"source": "/data"}], "nested": [[1, 2], []],
        "text": "two\nlines", "time": "2026-01-01T00:00:00Z",
    });
    insta::assert_snapshot!(yaml::write(&value), @r#"
    exit_code: null
    labels:
      "a b": "no"
      c: "1.0"
    name: web-1
    nested:
      - - 1
        - 2
      - []
    pid: 42
    ports: []
    text: "two\nlines"
    time: "2026-01-01T00:00:00Z"
    volumes:
      - flags:
          - ro
          - "x y"
        source: /srv
      - source: /data
    "#);
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\u{e9}\n\t]{0,12}".prop_map(Value::from),
        prop_oneof![
            Just("null"),
            Just("No"),
            Just("0x1f"),
            Just("1e3"),
            Just("~"),
            Just("- a"),
            Just("a: b"),
            Just("#")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z -:]{0,6}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Reads back exactly what the writer writes: an oracle for its quoting and indentation.
fn read_back(text: &str) -> Value {
    let lines: Vec<(usize, &str)> = text
        .lines()
        .map(|line| (line.len() - line.trim_start_matches(' ').len(), line.trim_start_matches(' ')))
        .collect();
    let (value, used) = read_block(&lines);
    assert_eq!(used, lines.len(), "{text}");
    value
}

fn read_scalar(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| {
        assert!(text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_'), "{text}");
        Value::from(text)
    })
}

/// Splits `key: rest` or `key:`; a quoted key may contain colons.
fn split_key(line: &str) -> Option<(String, &str)> {
    if line.starts_with('"') {
        let mut stream = serde_json::Deserializer::from_str(line).into_iter::<String>();
        let key = stream.next()?.ok()?;
        let rest = line[stream.byte_offset()..].strip_prefix(':')?;
        return Some((key, rest.trim_start()));
    }
    let (key, rest) = line.split_once(':')?;
    key.chars().all(|c| c.is_ascii_alphanumeric() || "/_.@+-".contains(c)).then(|| (key.to_owned(), rest.trim_start()))
}

fn read_block(lines: &[(usize, &str)]) -> (Value, usize) {
    let (depth, first) = lines[0];
    let body = |from: usize| lines[from..].iter().take_while(|(at, _)| *at > depth).count();
    if first.starts_with("- ") {
        let mut items = Vec::new();
        let mut at = 0;
        while at < lines.len() && lines[at].0 == depth && lines[at].1.starts_with("- ") {
            let length = body(at + 1);
            let mut inner: Vec<(usize, &str)> = vec![(depth + 2, &lines[at].1[2..])];
            inner.extend(&lines[at + 1..at + 1 + length]);
            let (value, used) = read_block(&inner);
            assert_eq!(used, inner.len());
            items.push(value);
            at += 1 + length;
        }
        return (Value::Array(items), at);
    }
    if split_key(first).is_none() {
        return (read_scalar(first), 1);
    }
    let mut fields = serde_json::Map::new();
    let mut at = 0;
    while at < lines.len() && lines[at].0 == depth {
        let (key, rest) = split_key(lines[at].1).unwrap();
        let length = body(at + 1);
        let value = if rest.is_empty() { read_block(&lines[at + 1..at + 1 + length]).0 } else { read_scalar(rest) };
        fields.insert(key, value);
        at += 1 + length;
    }
    (Value::Object(fields), at)
}

proptest! {
    #[test]
    fn yaml_reads_back_to_the_same_value(value in values()) {
        prop_assert_eq!(read_back(&yaml::write(&value)), value);
    }

    #[test]
    fn csv_fields_read_back(fields in prop::collection::vec("[ -~\n]{0,10}", 3)) {
        let mut table = Table::new(["A", "B", "C"]);
        table.push(fields.iter().cloned().map(Cell::from));
        let text = csv::write_rows(&table);
        let mut read = vec![String::new()];
        let mut quoted = false;
        let mut characters = text.strip_suffix('\n').unwrap().chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '"' if quoted && characters.peek() == Some(&'"') => { characters.next(); read.last_mut().unwrap().push('"'); }
                '"' => quoted = !quoted,
                ',' if !quoted => read.push(String::new()),
                c => read.last_mut().unwrap().push(c),
            }
        }
        prop_assert_eq!(read, fields);
    }
}
