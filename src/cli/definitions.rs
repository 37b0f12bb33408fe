//! `leveret definitions`: users, virtual hosts, policies and topology as one file, RabbitMQ's `definitions.json`.

use std::{io::Write, path::Path};

use serde_json::Value;

use super::{
    Context, Failure, Task, api::path, file::write_private, options::read_input, topology::in_vhost,
};

/// Export and import users, virtual hosts, policies, queues, exchanges and bindings.
///
/// The file is RabbitMQ's definitions.json, of a whole broker or, with --vhost, of one virtual host.
#[derive(clap::Args)]
pub struct Definitions {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Write the definitions to a file that only you can read, or to standard output
    Export {
        #[arg(default_value = "-")]
        file: String,
    },
    /// Read definitions from a file, or from standard input. What is there already stays as it is
    Import {
        #[arg(default_value = "-")]
        file: String,
    },
}

impl Task for Definitions {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self.action {
            Action::Export { file } => export(context, &file),
            Action::Import { file } => import(context, &file),
        }
    }
}

fn export(context: &Context, file: &str) -> Result<(), Failure> {
    let definitions =
        context.api.get(&location(context)).map_err(|failure| in_vhost(failure, context.vhost()))?;
    let text = serde_json::to_string_pretty(&definitions)
        .map_err(|error| Failure::Unexpected(format!("the definitions: {error}")))?;
    if file == "-" {
        writeln!(std::io::stdout(), "{text}")?;
        return Ok(());
    }
    write_private(Path::new(file), &(text + "\n")).map_err(|error| Failure::of_file(file, &error))?;
    context.say(format!("{} are in {file}", counts(&definitions)))
}

fn import(context: &Context, file: &str) -> Result<(), Failure> {
    let definitions: Value = serde_json::from_slice(&read_input(file)?)
        .map_err(|error| Failure::Usage(format!("{file}: this is not JSON: {error}")))?;
    if !definitions.is_object() {
        return Err(Failure::Usage(format!("{file}: definitions are a JSON object")));
    }
    let mut progress = context.progress();
    progress.show(&format!("importing {}", counts(&definitions)));
    let done = context.api.post(&location(context), &definitions);
    drop(progress);
    done.map_err(|failure| in_vhost(failure, context.vhost()))?;
    context.say(format!("{} are imported", counts(&definitions)))
}

/// Those of the broker, or of the virtual host that was named.
fn location(context: &Context) -> String {
    match context.chosen_vhost() {
        Some(vhost) => path(&["definitions", vhost]),
        None => path(&["definitions"]),
    }
}

/// How many things of each kind there are.
fn counts(definitions: &Value) -> String {
    let kinds =
        ["users", "vhosts", "permissions", "policies", "parameters", "exchanges", "queues", "bindings"];
    let counts = kinds.iter().filter_map(|kind| {
        let count = definitions[kind].as_array()?.len();
        (count > 0).then(|| format!("{count} {}", if count == 1 { singular(kind) } else { kind }))
    });
    let counts: Vec<String> = counts.collect();
    if counts.is_empty() { "no definitions".to_owned() } else { counts.join(", ") }
}

fn singular(kind: &str) -> &str {
    match kind {
        "policies" => "policy",
        kind => kind.strip_suffix('s').unwrap_or(kind),
    }
}
