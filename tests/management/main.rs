//! The management port of the real binary, asked over HTTP as tools do, with lapin for what only AMQP can do.

mod bindings;
mod broker;
mod client;
mod connections;
mod definitions;
mod exchanges;
mod health;
mod lists;
mod logins;
mod messages;
mod metrics;
mod overview;
mod page;
mod policies;
mod queues;
mod rows;
mod shovels;
mod users;
mod vhosts;

use broker::TestBroker;

#[test]
fn an_unknown_path_is_not_found_in_rabbitmqs_words() {
    let broker = TestBroker::start("");
    let answer = broker.get("no-such-thing");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"], "Object Not Found");
}
