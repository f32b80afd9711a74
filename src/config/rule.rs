//! What a key may hold.

use serde_yaml::Value;
use std::fmt;
use std::ops::Bound;

/// What a key may hold, and whether it does anything.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    kind: Kind,
    nullable: bool,
    /// Whether the key changes anything here.
    pub(super) effect: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Flag,
    Whole(u64, u64),
    Number(Bound<f64>, Bound<f64>),
    AutoOr(Box<Kind>),
    Choice(&'static [&'static str]),
    Text,
    Path,
    List(Box<Kind>, Option<usize>),
    Anything,
}

/// true or false.
pub(super) fn flag() -> Rule {
    Kind::Flag.rule()
}
/// A whole number of `least` or more.
pub(super) fn at_least(least: u64) -> Rule {
    whole(least, u64::MAX)
}
/// A whole number of `least` to `most`.
pub(super) fn whole(least: u64, most: u64) -> Rule {
    Kind::Whole(least, most).rule()
}
/// A number above 0.
pub(super) fn above_zero() -> Rule {
    Kind::Number(Bound::Excluded(0.0), Bound::Unbounded).rule()
}
/// A number of 0 or more.
pub(super) fn not_negative() -> Rule {
    Kind::Number(Bound::Included(0.0), Bound::Unbounded).rule()
}
/// A number from 0 to 1.
pub(super) fn fraction() -> Rule {
    Kind::Number(Bound::Included(0.0), Bound::Included(1.0)).rule()
}
/// A number from 0 to below 1.
pub(super) fn below_one() -> Rule {
    Kind::Number(Bound::Included(0.0), Bound::Excluded(1.0)).rule()
}
/// A number above 0 and below 1.
pub(super) fn inside_one() -> Rule {
    Kind::Number(Bound::Excluded(0.0), Bound::Excluded(1.0)).rule()
}
/// One of some words.
pub(super) fn choice(words: &'static [&'static str]) -> Rule {
    Kind::Choice(words).rule()
}
/// Any text.
pub(super) fn text() -> Rule {
    Kind::Text.rule()
}
/// A file or folder.
pub(super) fn path() -> Rule {
    Kind::Path.rule()
}
/// Anything at all: for keys without effect whose meaning is not ours to judge.
pub(super) fn anything() -> Rule {
    Kind::Anything.rule().or_null().without_effect()
}

impl Rule {
    /// The same, or null.
    pub(super) fn or_null(self) -> Rule {
        Rule { nullable: true, ..self }
    }
    /// The same, or the word `auto`.
    pub(super) fn or_auto(self) -> Rule {
        Rule { kind: Kind::AutoOr(Box::new(self.kind)), ..self }
    }
    /// A list of such, of a fixed length where one is given.
    pub(super) fn list(self, length: Option<usize>) -> Rule {
        Rule { kind: Kind::List(Box::new(self.kind), length), ..self }
    }
    /// The same, of a key that changes nothing here.
    pub(super) fn without_effect(self) -> Rule {
        Rule { effect: false, ..self }
    }
    /// Whether a value may stand there.
    pub(super) fn allows(&self, value: &Value) -> bool {
        (self.nullable && value.is_null()) || self.kind.allows(value)
    }
    /// Whether it holds a file or folder, where `~` is the home folder.
    pub(super) fn is_path(&self) -> bool {
        matches!(self.kind, Kind::Path)
    }
    /// The words of a choice; none for other rules.
    #[cfg(test)]
    pub(super) fn words(&self) -> &'static [&'static str] {
        if let Kind::Choice(words) = self.kind { words } else { &[] }
    }
}

impl Kind {
    fn rule(self) -> Rule {
        Rule { kind: self, nullable: false, effect: true }
    }

    fn allows(&self, value: &Value) -> bool {
        match self {
            Kind::Flag => value.is_bool(),
            Kind::Whole(least, most) => value.as_u64().is_some_and(|n| (*least..=*most).contains(&n)),
            Kind::Number(low, high) => {
                use std::ops::RangeBounds;
                value.as_f64().is_some_and(|x| x.is_finite() && (*low, *high).contains(&x))
            }
            Kind::AutoOr(kind) => value.as_str() == Some("auto") || kind.allows(value),
            Kind::Choice(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Kind::Text => value.is_string(),
            Kind::Path => value.as_str().is_some_and(|text| !text.is_empty() && !text.contains('\0')),
            Kind::List(kind, length) => value.as_sequence().is_some_and(|items| {
                length.is_none_or(|length| items.len() == length) && items.iter().all(|item| kind.allows(item))
            }),
            Kind::Anything => is_plain(value),
        }
    }
}

/// Whether JSON could hold the value too: no tags, and text as keys.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Tagged(_) => false,
        Value::Sequence(items) => items.iter().all(is_plain),
        Value::Mapping(section) => section.iter().all(|(key, value)| key.is_string() && is_plain(value)),
        _ => true,
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind, if self.nullable { " or null" } else { "" })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Bound::{Excluded, Included, Unbounded};
        match self {
            Kind::Flag => write!(f, "true or false"),
            Kind::Whole(least, u64::MAX) => write!(f, "a whole number of {least} or more"),
            Kind::Whole(least, most) => write!(f, "a whole number from {least} to {most}"),
            Kind::Number(low, high) => {
                write!(f, "a number")?;
                match (low, high) {
                    (Included(low), Included(high)) => write!(f, " from {low} to {high}"),
                    (Included(low), Unbounded) => write!(f, " of {low} or more"),
                    (Included(low), Excluded(high)) => write!(f, " from {low} to below {high}"),
                    (Excluded(low), Unbounded) => write!(f, " above {low}"),
                    (Excluded(low), Excluded(high)) => write!(f, " above {low} and below {high}"),
                    other => write!(f, " in {other:?}"),
                }
            }
            Kind::AutoOr(kind) => write!(f, "auto or {kind}"),
            Kind::Choice(words) => write!(f, "{}", words.join(" or ")),
            Kind::Text => write!(f, "text"),
            Kind::Path => write!(f, "a path"),
            Kind::List(kind, Some(length)) => write!(f, "a list of {length}, each {kind}"),
            Kind::List(kind, None) => write!(f, "a list, each {kind}"),
            Kind::Anything => write!(f, "any plain value"),
        }
    }
}
