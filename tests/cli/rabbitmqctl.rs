//! RabbitMQ's tools, by links of their names. The texts and exit codes are those of RabbitMQ 3.10.8's, as it prints them.

use lapin::{Connection, ConnectionProperties, options::BasicQosOptions};

use crate::broker::{Broker, Run, leveret_in, until};

fn run(code: i32, stdout: &str, stderr: &str) -> Run {
    Run { code, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn users_and_permissions() {
    let broker = Broker::start();
    let done = "Adding user \"ann\" ...\nDone. Don't forget to grant the user permissions to some virtual hosts! See \
                'rabbitmqctl help set_permissions' to learn more.\n";
    assert_eq!(broker.ctl(&["add_user", "ann", "pw"]), run(0, done, ""));
    let twice = run(70, "Adding user \"ann\" ...\n", "Error:\nUser \"ann\" already exists\n");
    assert_eq!(broker.ctl(&["add_user", "ann", "pw"]), twice);
    assert_eq!(
        broker.ctl(&["set_user_tags", "ann", "monitoring", "management"]),
        run(0, "Setting tags for user \"ann\" to [monitoring, management] ...\n", "")
    );
    let missing = "Error:\nUser \"bob\" does not exist\n";
    assert_eq!(
        broker.ctl(&["set_user_tags", "bob", "x"]),
        run(67, "Setting tags for user \"bob\" to [x] ...\n", missing)
    );
    assert_eq!(
        broker.ctl(&["list_users", "-s"]),
        run(0, "ann\t[monitoring, management]\nguest\t[administrator]\n", "")
    );
    assert_eq!(
        broker.ctl(&["set_permissions", "-p", "other", "ann", ".*", "^a", ""]),
        run(0, "Setting permissions for user \"ann\" in vhost \"other\" ...\n", "")
    );
    assert_eq!(
        broker.ctl(&["-q", "set_permissions", "-p", "other", "bob", "", "", ""]),
        run(67, "", "Error:\nUser bob does not exist\n")
    );
    assert_eq!(
        broker.ctl(&["-q", "set_permissions", "ann", "", "", "", "--vhost=nowhere"]),
        run(69, "", "Error:\nVirtual host nowhere does not exist\n")
    );
    let heading = "Listing permissions for user \"ann\" ...\n";
    assert_eq!(
        broker.ctl(&["list_user_permissions", "ann"]),
        run(0, &format!("{heading}vhost\tconfigure\twrite\tread\nother\t.*\t^a\t\n"), "")
    );
    broker.ctl_done(&["set_topic_permissions", "-p", "other", "ann", "amq.topic", "^a", "^b"]);
    broker.ctl_done(&["set_topic_permissions", "-p", "other", "ann", "logs", "^c", "^d"]);
    broker.ctl_done(&["clear_topic_permissions", "-p", "other", "ann", "amq.topic"]);
    assert_eq!(broker.ctl_done(&["-s", "list_topic_permissions", "-p", "other"]), "ann\tlogs\t^c\t^d\n");
    broker.ctl_done(&["clear_topic_permissions", "-p", "other", "ann"]);
    assert_eq!(broker.ctl_done(&["-q", "list_topic_permissions", "-p", "other"]), "");
    assert_eq!(broker.ctl_done(&["-q", "authenticate_user", "ann", "pw"]), "Success\n");
    broker.ctl_done(&["change_password", "ann", "other"]);
    assert_eq!(broker.ctl(&["-q", "authenticate_user", "ann", "pw"]).code, 65);
    broker.ctl_done(&["clear_permissions", "-p", "other", "ann"]);
    assert_eq!(broker.ctl_done(&["-q", "list_user_permissions", "ann"]), "");
    broker.ctl_done(&["delete_user", "ann"]);
    let gone = run(67, "Deleting user \"ann\" ...\n", "Error:\nUser \"ann\" does not exist\n");
    assert_eq!(broker.ctl(&["delete_user", "ann"]), gone);
}

#[test]
fn virtual_hosts_and_policies() {
    let broker = Broker::start();
    for _ in 0..2 {
        assert_eq!(broker.ctl(&["add_vhost", "new"]), run(0, "Adding vhost \"new\" ...\n", ""));
    }
    assert_eq!(broker.ctl_done(&["list_vhosts"]), "Listing vhosts ...\nname\n/\nnew\nother\n");
    assert_eq!(
        broker.ctl(&["list_vhosts", "--formatter", "json"]),
        run(0, "[\n{\"name\":\"/\"}\n,{\"name\":\"new\"}\n,{\"name\":\"other\"}\n]\n", "")
    );
    let policy = ["set_policy", "-p", "new", "--priority", "3", "--apply-to", "queues", "ttl", "^q"];
    let said = "Setting policy \"ttl\" for pattern \"^q\" to \"{\"message-ttl\":60000}\" with priority \"3\" for vhost \
                \"new\" ...\n";
    assert_eq!(broker.ctl(&[&policy[..], &["{\"message-ttl\":60000}"]].concat()), run(0, said, ""));
    assert_eq!(
        broker.ctl_done(&["-q", "list_policies", "-p", "new"]),
        "vhost\tname\tpattern\tapply-to\tdefinition\tpriority\nnew\tttl\t^q\tqueues\t{\"message-ttl\":60000}\t3\n"
    );
    let bad = broker.ctl(&["-q", "set_policy", "-p", "new", "bad", "^q", "{\"no-such\":1}"]);
    assert!(bad.code == 69 && bad.stderr.starts_with("Error:\nValidation failed\n"), "{bad:?}");
    let no_json = run(69, "", "Error:\nJSON decoding error. Reason: badarg\n");
    assert_eq!(broker.ctl(&["-q", "set_policy", "-p", "new", "bad", "^q", "nojson"]), no_json);
    assert_eq!(
        broker.ctl(&["clear_policy", "-p", "new", "ttl"]),
        run(0, "Clearing policy \"ttl\" on vhost \"new\" ...\n", "")
    );
    let gone = run(69, "", "Error:\nParameter does not exist\n");
    assert_eq!(broker.ctl(&["-q", "clear_policy", "-p", "new", "ttl"]), gone);
    let traced = "Starting tracing for vhost \"new\" ...\nTrace enabled for vhost new\n";
    assert_eq!(broker.ctl(&["trace_on", "-p", "new"]), run(0, traced, ""));
    assert_eq!(
        broker.ctl_done(&["-s", "list_vhosts", "name", "tracing"]),
        "/\tfalse\nnew\ttrue\nother\tfalse\n"
    );
    broker.ctl_done(&["trace_off", "-p", "new"]);
    broker.ctl_done(&["delete_vhost", "new"]);
    let gone = run(65, "Deleting vhost \"new\" ...\n", "Virtual host 'new' does not exist\n");
    assert_eq!(broker.ctl(&["delete_vhost", "new"]), gone);
}

#[test]
fn queues_and_what_is_bound_to_them() {
    let broker = Broker::start();
    let headings = "Timeout: 60.0 seconds ...\nListing queues for vhost / ...\n";
    assert_eq!(broker.ctl_done(&["list_queues"]), headings);
    broker.done(&["declare", "queue", "q1", "-a", "x-max-length=5", "-a", "x-dead-letter-exchange=dlx"]);
    broker.done(&["publish", "-k", "q1", "hello"]);
    assert_eq!(broker.ctl_done(&["list_queues"]), format!("{headings}name\tmessages\nq1\t1\n"));
    for arguments in [
        &["-q", "list_queues", "-p", "/", "name", "messages", "consumers"][..],
        &["list_queues", "name,messages", "consumers", "--quiet", "--vhost", "/"],
        &["--vhost=/", "-t", "5", "list_queues", "-q", "name", "messages", "consumers"],
    ] {
        assert_eq!(broker.ctl_done(arguments), "name\tmessages\tconsumers\nq1\t1\t0\n", "{arguments:?}");
    }
    assert_eq!(
        broker.ctl_done(&["-s", "list_queues", "name", "arguments", "durable"]),
        "q1\t[{\"x-dead-letter-exchange\",\"dlx\"},{\"x-max-length\",5}]\ttrue\n"
    );
    assert_eq!(
        broker.ctl_done(&["list_queues", "--formatter", "csv", "name", "messages"]),
        "\"name\",\"messages\"\n\"q1\",\"1\"\n"
    );
    assert_eq!(
        broker.ctl_done(&["list_queues", "--formatter=json", "name", "arguments"]),
        "[\n{\"name\":\"q1\",\"arguments\":[[\"x-dead-letter-exchange\",\"longstr\",\"dlx\"],\
         [\"x-max-length\",\"signedint\",5]]}\n]\n"
    );
    assert_eq!(
        broker.ctl_done(&["list_bindings"]),
        "Listing bindings for vhost /...\n\
         source_name\tsource_kind\tdestination_name\tdestination_kind\trouting_key\targuments\n\
         \texchange\tq1\tqueue\tq1\t[]\n"
    );
    let exchanges = broker.ctl_done(&["list_exchanges", "--no-table-headers", "-p", "other"]);
    assert!(exchanges.starts_with("Listing exchanges for vhost other ...\n\tdirect\n"), "{exchanges}");
    let full = run(64, "", "Error:\nQueue is not empty\n");
    assert_eq!(broker.ctl(&["-q", "delete_queue", "q1", "--if-empty"]), full);
    assert_eq!(broker.ctl(&["purge_queue", "q1"]), run(0, "Purging queue 'q1' in vhost '/' ...\n", ""));
    let deleted = "Deleting queue 'q1' on vhost '/' if queue is empty ...\n\
                   Queue was successfully deleted with 0 ready messages\n";
    assert_eq!(broker.ctl(&["delete_queue", "-e", "q1"]), run(0, deleted, ""));
    let gone = run(64, "Deleting queue 'q1' on vhost '/' ...\n", "Error:\nQueue not found\n");
    assert_eq!(broker.ctl(&["delete_queue", "q1"]), gone);
    assert_eq!(broker.ctl(&["-q", "purge_queue", "q1"]), run(69, "", "Error:\nnot_found\n"));
}

#[test]
fn a_connection_is_found_in_the_list_and_closed() {
    let broker = Broker::start();
    let uri = broker.uri("other");
    block_on(async {
        let connection =
            Connection::connect(&uri, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.basic_qos(7, BasicQosOptions::default()).await.expect("a prefetch");
        let list = || broker.ctl_done(&["list_connections", "-q", "pid", "peer_port", "client_properties"]);
        until("the connection in the list", || list().lines().count() == 2);
        let list = list();
        let fields: Vec<&str> = list.lines().nth(1).expect("a connection").split('\t').collect();
        assert_eq!(list.lines().next(), Some("pid\tpeer_port\tclient_properties"));
        assert!(fields[0].starts_with('<') && fields[0].ends_with(".0>"), "{list}");
        assert!(fields[1].parse::<u16>().is_ok() && fields[2].contains("{\"product\",\"lapin\"}"), "{list}");
        let default = broker.ctl_done(&["list_connections"]);
        let expected = format!(
            "Listing connections ...\nuser\tpeer_host\tpeer_port\tstate\nguest\t127.0.0.1\t{}\trunning\n",
            fields[1]
        );
        assert_eq!(default, expected);
        let channels = broker.ctl_done(&["-s", "list_channels", "user", "vhost", "number", "prefetch_count"]);
        assert_eq!(channels, "guest\tother\t1\t7\n");
        let closed = format!("Closing connection {}, reason: maintenance...\n", fields[0]);
        assert_eq!(broker.ctl(&["close_connection", fields[0], "maintenance"]), run(0, &closed, ""));
        until("the end of the connection", || !connection.status().connected());
        assert_eq!(broker.ctl(&["-q", "close_connection", fields[0], "again"]).code, 0, "it has ended");
        let not_one = broker.ctl(&["-q", "close_connection", "nonsense", "x"]);
        assert_eq!(not_one.code, 69, "{not_one:?}");

        let _another =
            Connection::connect(&uri, ConnectionProperties::default()).await.expect("a connection");
        let said = "Closing all connections in vhost other, reason: enough...\nClosed 1 connections\n";
        assert_eq!(broker.ctl(&["close_all_connections", "--vhost", "other", "enough"]), run(0, said, ""));
    });
}

#[test]
fn the_application_stops_and_starts() {
    let broker = Broker::start();
    let uri = broker.uri("%2f");
    block_on(async {
        let connect = || Connection::connect(&uri, ConnectionProperties::default());
        let connection = connect().await.expect("a connection");
        broker.ctl_done(&["stop_app"]);
        until("the end of the connection", || !connection.status().connected());
        assert!(connect().await.is_err(), "nobody is let in");
        assert_eq!(broker.tool("rabbitmq-diagnostics", &["-q", "check_running"]).code, 69);
        assert_eq!(broker.leveret(&["health"]).code, 1);
        broker.ctl_done(&["start_app"]);
        assert_eq!(broker.ctl_done(&["await_startup"]), "");
        connect().await.expect("clients are let in again");
        assert_eq!(broker.tool("rabbitmq-diagnostics", &["-q", "check_running"]).code, 0);
    });
}

#[test]
fn probes_pass() {
    let broker = Broker::start();
    let probe = |arguments: &[&str]| {
        let run = broker.tool("rabbitmq-diagnostics", arguments);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{arguments:?}: {run:?}");
        run.stdout
    };
    assert_eq!(probe(&["-q", "ping"]), "Ping succeeded\n");
    assert_eq!(probe(&["ping", "--formatter", "json"]), "{\"message\":\"Ping succeeded\"}\n");
    assert!(probe(&["ping"]).starts_with("Will ping "));
    assert!(probe(&["check_running", "-q"]).contains("is fully booted and running"));
    assert!(probe(&["-q", "check_local_alarms"]).contains("reported no local alarms"));
    assert!(probe(&["-q", "check_virtual_hosts"]).contains("reported all vhosts as running"));
    assert!(probe(&["-q", "check_port_connectivity"]).starts_with("Successfully connected to ports "));
    let port = broker.amqp.rsplit_once(':').expect("a port").1;
    assert!(probe(&["-q", "check_port_listener", port]).starts_with("A listener for port "));
    assert!(probe(&["-q", "check_protocol_listener", "amqp"]).starts_with("A listener for protocol amqp "));
    let closed = broker.tool("rabbitmq-diagnostics", &["-q", "check_port_listener", "1"]);
    assert!(closed.code == 69 && closed.stderr.starts_with("No listener for port 1 is active"), "{closed:?}");
    assert!(probe(&["status"]).contains("RabbitMQ version: 3."));
    assert!(probe(&["-q", "cluster_status"]).contains("Running Nodes"));
    for probe in [&["ping"][..], &["check_running"], &["check_port_connectivity"], &["is_booting"]] {
        let run = broker.tool_with_wrong_password("rabbitmq-diagnostics", probe);
        assert_eq!(run.code, 0, "a wrong password is no reason for a restart: {run:?}");
    }
    let server = probe(&["-q", "server_version"]);
    assert_eq!(broker.ctl_done(&["version"]), server);
    assert!(probe(&["status"]).contains("Product: Leveret "));
    assert_eq!(broker.ctl_done(&["-q", "node_health_check"]), "Health check passed\n");
    let by_subcommand = broker.leveret(&["rabbitmq-diagnostics", "-q", "ping"]);
    assert_eq!(by_subcommand, run(0, "Ping succeeded\n", ""));
}

#[test]
fn memory_that_is_short_raises_an_alarm() {
    let broker = Broker::start();
    broker.ctl_done(&["set_vm_memory_high_watermark", "0.0000001"]);
    let alarmed = || broker.tool("rabbitmq-diagnostics", &["-q", "check_local_alarms"]);
    until("the alarm", || alarmed().code == 69);
    assert!(alarmed().stderr.contains("Memory alarm on node "), "{:?}", alarmed());
    broker.ctl_done(&["set_vm_memory_high_watermark", "absolute", "100GiB"]);
    until("the end of the alarm", || alarmed().code == 0);
    assert_eq!(broker.ctl(&["set_vm_memory_high_watermark", "abc"]).code, 65);
}

#[test]
fn wrong_usage_is_64_and_an_unreachable_broker_69() {
    let broker = Broker::start();
    for (arguments, words) in [
        (&["list_queuez"][..], "Did you mean 'list_queues'?"),
        (&["list_queues", "--nosuch"], "Invalid options for this command:\n--nosuch : "),
        (&["list_queues", "nosuch"], "Info key(s) nosuch are not supported"),
        (&["set_permissions", "a", "b"], "not enough arguments."),
        (&["list_queues", "-pother"], "Invalid options for this command:\n-pother : "),
        (&["add_user", "a", "b", "c"], "too many arguments."),
        (&[], "Usage"),
    ] {
        let wrong = broker.ctl(arguments);
        assert!(wrong.code == 64 && wrong.stderr.contains(words), "{arguments:?}: {wrong:?}");
        assert_eq!(wrong.stdout, "", "{arguments:?}");
    }
    for command in ["eval", "join_cluster", "reset", "stop"] {
        let refused = broker.ctl(&[command, "x"]);
        assert!(refused.code == 69 && refused.stderr.contains("not supported by Leveret"), "{refused:?}");
    }
    let nobody = [("LEVERET_URL", "http://127.0.0.1:1")];
    let status = leveret_in(&nobody, &["rabbitmqctl", "-n", "rabbit@here", "status"]);
    assert_eq!(status.code, 69);
    let first =
        "Error: unable to perform an operation on node 'rabbit@here'. Please see diagnostics information";
    assert!(status.stderr.starts_with(first), "{status:?}");
    assert_eq!(leveret_in(&nobody, &["rabbitmq-diagnostics", "-q", "ping"]).code, 69);
    assert_eq!(leveret_in(&nobody, &["rabbitmqctl", "-t", "1", "await_startup"]).code, 69);
}

#[test]
fn built_in_plugins_are_enabled() {
    let broker = Broker::start();
    let plugins = |arguments: &[&str]| broker.tool("rabbitmq-plugins", arguments);
    assert!(plugins(&["list", "-m"]).stdout.contains("rabbitmq_management\n"));
    assert_eq!(plugins(&["enable", "--offline", "rabbitmq_management", "rabbitmq_prometheus"]).code, 0);
    assert_eq!(plugins(&["enable", "rabbitmq_mqtt"]).code, 69);
    assert_eq!(plugins(&["-q", "is_enabled", "rabbitmq_shovel"]).code, 0);
}
