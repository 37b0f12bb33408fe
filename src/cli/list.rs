//! `leveret list`: what there is.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    io::{self, Write},
};

use regex::Regex;
use serde_json::Value;

use super::{
    Context, Failure, Task,
    api::path,
    table::{self, Column, text, value_at},
    topology::in_vhost,
};

/// List what there is: queues, connections, users, ...
///
/// Everything of a kind in all virtual hosts, or in the one that --vhost names. --columns takes the fields of the
/// management API, nested ones with dots: `leveret list queues --columns name,messages,message_stats.publish`.
#[derive(clap::Args)]
pub struct List {
    /// What to list
    #[arg(value_enum)]
    kind: Kind,
    /// Only those with a name that this regular expression matches somewhere
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Fields to show, separated by commas
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    columns: Vec<String>,
    /// Order by this field
    #[arg(long, value_name = "FIELD")]
    sort: Option<String>,
    /// The other way round: largest first
    #[arg(long, requires = "sort")]
    reverse: bool,
    /// Only the first so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Kinds of things that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Queues,
    Exchanges,
    Bindings,
    Connections,
    Channels,
    Consumers,
    Users,
    Vhosts,
    Permissions,
    TopicPermissions,
    Policies,
    OperatorPolicies,
    Parameters,
    GlobalParameters,
    Shovels,
    VhostLimits,
    UserLimits,
    Nodes,
}

impl Task for List {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let name = self.name.as_deref().map(Regex::new).transpose();
        let name =
            name.map_err(|error| Failure::Usage(format!("the name is no regular expression: {error}")))?;
        let vhost = context.chosen_vhost();
        let mut rows = context.api.list(&self.kind.path(vhost)).map_err(|failure| match vhost {
            Some(vhost) => in_vhost(failure, vhost),
            None => failure,
        })?;
        if let (Kind::Parameters, Some(vhost)) = (self.kind, vhost) {
            rows.retain(|row| row["vhost"] == vhost);
        }
        if let Some(name) = name {
            let field = self.kind.name_field();
            rows.retain(|row| value_at(row, field).as_str().is_some_and(|text| name.is_match(text)));
        }
        if !context.quiet {
            self.warn_of_unknown(&rows);
        }
        if let Some(field) = &self.sort {
            sort(&mut rows, field);
        }
        if self.reverse {
            rows.reverse();
        }
        rows.truncate(self.limit.unwrap_or(usize::MAX));
        let columns: Vec<Column> = if self.columns.is_empty() {
            self.kind.columns(vhost.is_some())
        } else {
            self.columns.iter().map(|field| Column::named(field)).collect()
        };
        table::print(context, &rows, &columns)
    }
}

impl List {
    /// Says which fields no row has; one that there is only at times, such as statistics, is known by its column.
    fn warn_of_unknown(&self, rows: &[Value]) {
        let mut known: BTreeSet<&str> =
            rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()).map(String::as_str).collect();
        if known.is_empty() {
            return;
        }
        let columns = self.kind.columns(false);
        let first = |field: &str| field.split('.').next().unwrap_or_default().len();
        known.extend(columns.iter().map(|column| &column.field[..first(&column.field)]));
        for field in self.columns.iter().chain(&self.sort) {
            if !known.contains(field.as_str()) && !known.contains(&field[..first(field)]) {
                let known: Vec<&str> = known.iter().copied().collect();
                // Whoever closed standard error has the list.
                _ = writeln!(
                    io::stderr(),
                    "leveret: nothing here has a field '{field}', but: {}",
                    known.join(", ")
                );
            }
        }
    }
}

/// Orders numbers by value and all else as text; what has no value comes first.
fn sort(rows: &mut [Value], field: &str) {
    let number = |row: &Value| value_at(row, field).as_f64();
    rows.sort_by(|a, b| match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => text(value_at(a, field)).cmp(&text(value_at(b, field))),
    });
}

impl Kind {
    /// Where the API has them.
    fn path(self, vhost: Option<&str>) -> String {
        let in_vhost = |segments: &[&str]| path(&[segments, vhost.as_slice()].concat());
        let of_vhost = |things: &str| match vhost {
            Some(vhost) => path(&["vhosts", vhost, things]),
            None => path(&[things]),
        };
        match self {
            Self::Queues => in_vhost(&["queues"]),
            Self::Exchanges => in_vhost(&["exchanges"]),
            Self::Bindings => in_vhost(&["bindings"]),
            Self::Connections => of_vhost("connections"),
            Self::Channels => of_vhost("channels"),
            Self::Consumers => in_vhost(&["consumers"]),
            Self::Users => path(&["users"]),
            Self::Vhosts => path(&["vhosts"]),
            Self::Permissions => of_vhost("permissions"),
            Self::TopicPermissions => of_vhost("topic-permissions"),
            Self::Policies => in_vhost(&["policies"]),
            Self::OperatorPolicies => in_vhost(&["operator-policies"]),
            Self::Parameters => path(&["parameters"]),
            Self::GlobalParameters => path(&["global-parameters"]),
            Self::Shovels => in_vhost(&["shovels"]),
            Self::VhostLimits => in_vhost(&["vhost-limits"]),
            Self::UserLimits => path(&["user-limits"]),
            Self::Nodes => path(&["nodes"]),
        }
    }

    /// The field that tells one from another.
    fn name_field(self) -> &'static str {
        match self {
            Self::Bindings => "destination",
            Self::Consumers => "queue.name",
            Self::Permissions | Self::TopicPermissions | Self::UserLimits => "user",
            Self::VhostLimits => "vhost",
            _ => "name",
        }
    }

    /// What is shown if nobody says. The virtual host is left out if all are in the same one.
    fn columns(self, same_vhost: bool) -> Vec<Column> {
        let columns: &[(&'static str, &'static str)] = match self {
            Self::Queues => &[
                ("vhost", "vhost"),
                ("name", "name"),
                ("type", "type"),
                ("state", "state"),
                ("ready", "messages_ready"),
                ("unacked", "messages_unacknowledged"),
                ("total", "messages"),
                ("consumers", "consumers"),
                ("in/s", "message_stats.publish_details.rate"),
                ("out/s", "message_stats.deliver_get_details.rate"),
                ("policy", "policy"),
            ],
            Self::Exchanges => &[
                ("vhost", "vhost"),
                ("name", "name"),
                ("type", "type"),
                ("durable", "durable"),
                ("auto-delete", "auto_delete"),
                ("internal", "internal"),
                ("in/s", "message_stats.publish_in_details.rate"),
                ("out/s", "message_stats.publish_out_details.rate"),
                ("policy", "policy"),
            ],
            Self::Bindings => &[
                ("vhost", "vhost"),
                ("source", "source"),
                ("destination", "destination"),
                ("kind", "destination_type"),
                ("key", "routing_key"),
                ("arguments", "arguments"),
            ],
            Self::Connections => &[
                ("name", "name"),
                ("user", "user"),
                ("vhost", "vhost"),
                ("state", "state"),
                ("client", "client_properties.product"),
                ("channels", "channels"),
                ("in B/s", "recv_oct_details.rate"),
                ("out B/s", "send_oct_details.rate"),
                ("TLS", "ssl"),
            ],
            Self::Channels => &[
                ("name", "name"),
                ("user", "user"),
                ("vhost", "vhost"),
                ("consumers", "consumer_count"),
                ("unacked", "messages_unacknowledged"),
                ("unconfirmed", "messages_unconfirmed"),
                ("prefetch", "prefetch_count"),
                ("in/s", "message_stats.publish_details.rate"),
                ("out/s", "message_stats.deliver_get_details.rate"),
            ],
            Self::Consumers => &[
                ("vhost", "queue.vhost"),
                ("queue", "queue.name"),
                ("tag", "consumer_tag"),
                ("channel", "channel_details.name"),
                ("ack", "ack_required"),
                ("exclusive", "exclusive"),
                ("prefetch", "prefetch_count"),
                ("active", "active"),
            ],
            Self::Users => &[("name", "name"), ("tags", "tags"), ("limits", "limits")],
            Self::Vhosts => &[
                ("name", "name"),
                ("ready", "messages_ready"),
                ("unacked", "messages_unacknowledged"),
                ("tracing", "tracing"),
                ("tags", "tags"),
                ("description", "description"),
            ],
            Self::Permissions => &[
                ("vhost", "vhost"),
                ("user", "user"),
                ("configure", "configure"),
                ("write", "write"),
                ("read", "read"),
            ],
            Self::TopicPermissions => &[
                ("vhost", "vhost"),
                ("user", "user"),
                ("exchange", "exchange"),
                ("write", "write"),
                ("read", "read"),
            ],
            Self::Policies | Self::OperatorPolicies => &[
                ("vhost", "vhost"),
                ("name", "name"),
                ("pattern", "pattern"),
                ("apply to", "apply-to"),
                ("priority", "priority"),
                ("definition", "definition"),
            ],
            Self::Parameters => {
                &[("vhost", "vhost"), ("component", "component"), ("name", "name"), ("value", "value")]
            }
            Self::GlobalParameters => &[("name", "name"), ("value", "value")],
            Self::Shovels => &[
                ("vhost", "vhost"),
                ("name", "name"),
                ("state", "state"),
                ("from", "src_queue"),
                ("to", "dest_queue"),
                ("type", "type"),
                ("reason", "reason"),
            ],
            Self::VhostLimits => &[("vhost", "vhost"), ("limits", "value")],
            Self::UserLimits => &[("user", "user"), ("limits", "value")],
            Self::Nodes => &[
                ("name", "name"),
                ("running", "running"),
                ("memory", "mem_used"),
                ("limit", "mem_limit"),
                ("disk free", "disk_free"),
                ("files", "fd_used"),
                ("sockets", "sockets_used"),
            ],
        };
        let is_vhost = |field: &str| field == "vhost" || field == "queue.vhost";
        let shown = columns.iter().filter(|(_, field)| !(same_vhost && is_vhost(field)));
        shown
            .map(|(title, field)| Column { title: Cow::Borrowed(title), field: Cow::Borrowed(field) })
            .collect()
    }
}
