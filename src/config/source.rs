//! A configuration's text with its overrides, checked key by key, which still knows where each value stands.

use super::rule::Rule;
use super::sections::{Key, keys};
use crate::{Error, Result};
use serde::de::{DeserializeSeed, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml::{Mapping, Value};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// Bytes of a configuration file at most: no sensible one comes near.
const LARGEST: u64 = 1 << 20;

/// Reads a configuration file.
pub(super) fn read(path: &Path) -> Result<String> {
    let refuse = |problem: &dyn fmt::Display, remedy: &str| Error::usage(path.display(), problem, remedy);
    let mut text = String::new();
    let file = std::fs::File::open(path)
        .map_err(|e| refuse(&format_args!("cannot read the configuration: {e}"), "check the path"))?;
    file.take(LARGEST + 1)
        .read_to_string(&mut text)
        .map_err(|e| refuse(&format_args!("cannot read the configuration: {e}"), "give a YAML text file"))?;
    if text.len() as u64 > LARGEST {
        return Err(refuse(&"is larger than 1 MiB", "give a configuration file"));
    }
    Ok(text)
}

/// A checked tree of values with its origin.
pub(super) struct Source<'a> {
    origin: &'a str,
    text: &'a str,
    tree: Mapping,
    /// Path and text of each override.
    sets: Vec<(String, String)>,
    rules: BTreeMap<String, Rule>,
}

impl<'a> Source<'a> {
    /// Parses and checks a text.
    pub(super) fn new(origin: &'a str, text: &'a str) -> Result<Self> {
        let rules = keys().into_iter().map(|Key { path, rule, .. }| (path, rule)).collect();
        let mut source = Self { origin, text, tree: Mapping::new(), sets: Vec::new(), rules };
        let refuse = |problem: String, remedy: &str| Err(Error::usage(origin, problem, remedy));
        let mut value = match parse(text) {
            Ok(value) => value,
            Err(problem) => return refuse(problem, "correct the line"),
        };
        if let Err(e) = value.apply_merge() {
            return refuse(format!("has a merge that cannot be applied: {e}"), "merge sections with sections");
        }
        source.tree = match source.checked("", value)? {
            Value::Mapping(tree) => tree,
            _ => Mapping::new(),
        };
        Ok(source)
    }

    /// Puts `key.path=value` overrides into the tree, each checked as if it stood in the file.
    pub(super) fn apply(&mut self, sets: &[String]) -> Result<()> {
        for set in sets {
            let place = format!("--set {set}");
            let Some((path, text)) = set.split_once('=') else {
                return Err(Error::usage(place, "has no =", "write --set key.path=value, as --set train.epochs=5"));
            };
            let path = path.trim();
            let value =
                parse(text).map_err(|problem| Error::usage(&place, format_args!("the value {problem}"), "quote it"))?;
            // First, so that errors about the value name this override.
            self.sets.push((path.to_owned(), text.to_owned()));
            if path.is_empty() || !self.is_known(path) {
                return Err(self.unknown(path));
            }
            let value = self.checked(path, value)?;
            let mut section = &mut self.tree;
            let mut parts = path.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    section.insert(part.into(), value);
                    break;
                }
                let entry = section.entry(part.into()).or_insert_with(|| Mapping::new().into());
                match entry {
                    Value::Mapping(inner) => section = inner,
                    // The tree is checked: what stands at a section's place is a section.
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// The tree for the typed structs.
    pub(super) fn tree(&self) -> Value {
        Value::Mapping(self.tree.clone())
    }

    /// Keys present whose value changes nothing.
    pub(super) fn without_effect(&self) -> Vec<String> {
        let mut present = Vec::new();
        leaves("", &self.tree, &mut present);
        present.retain(|path| self.rules.get(path).is_some_and(|rule| !rule.effect));
        present
    }

    /// Where the value of `path` comes from: an override, a line of the file, or just the file.
    pub(super) fn place(&self, path: &str) -> String {
        let within = |set: &str| path == set || path.strip_prefix(set).is_some_and(|rest| rest.starts_with('.'));
        if let Some((set, text)) = self.sets.iter().rev().find(|(set, _)| within(set)) {
            return format!("--set {set}={text}");
        }
        match line_of(self.text, path) {
            Some(line) => format!("{}, line {line}", self.origin),
            None => self.origin.to_owned(),
        }
    }

    /// An error about the value of `path`.
    pub(super) fn refuse(&self, path: &str, problem: impl fmt::Display, remedy: impl fmt::Display) -> Error {
        Error::usage(self.place(path), format_args!("{path} {problem}"), remedy)
    }

    /// Whether a path names a key or a section.
    fn is_known(&self, path: &str) -> bool {
        self.rules.contains_key(path) || self.is_section(path)
    }

    fn is_section(&self, path: &str) -> bool {
        path.is_empty() || self.rules.keys().any(|key| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Checks what stands at `path` and everything below it. Empty sections become sections without keys, `~` in
    /// paths becomes the home folder, `schedule: cosine` becomes a section.
    fn checked(&self, path: &str, value: Value) -> Result<Value> {
        if let Some(rule) = self.rules.get(path) {
            if !rule.allows(&value) {
                return Err(self.refuse(path, format_args!("is {}", show(&value)), format_args!("give {rule}")));
            }
            return match value {
                Value::String(text) if rule.is_path() => Ok(Value::String(expand_home(text))),
                value => Ok(value),
            };
        }
        let section = match value {
            Value::Mapping(section) => section,
            Value::Null => Mapping::new(),
            Value::String(word) if path == "train.schedule" => [("type".into(), word.into())].into_iter().collect(),
            value if path.is_empty() => {
                let problem = format!("holds {} and no sections", show(&value));
                return Err(Error::usage(self.origin, problem, "start with a section, as `train:`"));
            }
            value => {
                let example = self.rules.keys().find(|key| key.starts_with(&format!("{path}."))).map_or("", |key| key);
                let remedy = format!("give a section with keys, as {example}");
                return Err(self.refuse(path, format_args!("is {}", show(&value)), remedy));
            }
        };
        let mut result = Mapping::with_capacity(section.len());
        for (name, value) in section {
            let below = match name.as_str() {
                Some(name) if path.is_empty() => name.to_owned(),
                Some(name) => format!("{path}.{name}"),
                None => return Err(self.unknown(&format!("{path}{}{}", dot(path), show(&name)))),
            };
            // A name with a dot would be taken for the path of another key.
            if name.as_str().is_some_and(|name| name.contains('.')) || !self.is_known(&below) {
                return Err(self.unknown(&below));
            }
            result.insert(name, self.checked(&below, value)?);
        }
        Ok(Value::Mapping(result))
    }

    /// The error about a key that is not known, which names the nearest that is.
    fn unknown(&self, path: &str) -> Error {
        // Also right for a key below a key, as train.lr.x: the override or line that holds it is that of its parent.
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        // The comparison takes time and memory by the product of the lengths: of a name longer than any its start will do.
        let start = cut(path);
        let likeness = |known: &str| {
            let whole = strsim::normalized_damerau_levenshtein(&start, known);
            // The right key in the wrong section.
            let moved = 0.9 * strsim::normalized_damerau_levenshtein(&last(&start), &last(known));
            whole.max(moved)
        };
        let sections = self.rules.keys().flat_map(|key| key.match_indices('.').map(|(i, _)| &key[..i]));
        let nearest =
            self.rules.keys().map(String::as_str).chain(sections).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        Error::usage(
            self.place(path),
            format_args!("unknown key {}", cut(path)),
            format_args!("the nearest known key is {}; `emberformer config` shows all", nearest.unwrap_or_default()),
        )
    }
}

/// Values of a configuration at most, each counted as often as aliases repeat it.
const MOST_VALUES: usize = 100_000;

/// Opening brackets of a configuration at most: the parser takes time by the square of their depth, minutes for a file of
/// nothing else.
const MOST_BRACKETS: usize = 5_000;

/// YAML as a value, or what is wrong with it. Aliases of aliases of aliases would make a short text fill the memory, so
/// its values are counted first, without keeping them.
fn parse(text: &str) -> std::result::Result<Value, String> {
    if text.bytes().filter(|byte| b"[{".contains(byte)).count() > MOST_BRACKETS {
        return Err(format!("holds more than {MOST_BRACKETS} opening brackets"));
    }
    let counted = Cell::new(0);
    let count = Count(&counted).deserialize(serde_yaml::Deserializer::from_str(text));
    if counted.get() > MOST_VALUES {
        return Err(format!("holds more than {MOST_VALUES} values, its aliases followed"));
    }
    count.and_then(|()| serde_yaml::from_str(text)).map_err(|e| format!("is no valid YAML: {e}"))
}

/// Takes what [`Value`] takes, counts it, and fails after [`MOST_VALUES`].
struct Count<'a>(&'a Cell<usize>);

impl Count<'_> {
    fn one<E: serde::de::Error>(&self) -> std::result::Result<(), E> {
        self.0.set(self.0.get() + 1);
        if self.0.get() > MOST_VALUES { Err(E::custom("too many values")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_bool<E: serde::de::Error>(self, _: bool) -> std::result::Result<(), E> {
        self.one()
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> std::result::Result<(), E> {
        self.one()
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> std::result::Result<(), E> {
        self.one()
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> std::result::Result<(), E> {
        self.one()
    }
    fn visit_str<E: serde::de::Error>(self, _: &str) -> std::result::Result<(), E> {
        self.one()
    }
    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        self.one()
    }
    fn visit_none<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        self.one()
    }
    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        self.deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        self.one()?;
        while items.next_element_seed(Count(self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        self.one()?;
        while map.next_key_seed(Count(self.0))?.is_some() {
            map.next_value_seed(Count(self.0))?;
        }
        Ok(())
    }
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> std::result::Result<(), A::Error> {
        let (_, value) = tagged.variant::<IgnoredAny>()?;
        value.newtype_variant_seed(self)
    }
}

fn dot(path: &str) -> &'static str {
    if path.is_empty() { "" } else { "." }
}

/// The paths of all keys in a tree.
fn leaves(path: &str, section: &Mapping, found: &mut Vec<String>) {
    for (name, value) in section {
        let below = format!("{path}{}{}", dot(path), name.as_str().unwrap_or_default());
        match value {
            Value::Mapping(inner) => leaves(&below, inner, found),
            _ => found.push(below),
        }
    }
}

/// A value as one short line.
fn show(value: &Value) -> String {
    if let Value::Number(number) = value {
        return number.to_string(); // JSON has no word for .inf and .nan
    }
    cut(&serde_json::to_string(value).unwrap_or_else(|_| "something that is no plain value".to_owned()))
}

fn cut(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(77).chain("...".chars()).collect() }
}

/// `~` and `~/...` with the home folder in place of `~`.
fn expand_home(text: String) -> String {
    let rest = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => return text,
    };
    match std::env::home_dir() {
        Some(home) => format!("{}{rest}", home.display()),
        None => text,
    }
}

/// The line of a key in a YAML text: a parse that fails on purpose when it meets the key, and says where that was.
fn line_of(text: &str, path: &str) -> Option<usize> {
    if path.is_empty() {
        return None;
    }
    let parts: Vec<&str> = path.split('.').collect();
    let error = Find { path: &parts }.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.to_string().contains(MET).then(|| error.location().map(|at| at.line())).flatten()
}

const MET: &str = "met the key looked for";

/// Goes down a path of keys.
struct Find<'a> {
    path: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let Some((&first, rest)) = self.path.split_first() else { return Ok(()) };
        while let Some(found) = map.next_key_seed(Name { wanted: first, fail: rest.is_empty() })? {
            if found {
                return map.next_value_seed(Find { path: rest });
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Compares a key with a name, and fails on purpose where it is the last of the path.
struct Name<'a> {
    wanted: &'a str,
    fail: bool,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = bool;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Name<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: serde::de::Error>(self, key: &str) -> std::result::Result<bool, E> {
        if key == self.wanted && self.fail { Err(E::custom(MET)) } else { Ok(key == self.wanted) }
    }
    fn visit_u64<E: serde::de::Error>(self, key: u64) -> std::result::Result<bool, E> {
        self.visit_str(&key.to_string())
    }
}
