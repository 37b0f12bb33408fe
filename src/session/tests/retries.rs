//! Retries that are put off, as clients see them.

use super::*;

/// A client that has got a message of a queue whose retries are put off for a second.
fn holding(broker: &Arc<Broker>) -> Script {
    let mut script = Script::with_channel(broker);
    script.send(1, wire::declare_queue_with("q", 0, &wire::text_field("x-retry-delays", "1s")));
    script.next();
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"1");
    script.send(1, wire::get("q", false));
    assert!(matches!(script.next(), Some(Event::GetOk { .. })));
    script
}

#[test]
fn a_retry_is_put_off_from_when_its_client_is_gone() {
    let ends: [fn(&mut Script, Now); 2] = [
        |script, now| script.session.handle_disconnect(now),
        |script, now| script.session.close_forced("bye", now),
    ];
    for end in ends {
        let broker = broker(limits());
        let mut script = holding(&broker);
        let gone_ms = script.now_ms + 3_600_000;
        end(&mut script, Now::made_up(gone_ms));
        for (at_ms, count) in [(gone_ms + 999, 0), (gone_ms + 1000, 1)] {
            broker.tick(Now::made_up(at_ms));
            let mut other = Script::with_channel(&broker);
            assert_eq!(other.count("q"), count);
        }
    }
}
