//! `rabbitmq.conf`: lines of `key = value`, `#` before comments, and `$(NAME)` for what the environment has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::super::failure::Failure;
use crate::config::Environment;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    /// File and line.
    pub(super) place: String,
}

/// The settings of files and directories; of a key that is there twice, the last one.
///
/// # Errors
/// A file that can't be read, or a line that is no setting.
pub(super) fn read(paths: &[PathBuf], environment: &Environment) -> Result<Vec<Setting>, Failure> {
    let mut settings: Vec<Setting> = Vec::new();
    for path in paths {
        for file in files(path)? {
            let name = file.display().to_string();
            let text = fs::read_to_string(&file).map_err(|error| Failure::of_file(&name, &error))?;
            for setting in parse(&name, &text, environment)? {
                settings.retain(|known| known.key != setting.key);
                settings.push(setting);
            }
        }
    }
    Ok(settings)
}

/// The file itself, or the `*.conf` of a directory by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries =
        fs::read_dir(path).map_err(|error| Failure::of_file(&path.display().to_string(), &error))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|end| end == "conf")).collect();
    files.sort();
    Ok(files)
}

fn parse(name: &str, text: &str, environment: &Environment) -> Result<Vec<Setting>, Failure> {
    let mut settings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '%']) {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            let hint = "; an advanced.config has to be translated by hand";
            let hint = if line.starts_with('[') { hint } else { "" };
            return Err(Failure::Refused(format!("{place}: this is not `key = value`{hint}: {line}")));
        };
        let value = unquoted(without_comment(value).trim());
        let value = interpolated(value, environment).map_err(|variable| {
            Failure::Refused(format!("{place}: $({variable}) is not set in this environment"))
        })?;
        settings.push(Setting { key: key.trim().to_owned(), value, place });
    }
    Ok(settings)
}

/// A comment begins with `#` after a space; one within a word is a part of it.
fn without_comment(value: &str) -> &str {
    value.find(" #").map_or(value, |start| &value[..start])
}

/// RabbitMQ 3.13 and later take values in single quotes.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(value)
}

fn interpolated(value: &str, environment: &Environment) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("$(") {
        let Some((variable, behind)) = after.split_once(')') else { break };
        text.push_str(before);
        text.push_str(environment.get(variable).ok_or(variable)?);
        rest = behind;
    }
    Ok(text + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        let environment = [("HOST", "a.example"), ("N", "7")].into_iter().collect();
        let settings = parse("f", text, &environment).unwrap_or_else(|failure| panic!("{failure}"));
        settings.into_iter().map(|setting| (setting.key, setting.value)).collect()
    }

    #[test]
    fn lines_are_keys_and_values() {
        let text = "# a comment\n\n  heartbeat = 30\ncluster_name=a b # the name\ndefault_pass = a#b=c\nx = '#quoted'\n";
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = [
            pair("heartbeat", "30"),
            pair("cluster_name", "a b"),
            pair("default_pass", "a#b=c"),
            pair("x", "#quoted"),
        ];
        assert_eq!(parsed(text), expected);
    }

    #[test]
    fn variables_are_filled_in() {
        assert_eq!(parsed("a = x$(N).$(HOST)$")[0].1, "x7.a.example$");
        let missing = parse("f", "\na = $(NONE)", &Environment::default()).unwrap_err();
        assert_eq!(missing.to_string(), "f:2: $(NONE) is not set in this environment");
    }

    #[test]
    fn erlang_is_not_taken_for_it() {
        let failure = parse("f", "[{rabbit, []}].", &Environment::default()).unwrap_err();
        assert!(failure.to_string().contains("advanced.config"), "{failure}");
    }
}
