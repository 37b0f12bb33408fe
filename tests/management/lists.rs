//! How lists are asked for, with the channels of one connection as the list.

use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use super::broker::TestBroker;

/// A broker with so many channels on one connection. They are open as long as the last two are there.
async fn channels(count: u16) -> (TestBroker, Connection, Vec<Channel>) {
    let broker = TestBroker::start("");
    let connection = Connection::connect(&broker.uri(), ConnectionProperties::default()).await.expect("open");
    let mut channels = Vec::new();
    for _ in 0..count {
        channels.push(connection.create_channel().await.expect("a channel"));
    }
    (broker, connection, channels)
}

fn numbers(items: &Value) -> Vec<u64> {
    let items = items.as_array().expect("a list");
    items.iter().map(|item| item["number"].as_u64().expect("a number")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_whole_or_in_pages() {
    let (broker, _connection, _channels) = channels(12).await;
    assert_eq!(numbers(&broker.get("channels").json()).len(), 12);
    let page = broker.get("channels?page=2&page_size=5&sort=number&columns=number").json();
    let items: Vec<_> = (6..=10).map(|number| json!({"number": number})).collect();
    let expected = json!({
        "filtered_count": 12,
        "item_count": 5,
        "items": items,
        "page": 2,
        "page_count": 3,
        "page_size": 5,
        "total_count": 12,
    });
    assert_eq!(page, expected);
    let last = broker.get("channels?page=3&page_size=5&sort=number").json();
    assert_eq!(numbers(&last["items"]), [11, 12]);
    let answer = broker.get("channels?page=4&page_size=5");
    assert_eq!(answer.status, 400);
    let expected =
        json!({"error": "page_out_of_range", "reason": "Page out of range, page: 4 page size: 5, len: 12"});
    assert_eq!(answer.json(), expected);
    for path in ["channels/", "channels//?sort=number", "vhosts/%2F/channels/"] {
        assert_eq!(numbers(&broker.get(path).json()).len(), 12, "{path}");
    }
    // Without a page it is not filtered.
    assert_eq!(numbers(&broker.get("channels?name=nosuch").json()).len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_filtered_and_sorted() {
    let (broker, _connection, _channels) = channels(12).await;
    let numbers_of = |query: &str| numbers(&broker.get(&format!("channels?page=1&{query}")).json()["items"]);
    assert_eq!(numbers_of("name=(1&sort=number"), [1, 10, 11, 12]);
    assert_eq!(numbers_of("name=%5C(1%3F2%5C)%24&use_regex=true&pagination=false&sort=number"), [2, 12]);
    assert_eq!(numbers_of("name=(12&use_regex=false"), [12]);
    assert_eq!(numbers_of("sort=number&sort_reverse=true&page_size=3"), [12, 11, 10]);
    // As text, as RabbitMQ sorts names.
    assert_eq!(numbers_of("sort=name&page_size=4"), [1, 10, 11, 12]);
    assert_eq!(numbers_of("name=nosuch"), [0; 0]);
    let filtered = broker.get("channels?page=1&name=(1").json();
    assert_eq!((&filtered["filtered_count"], &filtered["total_count"]), (&json!(4), &json!(12)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_parameters_are_400() {
    let (broker, _connection, _channels) = channels(0).await;
    for (query, error) in [
        ("page=x", "bad_request"),
        ("page=0", "invalid_pagination_parameters"),
        ("page=1&page_size=501", "invalid_pagination_parameters"),
        ("page=1&name=(&use_regex=true", "bad_request"),
        ("page=1&name=(%5Cw%7B1000%7D)%7B1000%7D&use_regex=true", "bad_request"),
        ("msg_rates_age=60&msg_rates_incr=0", "bad_request"),
        ("lengths_age=600000&lengths_incr=1", "bad_request"),
    ] {
        let answer = broker.get(&format!("channels?{query}"));
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!(error)), "{query}");
    }
    let empty = broker.get("channels?page=1").json();
    assert_eq!((&empty["items"], &empty["page_count"]), (&json!([]), &json!(0)));
}
