//! Reading members of JSON objects: each has one shape, and every error says which file and member.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    sorted,
    trust::{error::TrustError, role::Role},
};

/// The only form of dates in metadata.
pub(crate) const DATE: &str = "%Y-%m-%dT%H:%M:%SZ";

/// An object of a role's file.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    role: &'a Role,
    what: &'a str,
    members: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The value as an object; `what` names it in errors.
    pub(crate) fn of(value: &'a Value, role: &'a Role, what: &'a str) -> Result<Self, TrustError> {
        match value {
            Value::Object(members) => Ok(Object { role, what, members }),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Err(flaw(role, format_args!("{what} is not an object"))),
        }
    }

    pub(crate) fn over(members: &'a Map<String, Value>, role: &'a Role, what: &'a str) -> Self {
        Object { role, what, members }
    }

    pub(crate) fn members(&self) -> &'a Map<String, Value> {
        self.members
    }

    pub(crate) fn role(&self) -> &'a Role {
        self.role
    }

    pub(crate) fn flaw(&self, flaw_text: impl fmt::Display) -> TrustError {
        flaw(self.role, format_args!("{}: {flaw_text}", self.what))
    }

    pub(crate) fn optional(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name)
    }

    pub(crate) fn value(&self, name: &str) -> Result<&'a Value, TrustError> {
        self.optional(name).ok_or_else(|| self.flaw(format_args!("`{name}` is missing")))
    }

    pub(crate) fn text(&self, name: &str) -> Result<&'a str, TrustError> {
        self.value(name)?
            .as_str()
            .ok_or_else(|| self.flaw(format_args!("`{name}` is not a string")))
    }

    pub(crate) fn truth(&self, name: &str) -> Result<bool, TrustError> {
        self.value(name)?
            .as_bool()
            .ok_or_else(|| self.flaw(format_args!("`{name}` is not true or false")))
    }

    /// An integer of 0 or more.
    pub(crate) fn count(&self, name: &str) -> Result<u64, TrustError> {
        self.value(name)?
            .as_u64()
            .ok_or_else(|| self.flaw(format_args!("`{name}` is not an integer of 0 or more")))
    }

    /// An integer of 1 or more.
    pub(crate) fn positive(&self, name: &str) -> Result<u64, TrustError> {
        match self.count(name)? {
            0 => Err(self.flaw(format_args!("`{name}` is 0"))),
            number => Ok(number),
        }
    }

    pub(crate) fn object(&self, name: &'a str) -> Result<Object<'a>, TrustError> {
        Object::of(self.value(name)?, self.role, name)
    }

    pub(crate) fn array(&self, name: &str) -> Result<&'a [Value], TrustError> {
        self.value(name)?
            .as_array()
            .map(Vec::as_slice)
            .ok_or_else(|| self.flaw(format_args!("`{name}` is not a list")))
    }

    /// A list of strings; each at most once.
    pub(crate) fn words(
        &self,
        name: &str,
        what: &'static str,
        limit: usize,
    ) -> Result<Vec<&'a str>, TrustError> {
        let items = self.array(name)?;
        self.at_most(items.len(), what, limit)?;
        let mut words = Vec::with_capacity(items.len());
        for item in items {
            let word =
                item.as_str().ok_or_else(|| self.flaw(format_args!("`{name}` holds no string")))?;
            words.push(word);
        }
        let mut sorted = words.clone();
        sorted::sort(&mut sorted);
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(self.flaw(format_args!("`{name}` names something twice")));
        }
        Ok(words)
    }

    /// A date of the form `YYYY-MM-DDTHH:MM:SSZ`.
    pub(crate) fn date(&self, name: &str) -> Result<Timestamp, TrustError> {
        let text = self.text(name)?;
        let date: Option<Timestamp> = text.parse().ok();
        // Written again it must give the same text: no offsets, fractions, leap seconds or short forms.
        date.filter(|date| date.strftime(DATE).to_string() == text).ok_or_else(|| {
            self.flaw(format_args!("`{name}` is not a date like 2026-01-31T23:59:59Z"))
        })
    }

    pub(crate) fn at_most(
        &self,
        count: usize,
        what: &'static str,
        limit: usize,
    ) -> Result<(), TrustError> {
        if count > limit {
            return Err(TrustError::TooMany { role: self.role.clone(), what, limit });
        }
        Ok(())
    }
}

fn flaw(role: &Role, flaw: fmt::Arguments<'_>) -> TrustError {
    TrustError::Malformed { role: role.clone(), flaw: flaw.to_string() }
}
