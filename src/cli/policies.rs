//! `leveret policy` and `parameter`: what acts on queues and exchanges by name, and the settings of plugins.

use serde_json::{Map, Value, json};

use super::{
    Context, Failure, Task,
    api::path,
    topology::{argument, in_vhost},
};

/// Set and clear policies: arguments for all queues and exchanges that have a pattern in their names.
#[derive(clap::Args)]
pub struct Policy {
    #[command(subcommand)]
    action: PolicyAction,
}

#[derive(clap::Subcommand)]
enum PolicyAction {
    /// Set a policy, for example: leveret policy set expire '^events\.' message-ttl=60000
    Set {
        name: String,
        /// Regular expression for the names that it applies to
        pattern: String,
        /// What it says, as KEY=VALUE, or all of it as JSON
        #[arg(required = true)]
        definition: Vec<String>,
        /// Of several policies for the same queue the one with the highest counts
        #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
        priority: i64,
        /// all, queues, exchanges, classic_queues, quorum_queues or streams
        #[arg(long, value_name = "KIND", default_value = "all")]
        apply_to: String,
        #[command(flatten)]
        kind: Kind,
    },
    /// Remove a policy
    Clear {
        name: String,
        #[command(flatten)]
        kind: Kind,
    },
}

#[derive(clap::Args)]
struct Kind {
    /// An operator policy, which limits what the others say
    #[arg(long)]
    operator: bool,
}

/// Set and clear runtime parameters, such as those of shovels.
#[derive(clap::Args)]
pub struct Parameter {
    #[command(subcommand)]
    action: ParameterAction,
}

#[derive(clap::Subcommand)]
enum ParameterAction {
    /// Set a parameter of a component in a virtual host
    Set { component: String, name: String, json: String },
    /// Remove a parameter
    Clear { component: String, name: String },
    /// Set a parameter of the whole broker
    SetGlobal { name: String, json: String },
    /// Remove a parameter of the whole broker
    ClearGlobal { name: String },
}

impl Task for Policy {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        match self.action {
            PolicyAction::Set { name, pattern, definition, priority, apply_to, kind } => {
                let body = json!({
                    "pattern": pattern,
                    "definition": self::definition(&definition)?,
                    "priority": priority,
                    "apply-to": apply_to,
                });
                let done = context.api.put(&path(&[kind.things(), vhost, &name]), &body);
                done.map_err(|failure| in_vhost(failure, vhost))?;
                context.say(format!("policy '{name}' is set"))
            }
            PolicyAction::Clear { name, kind } => {
                let done = context.api.delete(&path(&[kind.things(), vhost, &name]));
                done.map_err(|failure| {
                    failure.missing(format!("policy '{name}' in virtual host '{vhost}'"))
                })?;
                context.say(format!("policy '{name}' is cleared"))
            }
        }
    }
}

impl Kind {
    fn things(&self) -> &'static str {
        if self.operator { "operator-policies" } else { "policies" }
    }
}

/// What a policy says: one JSON object, or pairs.
fn definition(parts: &[String]) -> Result<Value, Failure> {
    if let [text] = parts
        && text.trim_start().starts_with('{')
    {
        return json_text(text);
    }
    let pairs = parts.iter().map(|part| argument(part));
    let pairs: Map<_, _> = pairs.collect::<Result<_, _>>().map_err(|_| {
        Failure::Usage(
            "the definition is KEY=VALUE, such as message-ttl=60000, or one JSON object".to_owned(),
        )
    })?;
    Ok(Value::Object(pairs))
}

fn json_text(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Usage(format!("this is not JSON: {error}: {text}")))
}

impl Task for Parameter {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        match self.action {
            ParameterAction::Set { component, name, json } => {
                let body = json!({
                    "component": component, "vhost": vhost, "name": name, "value": json_text(&json)?,
                });
                let done = context.api.put(&path(&["parameters", &component, vhost, &name]), &body);
                done.map_err(|failure| in_vhost(failure, vhost))?;
                context.say(format!("parameter '{name}' of '{component}' is set"))
            }
            ParameterAction::Clear { component, name } => {
                let done = context.api.delete(&path(&["parameters", &component, vhost, &name]));
                done.map_err(|failure| failure.missing(format!("parameter '{name}' of '{component}'")))?;
                context.say(format!("parameter '{name}' of '{component}' is cleared"))
            }
            ParameterAction::SetGlobal { name, json } => {
                let body = json!({"name": name, "value": json_text(&json)?});
                context.api.put(&path(&["global-parameters", &name]), &body)?;
                context.say(format!("global parameter '{name}' is set"))
            }
            ParameterAction::ClearGlobal { name } => {
                let done = context.api.delete(&path(&["global-parameters", &name]));
                done.map_err(|failure| failure.missing(format!("global parameter '{name}'")))?;
                context.say(format!("global parameter '{name}' is cleared"))
            }
        }
    }
}
