//! The commands of RabbitMQ's tools: their arguments, the line that they begin with, and where they are done.

use super::{
    Call, Refusal, Tool, Wrong, arguments::Options, checks, lists, operations, output::Output, plugins,
    settings, users,
};

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    tools: &'static [Tool],
    /// Its arguments, for people.
    arguments: &'static str,
    /// What it does, for people.
    about: &'static str,
    /// How many arguments it has to have, and may have.
    count: (usize, usize),
    /// The columns that it knows, if its arguments are columns.
    columns: &'static [&'static str],
    /// The options that only it has.
    options: &'static [&'static str],
    /// Whether it speaks of the node, which then has to be asked for.
    pub(super) names_node: bool,
    /// What it says first.
    pub(super) banner: fn(&Call<'_>) -> Vec<String>,
    pub(super) run: fn(&Call<'_>) -> Result<Output, Refusal>,
}

const ALL: &[Tool] = &[Tool::Ctl, Tool::Diagnostics, Tool::Plugins];
const CTL: &[Tool] = &[Tool::Ctl];
const DIAGNOSTICS: &[Tool] = &[Tool::Diagnostics];
const BOTH: &[Tool] = &[Tool::Ctl, Tool::Diagnostics];
const PLUGINS: &[Tool] = &[Tool::Plugins];
/// As many as somebody gives.
const ANY: usize = usize::MAX;

impl Command {
    const fn new(
        name: &'static str,
        tools: &'static [Tool],
        arguments: &'static str,
        count: (usize, usize),
        run: fn(&Call<'_>) -> Result<Output, Refusal>,
    ) -> Self {
        let banner = |_: &Call<'_>| Vec::new();
        Self {
            name,
            tools,
            arguments,
            about: "",
            count,
            columns: &[],
            options: &[],
            names_node: false,
            banner,
            run,
        }
    }

    const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    const fn banner(self, banner: fn(&Call<'_>) -> Vec<String>) -> Self {
        Self { banner, ..self }
    }

    const fn columns(self, columns: &'static [&'static str]) -> Self {
        Self { columns, ..self }
    }

    const fn options(self, options: &'static [&'static str]) -> Self {
        Self { options, ..self }
    }

    const fn names_node(self) -> Self {
        Self { names_node: true, ..self }
    }

    /// Whether a tool has it.
    pub(super) fn is_of(&self, tool: Tool) -> bool {
        self.tools.contains(&tool)
    }

    /// What is wrong with its arguments.
    pub(super) fn check(&self, arguments: &[String], options: &Options) -> Option<Wrong> {
        let known = |name: &str| self.options.contains(&name);
        if let Some((name, value)) = options.own.iter().find(|(name, _)| !known(name)) {
            let dashes = if name.starts_with('-') { "" } else { "--" };
            return Some(Wrong::usage(format!(
                "Invalid options for this command:\n{dashes}{name} : {value}"
            )));
        }
        if !self.columns.is_empty() {
            let asked =
                arguments.iter().flat_map(|argument| argument.split(',')).filter(|name| !name.is_empty());
            let unknown: Vec<&str> = asked.filter(|name| !self.columns.contains(name)).collect();
            let problem = format!("Info key(s) {} are not supported", unknown.join(","));
            return (!unknown.is_empty()).then(|| Wrong::usage(problem));
        }
        let (least, most) = self.count;
        match arguments.len() {
            count if count < least => Some(Wrong::usage("not enough arguments.")),
            count if count > most => Some(Wrong::usage("too many arguments.")),
            _ if self.name == "set_vm_memory_high_watermark" => operations::check_watermark(arguments),
            _ => None,
        }
    }

    /// How to call it.
    pub(super) fn usage(&self, tool: Tool) -> String {
        let options = self.options.iter().map(|option| format!(" [--{option}]")).collect::<String>();
        let arguments =
            if self.arguments.is_empty() { String::new() } else { format!(" {}", self.arguments) };
        format!("{} [--node <node>] [--quiet] {}{options}{arguments}", tool.name(), self.name)
    }

    /// A page about it.
    pub(super) fn help(&self, tool: Tool) -> String {
        let columns = match self.columns {
            [] => String::new(),
            columns => format!("\nColumns: {}\n", columns.join(", ")),
        };
        format!("\nUsage\n\n{}\n\n{}\n{columns}\n{GENERAL}", self.usage(tool), self.about)
    }
}

const GENERAL: &str = "\
Options of all commands

-q, --quiet             no line before what was asked for
-s, --silent            no headings of columns either
-p, --vhost <vhost>     the virtual host, / if it is not given
-t, --timeout <secs>    how long to wait for an answer
-n, --node <node>       accepted, and named in messages
--formatter <name>      table, csv or json
--no-table-headers      no headings of columns

The broker is asked over its management API: LEVERET_URL, LEVERET_USER and LEVERET_PASSWORD say where and as
whom.
";

/// A page about a tool.
pub(super) fn overview(tool: Tool) -> String {
    let commands = COMMANDS.iter().filter(|command| command.is_of(tool));
    let width = commands.clone().map(|command| command.name.len()).max().unwrap_or(0);
    let lines = commands.map(|command| format!("   {:<width$}  {}\n", command.name, command.about));
    format!(
        "\nUsage\n\n{name} [--node <node>] [--timeout <timeout>] [--quiet] <command> [<command options>]\n\n\
         Available commands:\n\n{}\n{GENERAL}\nUse '{name} help <command>' to learn more about a command",
        lines.collect::<String>(),
        name = tool.name()
    )
}

/// All commands.
pub(super) const COMMANDS: &[Command] = &[
    Command::new("await_startup", BOTH, "", (0, 0), checks::await_startup)
        .about("Waits until the broker runs and can be reached"),
    Command::new("wait", BOTH, "[<pidfile>]", (0, 1), checks::await_startup)
        .about("Waits until the broker runs and can be reached")
        .options(&["pid"]),
    Command::new("await_online_nodes", CTL, "<count>", (1, 1), checks::await_startup)
        .about("Waits until the broker runs and can be reached"),
    Command::new("ping", BOTH, "", (0, 0), checks::ping)
        .about("Checks that the broker answers, whatever it says: no login is needed")
        .banner(|call| {
            vec![format!(
                "Will ping {}. This only checks if the OS process is running and registered with epmd. \
                 Timeout: {} ms.",
                call.node,
                call.options.timeout_secs * 1000
            )]
        })
        .names_node(),
    Command::new("status", BOTH, "", (0, 0), checks::status)
        .about("Shows what the broker is and how it is")
        .banner(|call| vec![format!("Status of node {} ...", call.node)])
        .names_node(),
    Command::new("cluster_status", BOTH, "", (0, 0), checks::cluster_status)
        .about("Shows the one node that the cluster has")
        .banner(|call| vec![format!("Cluster status of node {} ...", call.node)])
        .names_node(),
    Command::new("check_running", DIAGNOSTICS, "", (0, 0), checks::check_running)
        .about("Fails unless the broker takes clients: no login is needed")
        .banner(|call| vec![format!("Checking if RabbitMQ is running on node {} ...", call.node)])
        .names_node(),
    Command::new("is_running", DIAGNOSTICS, "", (0, 0), checks::check_running)
        .about("Fails unless the broker takes clients: no login is needed")
        .banner(|call| vec![format!("Asking node {} for its status ...", call.node)])
        .names_node(),
    Command::new("is_booting", DIAGNOSTICS, "", (0, 0), checks::is_booting)
        .about("Says that the broker has started")
        .banner(|call| vec![format!("Asking node {} for its boot status ...", call.node)])
        .names_node(),
    Command::new("check_local_alarms", DIAGNOSTICS, "", (0, 0), checks::check_local_alarms)
        .about("Fails if memory or disk space is low")
        .banner(|call| vec![format!("Asking node {} to report any local resource alarms ...", call.node)])
        .names_node(),
    Command::new("check_alarms", DIAGNOSTICS, "", (0, 0), checks::check_alarms)
        .about("Fails if memory or disk space is low")
        .banner(|call| vec![format!("Asking node {} to report any local resource alarms ...", call.node)])
        .names_node(),
    Command::new("alarms", DIAGNOSTICS, "", (0, 0), checks::alarms)
        .about("Shows whether memory or disk space is low")
        .banner(|call| vec![format!("Asking node {} to report any known resource alarms ...", call.node)])
        .names_node(),
    Command::new("check_virtual_hosts", DIAGNOSTICS, "", (0, 0), checks::check_virtual_hosts)
        .about("Fails unless all virtual hosts can be used")
        .banner(|call| vec![format!("Checking if all vhosts are running on node {} ...", call.node)])
        .names_node(),
    Command::new("check_port_connectivity", DIAGNOSTICS, "", (0, 0), checks::check_port_connectivity)
        .about("Fails unless each listener accepts a connection")
        .banner(|call| {
            vec![format!("Testing TCP connections to all active listeners on node {} ...", call.node)]
        })
        .options(&["address"])
        .names_node(),
    Command::new("check_port_listener", DIAGNOSTICS, "<port>", (1, 1), checks::check_port_listener)
        .about("Fails unless there is a listener on the port")
        .banner(|call| {
            vec![format!(
                "Asking node {} if there's an active listener on port {} ...",
                call.node,
                call.argument(0)
            )]
        })
        .names_node(),
    Command::new(
        "check_protocol_listener",
        DIAGNOSTICS,
        "<protocol>",
        (1, 1),
        checks::check_protocol_listener,
    )
    .about("Fails unless there is a listener for the protocol")
    .banner(|call| {
        vec![format!(
            "Asking node {} if there's an active listener for protocol {} ...",
            call.node,
            call.argument(0)
        )]
    })
    .names_node(),
    Command::new("listeners", DIAGNOSTICS, "", (0, 0), checks::listeners)
        .about("Shows where the broker listens")
        .banner(|call| vec![format!("Asking node {} to report its protocol listeners ...", call.node)])
        .names_node(),
    Command::new("server_version", DIAGNOSTICS, "", (0, 0), checks::server_version)
        .about("Shows the version of RabbitMQ that the broker is compatible with")
        .banner(|call| vec![format!("Asking node {} for its RabbitMQ version...", call.node)])
        .names_node(),
    Command::new("check_if_node_is_quorum_critical", DIAGNOSTICS, "", (0, 0), checks::one_node)
        .about("Passes: there is one node")
        .banner(|call| {
            vec![format!("Checking if node {} is critical for quorum of any quorum queues ...", call.node)]
        })
        .names_node(),
    Command::new("check_if_node_is_mirror_sync_critical", DIAGNOSTICS, "", (0, 0), checks::one_node)
        .about("Passes: there is one node")
        .banner(|call| {
            vec![format!(
                "Checking if node {} is critical for data safety of any classic mirrored queues ...",
                call.node
            )]
        })
        .names_node(),
    Command::new("node_health_check", BOTH, "", (0, 0), checks::node_health_check)
        .about("Fails if memory or disk space is low")
        .banner(|call| vec![format!("Checking health of node {} ...", call.node)])
        .names_node(),
    Command::new("list_queues", BOTH, "[<column> ...]", (0, ANY), lists::queues)
        .about("Lists queues of a virtual host")
        .banner(|call| {
            vec![
                format!("Timeout: {}.0 seconds ...", call.options.timeout_secs),
                format!("Listing queues for vhost {} ...", call.vhost()),
            ]
        })
        .columns(lists::QUEUE_COLUMNS)
        .options(&["online", "offline", "local"]),
    Command::new("list_unresponsive_queues", BOTH, "[<column> ...]", (0, ANY), operations::nothing)
        .about("Lists nothing: a queue always answers")
        .banner(|call| vec![format!("Listing unresponsive queues for vhost {} ...", call.vhost())])
        .columns(lists::QUEUE_COLUMNS),
    Command::new("list_exchanges", BOTH, "[<column> ...]", (0, ANY), lists::exchanges)
        .about("Lists exchanges of a virtual host")
        .banner(|call| vec![format!("Listing exchanges for vhost {} ...", call.vhost())])
        .columns(lists::EXCHANGE_COLUMNS),
    Command::new("list_bindings", BOTH, "[<column> ...]", (0, ANY), lists::bindings)
        .about("Lists bindings of a virtual host")
        .banner(|call| vec![format!("Listing bindings for vhost {}...", call.vhost())])
        .columns(lists::BINDING_COLUMNS),
    Command::new("list_connections", BOTH, "[<column> ...]", (0, ANY), lists::connections)
        .about("Lists connections")
        .banner(|_| vec!["Listing connections ...".into()])
        .columns(lists::CONNECTION_COLUMNS)
        .names_node(),
    Command::new("list_channels", BOTH, "[<column> ...]", (0, ANY), lists::channels)
        .about("Lists channels")
        .banner(|_| vec!["Listing channels ...".into()])
        .columns(lists::CHANNEL_COLUMNS)
        .names_node(),
    Command::new("list_consumers", BOTH, "[<column> ...]", (0, ANY), lists::consumers)
        .about("Lists consumers of a virtual host")
        .banner(|call| vec![format!("Listing consumers in vhost {} ...", call.vhost())])
        .columns(lists::CONSUMER_COLUMNS)
        .names_node(),
    Command::new("list_vhosts", BOTH, "[<column> ...]", (0, ANY), lists::vhosts)
        .about("Lists virtual hosts")
        .banner(|_| vec!["Listing vhosts ...".into()])
        .columns(lists::VHOST_COLUMNS),
    Command::new("list_users", BOTH, "", (0, 0), lists::users)
        .about("Lists users with their tags")
        .banner(|_| vec!["Listing users ...".into()]),
    Command::new("list_permissions", BOTH, "", (0, 0), lists::permissions)
        .about("Lists what users may do in a virtual host")
        .banner(|call| vec![format!("Listing permissions for vhost \"{}\" ...", call.vhost())]),
    Command::new("list_user_permissions", BOTH, "<username>", (1, 1), lists::user_permissions)
        .about("Lists what a user may do")
        .banner(|call| vec![format!("Listing permissions for user \"{}\" ...", call.argument(0))]),
    Command::new("list_topic_permissions", BOTH, "", (0, 0), lists::topic_permissions)
        .about("Lists the routing keys that users may use in a virtual host")
        .banner(|call| vec![format!("Listing topic permissions for vhost \"{}\" ...", call.vhost())]),
    Command::new("list_user_topic_permissions", BOTH, "<username>", (1, 1), lists::user_topic_permissions)
        .about("Lists the routing keys that a user may use")
        .banner(|call| vec![format!("Listing topic permissions for user \"{}\" ...", call.argument(0))]),
    Command::new("list_policies", BOTH, "", (0, 0), lists::policies)
        .about("Lists policies of a virtual host")
        .banner(|call| vec![format!("Listing policies for vhost \"{}\" ...", call.vhost())]),
    Command::new("list_operator_policies", BOTH, "", (0, 0), lists::operator_policies)
        .about("Lists operator policies of a virtual host")
        .banner(|call| vec![format!("Listing operator policy overrides for vhost \"{}\" ...", call.vhost())]),
    Command::new("list_parameters", BOTH, "", (0, 0), lists::parameters)
        .about("Lists runtime parameters of a virtual host")
        .banner(|call| vec![format!("Listing runtime parameters for vhost \"{}\" ...", call.vhost())]),
    Command::new("list_global_parameters", BOTH, "", (0, 0), lists::global_parameters)
        .about("Lists runtime parameters of the broker")
        .banner(|_| vec!["Listing global runtime parameters ...".into()]),
    Command::new("list_feature_flags", BOTH, "[<column> ...]", (0, ANY), lists::feature_flags)
        .about("Lists feature flags; all are on")
        .banner(|_| vec!["Listing feature flags ...".into()])
        .columns(&["name", "state", "desc", "stability", "provided_by"]),
    Command::new("list_vhost_limits", BOTH, "", (0, 0), users::list_vhost_limits)
        .about("Shows the limits of a virtual host")
        .banner(|call| {
            vec![if call.options.has("global") {
                "Listing limits for all vhosts ...".into()
            } else {
                format!("Listing limits for vhost \"{}\" ...", call.vhost())
            }]
        })
        .options(&["global"]),
    Command::new("list_user_limits", BOTH, "", (0, 0), users::list_user_limits)
        .about("Shows the limits of a user")
        .banner(|call| {
            vec![if call.options.has("global") {
                "Listing limits for all users ...".into()
            } else {
                format!("Listing limits for user \"{}\" ...", call.options.value("user").unwrap_or("guest"))
            }]
        })
        .options(&["user", "global"]),
    Command::new("add_user", CTL, "<username> [<password>]", (1, 2), users::add_user)
        .about("Adds a user, who can do nothing yet; the password may come from standard input")
        .banner(|call| vec![format!("Adding user \"{}\" ...", call.argument(0))])
        .options(&["pre-hashed-password", "hashing-algorithm"]),
    Command::new("change_password", CTL, "<username> [<password>]", (1, 2), users::change_password)
        .about("Gives a user another password")
        .banner(|call| vec![format!("Changing password for user \"{}\" ...", call.argument(0))]),
    Command::new("clear_password", CTL, "<username>", (1, 1), users::clear_password)
        .about("Takes a user's password away, so that nobody can log in with it")
        .banner(|call| vec![format!("Clearing password for user \"{}\" ...", call.argument(0))]),
    Command::new("authenticate_user", CTL, "<username> [<password>]", (1, 2), users::authenticate_user)
        .about("Checks a user's password")
        .banner(|call| vec![format!("Authenticating user \"{}\" ...", call.argument(0))]),
    Command::new("delete_user", CTL, "<username>", (1, 1), users::delete_user)
        .about("Deletes a user")
        .banner(|call| vec![format!("Deleting user \"{}\" ...", call.argument(0))]),
    Command::new("set_user_tags", CTL, "<username> [<tag> ...]", (1, ANY), users::set_user_tags)
        .about("Gives a user these tags, and no others")
        .banner(|call| {
            vec![format!(
                "Setting tags for user \"{}\" to [{}] ...",
                call.argument(0),
                call.arguments[1..].join(", ")
            )]
        }),
    Command::new("set_permissions", CTL, "<username> <conf> <write> <read>", (4, 4), users::set_permissions)
        .about("Lets a user into a virtual host, with these regular expressions")
        .banner(|call| {
            vec![format!(
                "Setting permissions for user \"{}\" in vhost \"{}\" ...",
                call.argument(0),
                call.vhost()
            )]
        }),
    Command::new("clear_permissions", CTL, "<username>", (1, 1), users::clear_permissions)
        .about("Lets a user no longer into a virtual host")
        .banner(|call| {
            vec![format!(
                "Clearing permissions for user \"{}\" in vhost \"{}\" ...",
                call.argument(0),
                call.vhost()
            )]
        }),
    Command::new(
        "set_topic_permissions",
        CTL,
        "<username> <exchange> <write> <read>",
        (4, 4),
        users::set_topic_permissions,
    )
    .about("Narrows the routing keys that a user may use with a topic exchange")
    .banner(|call| {
        vec![format!(
            "Setting topic permissions on \"{}\" for user \"{}\" in vhost \"{}\" ...",
            call.argument(1),
            call.argument(0),
            call.vhost()
        )]
    }),
    Command::new(
        "clear_topic_permissions",
        CTL,
        "<username> [<exchange>]",
        (1, 2),
        users::clear_topic_permissions,
    )
    .about("Lets a user use all routing keys again")
    .banner(|call| {
        let on = call.arguments.get(1).map(|exchange| format!("on \"{exchange}\" ")).unwrap_or_default();
        vec![format!(
            "Clearing topic permissions {on}for user \"{}\" in vhost \"{}\" ...",
            call.argument(0),
            call.vhost()
        )]
    }),
    Command::new("add_vhost", CTL, "<vhost>", (1, 1), users::add_vhost)
        .about("Adds a virtual host")
        .banner(|call| vec![format!("Adding vhost \"{}\" ...", call.argument(0))])
        .options(&["description", "tags", "default-queue-type"]),
    Command::new("delete_vhost", CTL, "<vhost>", (1, 1), users::delete_vhost)
        .about("Deletes a virtual host and all that is in it")
        .banner(|call| vec![format!("Deleting vhost \"{}\" ...", call.argument(0))]),
    Command::new("trace_on", CTL, "", (0, 0), users::trace_on)
        .about("Tells amq.rabbitmq.trace of all messages in a virtual host")
        .banner(|call| vec![format!("Starting tracing for vhost \"{}\" ...", call.vhost())]),
    Command::new("trace_off", CTL, "", (0, 0), users::trace_off)
        .about("Ends that")
        .banner(|call| vec![format!("Stopping tracing for vhost \"{}\" ...", call.vhost())]),
    Command::new("set_vhost_limits", CTL, "<definition>", (1, 1), users::set_vhost_limits)
        .about("Limits the connections and queues of a virtual host")
        .banner(|call| {
            vec![format!(
                "Setting vhost limits to \"{}\" for vhost \"{}\" ...",
                call.argument(0),
                call.vhost()
            )]
        }),
    Command::new("clear_vhost_limits", CTL, "", (0, 0), users::clear_vhost_limits)
        .about("Removes the limits of a virtual host")
        .banner(|call| vec![format!("Clearing vhost \"{}\" limits ...", call.vhost())]),
    Command::new("set_user_limits", CTL, "<username> <definition>", (2, 2), users::set_user_limits)
        .about("Limits the connections and channels of a user")
        .banner(|call| {
            vec![format!(
                "Setting user limits to \"{}\" for user \"{}\" ...",
                call.argument(1),
                call.argument(0)
            )]
        }),
    Command::new("clear_user_limits", CTL, "<username> <limit>|all", (2, 2), users::clear_user_limits)
        .about("Removes limits of a user")
        .banner(|call| {
            vec![if call.argument(1) == "all" {
                format!("Clearing all limits for user \"{}\" ...", call.argument(0))
            } else {
                format!("Clearing \"{}\" limit for user \"{}\" ...", call.argument(1), call.argument(0))
            }]
        }),
    Command::new("set_policy", CTL, "<name> <pattern> <definition>", (3, 3), settings::set_policy)
        .about("Sets a policy for queues and exchanges by their names")
        .banner(|call| {
            vec![format!(
                "Setting policy \"{}\" for pattern \"{}\" to \"{}\" with priority \"{}\" \
                 for vhost \"{}\" ...",
                call.argument(0),
                call.argument(1),
                call.argument(2),
                call.options.value("priority").unwrap_or("0"),
                call.vhost()
            )]
        })
        .options(&["priority", "apply-to"]),
    Command::new("clear_policy", CTL, "<name>", (1, 1), settings::clear_policy)
        .about("Removes a policy")
        .banner(|call| {
            vec![format!("Clearing policy \"{}\" on vhost \"{}\" ...", call.argument(0), call.vhost())]
        }),
    Command::new(
        "set_operator_policy",
        CTL,
        "<name> <pattern> <definition>",
        (3, 3),
        settings::set_operator_policy,
    )
    .about("Sets a policy that limits what others say")
    .banner(|call| {
        vec![format!(
            "Setting operator policy override \"{}\" for pattern \"{}\" to \"{}\" with priority \"{}\" \
                 for vhost \"{}\" ...",
            call.argument(0),
            call.argument(1),
            call.argument(2),
            call.options.value("priority").unwrap_or("0"),
            call.vhost()
        )]
    })
    .options(&["priority", "apply-to"]),
    Command::new("clear_operator_policy", CTL, "<name>", (1, 1), settings::clear_operator_policy)
        .about("Removes an operator policy")
        .banner(|call| {
            vec![format!(
                "Clearing operator policy \"{}\" on vhost \"{}\" ...",
                call.argument(0),
                call.vhost()
            )]
        }),
    Command::new("set_parameter", CTL, "<component> <name> <value>", (3, 3), settings::set_parameter)
        .about("Sets a runtime parameter of a virtual host")
        .banner(|call| {
            vec![format!(
                "Setting runtime parameter \"{}\" for component \"{}\" to \"{}\" in vhost \"{}\" ...",
                call.argument(1),
                call.argument(0),
                call.argument(2),
                call.vhost()
            )]
        }),
    Command::new("clear_parameter", CTL, "<component> <name>", (2, 2), settings::clear_parameter)
        .about("Removes a runtime parameter")
        .banner(|call| {
            vec![format!(
                "Clearing runtime parameter \"{}\" for component \"{}\" on vhost \"{}\" ...",
                call.argument(1),
                call.argument(0),
                call.vhost()
            )]
        }),
    Command::new("set_global_parameter", CTL, "<name> <value>", (2, 2), settings::set_global_parameter)
        .about("Sets a runtime parameter of the broker")
        .banner(|call| {
            vec![format!(
                "Setting global runtime parameter \"{}\" to \"{}\" ...",
                call.argument(0),
                call.argument(1)
            )]
        }),
    Command::new("clear_global_parameter", CTL, "<name>", (1, 1), settings::clear_global_parameter)
        .about("Removes it")
        .banner(|call| vec![format!("Clearing global runtime parameter \"{}\" ...", call.argument(0))]),
    Command::new("set_cluster_name", CTL, "<name>", (1, 1), settings::set_cluster_name)
        .about("Names the cluster")
        .banner(|call| vec![format!("Setting cluster name to {} ...", call.argument(0))]),
    Command::new("export_definitions", CTL, "[<file>]", (0, 1), settings::export_definitions)
        .about("Writes users, virtual hosts, policies and topology as JSON")
        .banner(|call| match call.arguments.first() {
            Some(file) if file != "-" => {
                vec![format!("Exporting definitions in JSON to a file at \"{file}\" ...")]
            }
            _ => vec![],
        })
        .options(&["format"]),
    Command::new("import_definitions", CTL, "[<file>]", (0, 1), settings::import_definitions)
        .about("Reads them")
        .banner(|call| {
            vec![format!("Importing definitions in JSON from a file at \"{}\" ...", call.argument(0))]
        })
        .options(&["format", "skip-if-unchanged"]),
    Command::new(
        "close_connection",
        CTL,
        "<connection pid> <explanation>",
        (2, 2),
        operations::close_connection,
    )
    .about("Closes a connection, by the pid that list_connections shows or by its name")
    .banner(|call| vec![format!("Closing connection {}, reason: {}...", call.argument(0), call.argument(1))])
    .names_node(),
    Command::new("close_all_connections", CTL, "<explanation>", (1, 1), operations::close_all_connections)
        .about("Closes the connections of a virtual host, or with --global all")
        .banner(|call| {
            let whose = if call.options.has("global") {
                String::new()
            } else {
                format!(" in vhost {}", call.vhost())
            };
            vec![format!("Closing all connections{whose}, reason: {}...", call.argument(0))]
        })
        .options(&["global", "limit", "per-connection-delay"]),
    Command::new(
        "close_all_user_connections",
        CTL,
        "<username> <explanation>",
        (2, 2),
        operations::close_all_user_connections,
    )
    .about("Closes the connections of a user")
    .banner(|call| {
        vec![format!("Closing connections of user {}, reason: {}...", call.argument(0), call.argument(1))]
    }),
    Command::new("delete_queue", CTL, "<queue>", (1, 1), operations::delete_queue)
        .about("Deletes a queue")
        .banner(|call| {
            let conditions = match (call.options.has("if-empty"), call.options.has("if-unused")) {
                (false, false) => "",
                (true, false) => " if queue is empty",
                (false, true) => " if queue is unused",
                (true, true) => " if queue is empty and if queue is unused",
            };
            vec![format!("Deleting queue '{}' on vhost '{}'{conditions} ...", call.argument(0), call.vhost())]
        })
        .options(&["if-empty", "if-unused"]),
    Command::new("purge_queue", CTL, "<queue>", (1, 1), operations::purge_queue)
        .about("Removes all ready messages of a queue")
        .banner(|call| vec![format!("Purging queue '{}' in vhost '{}' ...", call.argument(0), call.vhost())]),
    Command::new("stop_app", CTL, "", (0, 0), operations::stop_app)
        .about("Closes all connections and takes no new ones")
        .banner(|call| vec![format!("Stopping rabbit application on node {} ...", call.node)])
        .names_node(),
    Command::new("start_app", CTL, "", (0, 0), operations::start_app)
        .about("Takes connections again")
        .banner(|call| vec![format!("Starting node {} ...", call.node)])
        .names_node(),
    Command::new("suspend_listeners", CTL, "", (0, 0), operations::suspend_listeners)
        .about("Takes no new connections")
        .banner(|call| {
            vec![format!(
                "Will suspend client connection listeners on node {}. \
                 The node will no longer accept client connections!",
                call.node
            )]
        })
        .names_node(),
    Command::new("resume_listeners", CTL, "", (0, 0), operations::start_app)
        .about("Takes connections again")
        .banner(|call| {
            vec![format!(
                "Will resume client connection listeners on node {}. \
                 The node will now accept client connections",
                call.node
            )]
        })
        .names_node(),
    Command::new(
        "set_vm_memory_high_watermark",
        CTL,
        "<fraction> | absolute <value>",
        (1, 2),
        operations::set_watermark,
    )
    .about("Sets the memory above which publishers are blocked, until the next start")
    .banner(|call| {
        let unit = if call.argument(0) == "absolute" { " bytes" } else { "" };
        let value = call.arguments.last().map_or("", String::as_str);
        vec![format!("Setting memory threshold on {} to {value}{unit} ...", call.node)]
    })
    .names_node(),
    Command::new("enable_feature_flag", CTL, "", (0, ANY), operations::nothing)
        .about("Does nothing: all feature flags are on"),
    Command::new("force_gc", CTL, "", (0, ANY), operations::nothing)
        .about("Does nothing: there is no garbage"),
    Command::new("rotate_logs", CTL, "", (0, ANY), operations::nothing)
        .about("Does nothing: the log goes to standard error"),
    Command::new("sync_queue", CTL, "", (0, ANY), operations::nothing)
        .about("Does nothing: there is one node"),
    Command::new("cancel_sync_queue", CTL, "", (0, ANY), operations::nothing)
        .about("Does nothing: there is one node"),
    Command::new("reset_node_auth_attempt_metrics", BOTH, "", (0, ANY), operations::nothing)
        .about("Does nothing"),
    Command::new("eval", CTL, "<expression>", (0, ANY), operations::refuse_eval)
        .about("Refused: there is no Erlang"),
    Command::new("eval_file", CTL, "<expression>", (0, ANY), operations::refuse_eval)
        .about("Refused: there is no Erlang"),
    Command::new("exec", CTL, "<expression>", (0, ANY), operations::refuse_eval)
        .about("Refused: there is no Erlang"),
    Command::new("join_cluster", CTL, "", (0, ANY), operations::refuse_cluster)
        .about("Refused: there is one node"),
    Command::new("forget_cluster_node", CTL, "", (0, ANY), operations::refuse_cluster)
        .about("Refused: there is one node"),
    Command::new("change_cluster_node_type", CTL, "", (0, ANY), operations::refuse_cluster)
        .about("Refused: there is one node"),
    Command::new("rename_cluster_node", CTL, "", (0, ANY), operations::refuse_cluster)
        .about("Refused: there is one node"),
    Command::new("update_cluster_nodes", CTL, "", (0, ANY), operations::refuse_cluster)
        .about("Refused: there is one node"),
    Command::new("reset", CTL, "", (0, ANY), operations::refuse_reset)
        .about("Refused: an empty data directory is a new broker"),
    Command::new("force_reset", CTL, "", (0, ANY), operations::refuse_reset)
        .about("Refused: an empty data directory is a new broker"),
    Command::new("force_boot", CTL, "", (0, ANY), operations::refuse_reset)
        .about("Refused: an empty data directory is a new broker"),
    Command::new("stop", CTL, "", (0, ANY), operations::refuse_stop)
        .about("Refused: end the process with SIGTERM"),
    Command::new("shutdown", CTL, "", (0, ANY), operations::refuse_stop)
        .about("Refused: end the process with SIGTERM"),
    Command::new("set_disk_free_limit", CTL, "", (0, ANY), operations::refuse_config)
        .about("Refused: this is in broker.toml"),
    Command::new("set_log_level", CTL, "", (0, ANY), operations::refuse_config)
        .about("Refused: this is in broker.toml"),
    Command::new("environment", CTL, "", (0, ANY), operations::refuse_config)
        .about("Refused: this is in broker.toml"),
    Command::new("list", PLUGINS, "[<pattern>]", (0, 1), plugins::list)
        .about("Lists the plugins whose work is built in")
        .banner(|call| {
            vec![format!(
                "Listing plugins with pattern \"{}\" ...",
                if call.arguments.is_empty() { ".*" } else { call.argument(0) }
            )]
        })
        .options(&["enabled", "if-empty", "minimal", "verbose"]),
    Command::new("enable", PLUGINS, "<plugin> ...", (0, ANY), plugins::enable)
        .about("Passes if all of them are built in")
        .banner(|call| {
            let mut lines = vec![format!("Enabling plugins on node {}:", call.node)];
            lines.extend_from_slice(call.arguments);
            lines
        })
        .options(&["offline", "online", "all"]),
    Command::new("set", PLUGINS, "<plugin> ...", (0, ANY), plugins::enable)
        .about("Passes if all of them are built in")
        .banner(|call| vec![format!("Enabling plugins on node {}:", call.node)])
        .options(&["offline", "online"]),
    Command::new("disable", PLUGINS, "<plugin> ...", (0, ANY), plugins::disable)
        .about("Refused: what is built in stays")
        .options(&["offline", "online", "all"]),
    Command::new("is_enabled", PLUGINS, "<plugin> ...", (1, ANY), plugins::is_enabled)
        .about("Fails unless they are built in")
        .banner(|call| {
            vec![format!("Asking node {} if plugin {} is enabled...", call.node, call.argument(0))]
        })
        .options(&["offline", "online"]),
    Command::new("help", ALL, "[<command>]", (0, 1), operations::nothing).about("Says what a command does"),
    Command::new("version", ALL, "", (0, 0), operations::nothing)
        .about("Shows the version of RabbitMQ that the broker is compatible with"),
];
