//! TOML that people write: read strictly, so that a misspelt key is an error and never silence. Errors
//! name file, line and key.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// Largest file of this kind that is read; a fleet of 100,000 labelled hosts has 10 MB.
const LONGEST: u64 = 64 << 20;

/// Reads a file.
pub(crate) fn load<T: DeserializeOwned + Serialize>(path: &Path) -> anyhow::Result<T> {
    parse(&path.display().to_string(), &text(path)?)
}

/// The text of a file.
pub(crate) fn text(path: &Path) -> anyhow::Result<String> {
    let length =
        fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if length > LONGEST {
        bail!("{} is larger than {LONGEST} bytes", path.display());
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a text; `name` stands for it in errors.
///
/// Some of what is read here is also a signed format, where readers must ignore members that they don't
/// know. A person's file is held to more: a key that is nowhere in what was read is unknown.
pub(crate) fn parse<T: DeserializeOwned + Serialize>(name: &str, text: &str) -> anyhow::Result<T> {
    let fail = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        anyhow::anyhow!("{name}:{line}: {}", error.message().trim_end())
    };
    let read: T = toml::from_str(text).map_err(fail)?;
    let written = DeTable::parse(text).map_err(fail)?;
    if let Some((at, key)) = unread(written.get_ref(), &serde_json::to_value(&read)?) {
        bail!("{name}:{}: unknown key {key:?}", line_of(text, at));
    }
    Ok(read)
}

/// The first key that is written but was not read, and where it stands.
fn unread(table: &DeTable<'_>, read: &Value) -> Option<(usize, String)> {
    table.iter().find_map(|(key, written)| {
        let name = key.get_ref();
        match read.get(name.as_ref()) {
            None => Some((key.span().start, name.to_string())),
            Some(inner) => unread_in(written.get_ref(), inner)
                .map(|(at, below)| (at, format!("{name}.{below}"))),
        }
    })
}

fn unread_in(written: &DeValue<'_>, read: &Value) -> Option<(usize, String)> {
    match (written, read) {
        (DeValue::Table(table), Value::Object(_)) => unread(table, read),
        (DeValue::Array(items), Value::Array(values)) => {
            items.iter().zip(values).find_map(|(item, value)| unread_in(item.get_ref(), value))
        }
        _ => None,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    struct Outer {
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize, Serialize)]
    struct Inner {
        name: String,
        #[serde(flatten)]
        kind: Kind,
    }

    #[derive(Debug, Deserialize, Serialize)]
    #[serde(tag = "kind", rename_all = "kebab-case")]
    enum Kind {
        Tcp { port: u16 },
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_however_deep_it_stands() {
        let good = "[[inner]]\nname = \"a\"\nkind = \"tcp\"\nport = 1\n";
        assert!(parse::<Outer>("x.toml", good).is_ok());
        let error = |text: &str| parse::<Outer>("x.toml", text).unwrap_err().to_string();
        assert_eq!(error(&format!("{good}prot = 2\n")), "x.toml:5: unknown key \"inner.prot\"");
        assert_eq!(error(&format!("{good}\n[outer]\n")), "x.toml:6: unknown key \"outer\"");
        let missing = error("[[inner]]\nname = \"a\"\nkind = \"tcp\"\n");
        assert!(missing.starts_with("x.toml:1: missing field `port`"), "{missing}");
        assert!(error("\n\nx = ").starts_with("x.toml:3: "));
    }
}
