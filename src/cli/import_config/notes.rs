//! What a key alone does not tell: defaults that differ, and keys of RabbitMQ's that are one here.

use toml::Value;

use super::{conf::Setting, draft::Draft};

/// The keys that say a level of the log for all of it.
const LEVELS: [&str; 4] = ["log.level", "log.default.level", "log.console.level", "log.file.level"];
/// Those that say its form.
const FORMATS: [&str; 2] = ["log.console.formatter", "log.file.formatter"];

/// Sets what RabbitMQ has by another default, and says what works otherwise here.
pub(super) fn complete(settings: &[Setting], draft: &mut Draft) -> Vec<String> {
    [skip_if_unchanged(draft), users(settings), addresses(settings, draft)]
        .into_iter()
        .flatten()
        .chain(log(settings))
        .collect()
}

/// RabbitMQ loads its file at each start, if nobody says otherwise.
fn skip_if_unchanged(draft: &mut Draft) -> Option<String> {
    draft.get("definitions", "load")?;
    if draft.get("definitions", "skip_if_unchanged").is_some() {
        return None;
    }
    draft.set("definitions", "skip_if_unchanged", Value::from(false));
    Some(
        "definitions.skip_if_unchanged = false: the file is loaded at each start, which is RabbitMQ's default; with true, \
         what was changed at run time stays until the file changes"
            .to_owned(),
    )
}

fn users(settings: &[Setting]) -> Option<String> {
    let key = settings
        .iter()
        .map(|setting| setting.key.as_str())
        .find(|key| ["default_user", "default_pass"].contains(key) || key.starts_with("default_users."))?;
    Some(format!(
        "{key}: the user is there at each start, with this password and these permissions, and not only in an empty \
         database"
    ))
}

fn addresses(settings: &[Setting], draft: &Draft) -> Option<String> {
    let has_address =
        |setting: &&Setting| setting.key.starts_with("listeners.ssl.") && setting.value.contains(':');
    let tls = settings.iter().find(has_address);
    match (draft.listeners.addresses.is_empty(), tls) {
        (false, _) => Some(
            "listeners.bind: all listeners share these addresses: AMQP, TLS, management and metrics"
                .to_owned(),
        ),
        (true, Some(tls)) => Some(format!(
            "{}: its address is not taken, since all listeners share those of listeners.bind: set them there",
            tls.key
        )),
        (true, None) => None,
    }
}

fn log(settings: &[Setting]) -> Vec<String> {
    let value = |key: &str| settings.iter().find(|setting| setting.key == key).map(|one| one.value.as_str());
    let has_file = value("log.file").is_some_and(|file| file != "false");
    let mut notes = Vec::new();
    match value("log.console") {
        Some("true") if has_file => notes.push(
            "log.console: there is one log, and log.file takes it: nothing goes to the console".to_owned(),
        ),
        Some("false") if !has_file => notes.push(
            "log.console: the log goes to standard error all the same, since no log.file is named".to_owned(),
        ),
        _ => {}
    }
    if differ(settings, &LEVELS) {
        notes.push(
            "log.level: there is one level for the console and the file: the last one counts".to_owned(),
        );
    }
    if differ(settings, &FORMATS) {
        notes.push(
            "log.format: there is one form for the console and the file: the last one counts".to_owned(),
        );
    }
    notes
}

/// Whether these keys have more than one value.
fn differ(settings: &[Setting], keys: &[&str]) -> bool {
    let mut values = settings.iter().filter(|setting| keys.contains(&setting.key.as_str()));
    let Some(first) = values.next() else { return false };
    values.any(|setting| setting.value != first.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(lines: &[(&str, &str)]) -> (String, String) {
        let mut draft = Draft::default();
        let settings: Vec<Setting> = lines
            .iter()
            .map(|(key, value)| {
                super::super::keys::apply(key, value, &mut draft);
                Setting { key: (*key).to_owned(), value: (*value).to_owned(), place: String::new() }
            })
            .collect();
        let notes = complete(&settings, &mut draft).join("\n");
        (notes, draft.text())
    }

    #[test]
    fn a_file_is_loaded_at_each_start_as_rabbitmqs_is() {
        let (notes, text) = noted(&[("load_definitions", "/d.json")]);
        assert!(notes.starts_with("definitions.skip_if_unchanged = false: "), "{notes}");
        assert!(text.contains("skip_if_unchanged = false\n"), "{text}");
        let (notes, text) =
            noted(&[("load_definitions", "/d.json"), ("definitions.skip_if_unchanged", "true")]);
        assert_eq!(notes, "");
        assert!(text.contains("skip_if_unchanged = true\n"), "{text}");
    }

    #[test]
    fn keys_that_are_one_here_are_noted() {
        for (lines, start) in [
            (&[("default_pass", "x")][..], "default_pass: the user is there at each start"),
            (&[("listeners.tcp.1", "127.0.0.1:5672")], "listeners.bind: all listeners share"),
            (&[("listeners.ssl.1", "127.0.0.1:5671")], "listeners.ssl.1: its address is not taken"),
            (&[("log.console", "true"), ("log.file", "/l")], "log.console: there is one log"),
            (
                &[("log.console", "false"), ("log.file", "false")],
                "log.console: the log goes to standard error",
            ),
            (&[("log.console.level", "info"), ("log.file.level", "debug")], "log.level: there is one level"),
        ] {
            let (notes, _) = noted(lines);
            assert!(notes.starts_with(start) && !notes.contains('\n'), "{lines:?}: {notes}");
        }
        assert_eq!(noted(&[("heartbeat", "5"), ("log.exchange", "true"), ("listeners.ssl.1", "5671")]).0, "");
    }
}
