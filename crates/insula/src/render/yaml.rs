//! YAML out of JSON values: block style, two spaces, text quoted as JSON wherever plain text could mean something else.

use serde_json::Value;

/// `value` as a YAML document without its `---`.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// A value on lines of its own, indented by `depth` levels.
fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, out);
                out.push_str("- ");
                // The first line of a nested block goes behind the dash, the others under it.
                let mut nested = String::new();
                block(item, depth + 1, &mut nested);
                out.push_str(nested.trim_start_matches(' '));
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                indent(depth, out);
                out.push_str(&scalar(key));
                out.push(':');
                if is_nested(value) {
                    out.push('\n');
                    block(value, depth + 1, out);
                } else {
                    out.push(' ');
                    out.push_str(&inline(value));
                    out.push('\n');
                }
            }
        }
        _ => {
            indent(depth, out);
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        // `null`, numbers, booleans, `[]` and `{}` are the same in both.
        other => other.to_string(),
    }
}

fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { Value::from(text).to_string() }
}

/// Whether text without quotes can only be that text: no number, no keyword of any YAML version, no indicator.
fn is_plain(text: &str) -> bool {
    let keyword = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let inner = |c: char| c.is_ascii_alphanumeric() || "/_.@+-".contains(c);
    starts && text.chars().all(inner) && !keyword.contains(&text.to_ascii_lowercase().as_str())
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}
