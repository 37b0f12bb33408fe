//! Where in the file a key is, so that an error names the line to mend.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Table;
use toml::de::{DeTable, DeValue};

use super::check::Fault;
use super::{Config, ConfigError};

/// The text of the file; empty if there is none.
#[derive(Debug, Default)]
pub(super) struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|reason| ConfigError::Unreadable { path: path.into(), reason })?;
        Ok(Self { path: path.into(), text })
    }

    /// The text as types, and as the values to put others over.
    pub(super) fn parse(&self) -> Result<(Config, Table), ConfigError> {
        let both = toml::from_str(&self.text).and_then(|config| Ok((config, toml::from_str(&self.text)?)));
        both.map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let fault = match DeTable::parse(&self.text) {
                Ok(root) => Fault::of_value(key_in_table(root.get_ref(), offset).unwrap_or_default(), &error),
                Err(_) => Fault::new("", format!("this is not TOML: {}", error.message())),
            };
            fault.at(self.line(offset))
        })
    }

    /// File and line of a key such as `users[0].permissions[1].read`, or of the nearest thing around it.
    pub(super) fn place(&self, key: &str) -> String {
        let offset =
            DeTable::parse(&self.text).ok().and_then(|root| Some(span_of(root.get_ref(), key)?.start));
        self.line(offset.unwrap_or(0))
    }

    fn line(&self, offset: usize) -> String {
        let before = self.text.as_bytes().iter().take(offset);
        format!("{}:{}", self.path.display(), 1 + before.filter(|&&byte| byte == b'\n').count())
    }
}

/// The innermost key whose name or value is at `offset`.
fn key_in_table(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref().as_ref();
        match key_in_value(value.get_ref(), offset) {
            Some(inner) if inner.starts_with('[') => Some(format!("{name}{inner}")),
            Some(inner) => Some(format!("{name}.{inner}")),
            None => {
                let here = key.span().contains(&offset) || value.span().contains(&offset);
                here.then(|| name.to_owned())
            }
        }
    })
}

fn key_in_value(value: &DeValue<'_>, offset: usize) -> Option<String> {
    match value {
        DeValue::Table(table) => key_in_table(table, offset),
        DeValue::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| match key_in_value(item.get_ref(), offset) {
                Some(inner) => Some(format!("[{index}].{inner}")),
                None => item.span().contains(&offset).then(|| format!("[{index}]")),
            })
        }
        _ => None,
    }
}

/// Where the key is written, or the nearest table around it that is.
fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    let (name, index) = match first.split_once('[') {
        Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (first, None),
    };
    let (written, value) = table.get_key_value(name)?;
    let item = index.and_then(|index| value.get_ref().get(index));
    let inner = item.unwrap_or(value).get_ref().as_table().and_then(|table| span_of(table, rest));
    Some(inner.unwrap_or_else(|| item.map_or(written.span(), |item| item.span())))
}
