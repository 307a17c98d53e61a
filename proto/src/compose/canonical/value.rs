//! A node as a value of the normalised file, in the form that its place has.
//!
//! Holds: a value whose text is not of its form stays as it is written; that it is wrong is said where the model is read.

use serde_json::{Map, Value};

use super::{
    super::{
        merge,
        path::Path,
        text,
        yaml::{Kind, Node},
    },
    forms::{Form, form},
    scalar,
};

/// The value of a node at a path.
pub(super) fn value(node: &Node, path: &mut Path) -> Value {
    match form(path) {
        Form::Pairs => pairs(node, &Value::Null),
        Form::Labels => pairs(node, &Value::String(String::new())),
        Form::Texts => texts(&merge::as_list(node.clone())),
        Form::Hosts => texts(&merge::as_hosts(node.clone())),
        Form::Command => command(node),
        Form::Test => match node.text() {
            Some(line) => Value::from(vec!["CMD-SHELL", line]),
            None => texts(node),
        },
        form @ (Form::Typed
        | Form::Text
        | Form::Flag
        | Form::Number
        | Form::Bytes
        | Form::Time
        | Form::Mode
        | Form::Count) => plain(node, form, path),
    }
}

fn plain(node: &Node, form: Form, path: &mut Path) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Scalar(text) => scalar(text, node.plain, form),
        Kind::List(items) => {
            let item = |(index, item)| {
                path.push_index(index);
                let value = value(item, path);
                path.pop();
                value
            };
            items.iter().enumerate().map(item).collect()
        }
        Kind::Map(map) => {
            let mut object = Map::new();
            for (key, entry) in map {
                path.push(key);
                object.insert(key.clone(), value(&entry.value, path));
                path.pop();
            }
            Value::Object(object)
        }
    }
}

fn scalar(text: &str, plain: bool, form: Form) -> Value {
    let kept = || Value::String(text.to_owned());
    match form {
        Form::Typed if plain => scalar::typed(text),
        Form::Flag => text::switch(text).map_or_else(|_| kept(), |(on, _)| Value::Bool(on)),
        Form::Count if text == "all" => Value::from(-1),
        // A leading zero does not make a number octal where the model is read either.
        Form::Number | Form::Count => {
            text::whole(text, 0, u64::MAX).map_or_else(|_| scalar::typed(text), Value::from)
        }
        Form::Bytes => text::bytes(text).map_or_else(|_| kept(), |bytes| Value::String(bytes.to_string())),
        Form::Time => text::duration(text).map_or_else(|_| kept(), |time| Value::String(scalar::time(time))),
        Form::Mode => {
            // The digits of a text are octal; a number may also be a decimal one.
            let digits = text.trim_start_matches("0o");
            match (u32::from_str_radix(digits, 8), plain && !text.starts_with('0')) {
                (_, true) => {
                    scalar::whole(text).map_or_else(kept, |mode| Value::String(format!("0{mode:o}")))
                }
                (Ok(mode), false) => Value::String(format!("0{mode:o}")),
                (Err(_), false) => kept(),
            }
        }
        Form::Typed
        | Form::Text
        | Form::Pairs
        | Form::Labels
        | Form::Texts
        | Form::Command
        | Form::Test
        | Form::Hosts => kept(),
    }
}

/// Texts by name; `none` stands for a name without a value.
fn pairs(node: &Node, none: &Value) -> Value {
    let node = merge::by_name(node.clone());
    match node.kind {
        Kind::Map(map) => {
            let value = |node: Node| match node.kind {
                Kind::Null => none.clone(),
                Kind::Scalar(text) => Value::String(text),
                kind @ (Kind::List(_) | Kind::Map(_)) => any(&Node { kind, ..node }),
            };
            Value::Object(map.into_iter().map(|(name, entry)| (name, value(entry.value))).collect())
        }
        Kind::Null => Value::Null,
        kind @ (Kind::Scalar(_) | Kind::List(_)) => any(&Node { kind, ..node }),
    }
}

fn texts(node: &Node) -> Value {
    match &node.kind {
        Kind::List(items) => items
            .iter()
            .map(|item| match item.text() {
                Some(text) => Value::String(text.to_owned()),
                None => any(item),
            })
            .collect(),
        Kind::Null | Kind::Scalar(_) | Kind::Map(_) => any(node),
    }
}

fn command(node: &Node) -> Value {
    match node.text() {
        Some(line) => match text::words(line) {
            Ok(words) => Value::from(words.words),
            Err(_) => Value::String(line.to_owned()),
        },
        None => texts(node),
    }
}

/// A node as it is, with the types of YAML.
pub(in super::super) fn any(node: &Node) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Scalar(text) => scalar(text, node.plain, Form::Typed),
        Kind::List(items) => items.iter().map(any).collect(),
        Kind::Map(map) => {
            Value::Object(map.iter().map(|(key, entry)| (key.clone(), any(&entry.value))).collect())
        }
    }
}
