use super::*;
use crate::{
    operation::{LENGTH_MAX, Operation, Settle},
    wire::Event,
};

/// Two clients with a channel each, and a durable queue `q` of which both know.
fn model() -> Model {
    let connections = vec![Connection::default(), Connection::default()];
    let mut model = Model { connections, ..Model::default() };
    for client in 0..2 {
        done(&mut model, client, Operation::OpenChannel);
        done(&mut model, client, declare("q"));
    }
    model
}

fn declare(queue: &str) -> Operation {
    Operation::Declare { queue: queue.into(), durable: !queue.starts_with("transient") }
}

fn delete(queue: &str) -> Operation {
    Operation::Delete { queue: queue.into() }
}

fn bind(queue: &str) -> Operation {
    Operation::Bind { queue: queue.into() }
}

fn unbind(queue: &str) -> Operation {
    Operation::Unbind { queue: queue.into() }
}

fn purge(queue: &str) -> Operation {
    Operation::Purge { queue: queue.into() }
}

/// The broker has read it, and the client no answer.
fn read(model: &mut Model, client: usize, operation: Operation) {
    model.read(client, 1, operation);
}

fn answer(model: &mut Model, client: usize, operation: &Operation) {
    let event = match operation {
        Operation::Declare { queue, .. } => {
            Event::DeclareOk { channel: 1, queue: queue.clone(), messages: 0, consumers: 0 }
        }
        operation => Event::Method { channel: 1, ids: operation.answer(), arguments: Vec::new() },
    };
    model.event(client, event);
}

fn done(model: &mut Model, client: usize, operation: Operation) {
    read(model, client, operation.clone());
    answer(model, client, &operation);
}

fn publish(model: &mut Model, queue: &str, id: u64) {
    let queue = Some(queue.to_owned());
    read(
        model,
        0,
        Operation::Publish { queue, id, persistent: true, mandatory: false, priority: 0, ttl_ms: None },
    );
}

/// Messages that are in the log for sure, at positions from 1.
fn publish_durably(model: &mut Model, queue: &str, ids: &[u64]) {
    for id in ids {
        publish(model, queue, *id);
        model.durable.insert(*id);
    }
}

/// The second client takes a message from a queue, and gets it with that delivery tag.
fn get(model: &mut Model, queue: &str, id: u64, tag: u64, redelivered: bool) {
    read(model, 1, Operation::Get { queue: queue.into(), no_ack: false });
    let left = model.queues[model.live[queue]].available().count() as u32 - 1;
    let (key, properties, body) = (String::new(), Vec::new(), id.to_be_bytes().to_vec());
    model.event(1, Event::GetOk { channel: 1, tag, redelivered, key, left, properties, body });
}

fn ack(tag: u64) -> Operation {
    Operation::Settle(Settle { tag, multiple: false, requeue: false, is_ack: true })
}

/// Messages by position, number and mark; the last of them was the last that the log knew.
fn found(messages: &[(u64, u64, bool)]) -> RecoveredQueue {
    let messages: Vec<_> = messages
        .iter()
        .map(|(position, id, redelivered)| RecoveredMessage {
            position: *position,
            place: *position,
            id: *id,
            redelivered: *redelivered,
            delivery_count: 0,
            held: None,
        })
        .collect();
    RecoveredQueue { next: 100, messages, ..RecoveredQueue::default() }
}

fn with(queues: &[(&str, RecoveredQueue)]) -> Recovered {
    queues.iter().map(|(name, queue)| ((*name).to_owned(), queue.clone())).collect()
}

fn only(queue: RecoveredQueue) -> Recovered {
    with(&[("q", queue)])
}

/// Whether a crash of what the story tells may leave that.
fn crash(story: impl Fn(&mut Model), synced: &Synced, recovered: &Recovered) -> Result<(), String> {
    let mut model = model();
    story(&mut model);
    model.try_crash(synced, recovered)
}

#[track_caller]
fn allowed(story: impl Fn(&mut Model), recovered: &Recovered) {
    assert_eq!(crash(story, &Synced::default(), recovered), Ok(()));
}

#[track_caller]
fn refused(story: impl Fn(&mut Model), recovered: &Recovered, reason: &str) {
    assert_eq!(crash(story, &Synced::default(), recovered), Err(reason.to_owned()));
}

#[test]
fn what_the_log_has_is_there_and_what_it_may_have_may_be() {
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10, 11]);
        publish(model, "q", 12);
        publish(model, "q", 13);
    };
    allowed(story, &only(found(&[(1, 10, false), (2, 11, false)])));
    allowed(story, &only(found(&[(1, 10, false), (2, 11, false), (4, 13, false)])));
    refused(story, &only(found(&[(2, 11, false), (3, 12, false)])), "10 is missing from q");
    refused(story, &only(found(&[(1, 10, false)])), "11 is missing from q");
    refused(story, &with(&[]), "q is gone");
}

#[test]
fn nothing_is_invented_doubled_or_disordered() {
    let story = |model: &mut Model| publish_durably(model, "q", &[10, 11]);
    let both = [(1, 10, false), (2, 11, false)];
    let more = [both[0], both[1], (3, 12, false)];
    refused(story, &only(found(&more)), "12 at 3 of q was never there");
    refused(story, &only(found(&[(1, 11, false), (2, 10, false)])), "11 at 1 of q was never there");
    refused(story, &only(found(&[both[1], both[0]])), "10 of q is out of order");
    refused(story, &only(found(&[both[0], both[0], both[1]])), "10 of q is out of order");
    refused(story, &with(&[("q", found(&both)), ("r", found(&[]))]), "there is r, which was never declared");
    let early = RecoveredQueue { next: 2, ..found(&both) };
    refused(story, &only(early), "q will use a position twice");
}

#[test]
fn a_position_that_the_log_had_is_not_given_again() {
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        get(model, "q", 10, 1, false);
        read(model, 1, ack(1));
    };
    let queue = |next| only(RecoveredQueue { next, ..found(&[]) });
    allowed(story, &queue(2));
    refused(story, &queue(1), "q uses position 1 twice");
}

#[test]
fn what_is_transient_is_gone() {
    let story = |model: &mut Model| {
        done(model, 0, declare("transient"));
        let queue = Some("q".to_owned());
        read(
            model,
            0,
            Operation::Publish {
                queue,
                id: 10,
                persistent: false,
                mandatory: false,
                priority: 0,
                ttl_ms: None,
            },
        );
        publish(model, "transient", 11);
    };
    allowed(story, &only(found(&[])));
    refused(story, &only(found(&[(1, 10, false)])), "10 is back in q");
    let both = with(&[("q", found(&[])), ("transient", found(&[]))]);
    refused(story, &both, "transient is back");
}

#[test]
fn a_declaration_without_an_answer_may_be_lost() {
    let both = with(&[("q", found(&[])), ("r", found(&[]))]);
    let one = only(found(&[]));
    let story = |model: &mut Model| read(model, 0, declare("r"));
    allowed(story, &one);
    allowed(story, &both);
    let told = |model: &mut Model| done(model, 0, declare("r"));
    allowed(told, &both);
    refused(told, &one, "r is gone");
    // The other client was told of what the first one waits for.
    let other_told = |model: &mut Model| {
        read(model, 0, declare("r"));
        done(model, 1, declare("r"));
    };
    refused(other_told, &one, "r is gone");
}

#[test]
fn a_deletion_without_an_answer_may_be_lost_and_the_messages_with_it() {
    let full = only(found(&[(1, 10, false)]));
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        read(model, 0, delete("q"));
    };
    allowed(story, &full);
    allowed(story, &with(&[]));
    refused(story, &only(found(&[])), "10 is missing from q");
    let told = |model: &mut Model| {
        story(model);
        answer(model, 0, &delete("q"));
    };
    allowed(told, &with(&[]));
    refused(told, &full, "q is back");
    // There was nothing to delete any more.
    let other_told = |model: &mut Model| {
        story(model);
        done(model, 1, delete("q"));
    };
    refused(other_told, &full, "q is back");
}

#[test]
fn a_queue_that_was_declared_again_is_another() {
    let (old, new) = (only(found(&[(1, 10, false)])), only(found(&[(1, 11, false)])));
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        read(model, 0, delete("q"));
        read(model, 1, declare("q"));
    };
    let published = |model: &mut Model| {
        answer(model, 0, &delete("q"));
        publish_durably(model, "q", &[11]);
    };
    allowed(story, &old);
    allowed(story, &with(&[]));
    allowed(story, &only(found(&[])));
    let told = |model: &mut Model| {
        story(model);
        answer(model, 1, &declare("q"));
    };
    refused(told, &old, "10 at 1 of q was never there");
    refused(told, &with(&[]), "q is gone");
    let both_told = |model: &mut Model| {
        told(model);
        published(model);
    };
    allowed(both_told, &new);
    refused(both_told, &only(found(&[])), "11 is missing from q");
}

#[test]
fn what_was_acknowledged_is_gone_once_the_log_knows() {
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10, 11]);
        get(model, "q", 10, 1, false);
        get(model, "q", 11, 2, false);
        read(model, 1, ack(1));
    };
    let synced = Synced { settled: HashSet::from([(0, 1)]), ..Synced::default() };
    let (both, one) = (only(found(&[(1, 10, true), (2, 11, true)])), only(found(&[(2, 11, true)])));
    allowed(story, &both);
    allowed(story, &one);
    assert_eq!(crash(story, &synced, &one), Ok(()));
    assert_eq!(crash(story, &synced, &both), Err("10 is back in q".to_owned()));
    refused(story, &only(found(&[(1, 10, true)])), "11 is missing from q");
}

#[test]
fn settlements_of_another_queue_change_nothing() {
    let story = |model: &mut Model| {
        done(model, 0, declare("transient"));
        done(model, 0, declare("r"));
        publish_durably(model, "q", &[10]);
        publish_durably(model, "r", &[11]);
    };
    let synced = Synced { settled: HashSet::from([(1, 1)]), ..Synced::default() };
    let left = with(&[("q", found(&[(1, 10, false)])), ("r", found(&[]))]);
    assert_eq!(crash(story, &synced, &left), Ok(()));
}

#[test]
fn what_was_purged_is_gone_once_the_client_knows() {
    let (full, empty) = (only(found(&[(1, 10, false)])), only(found(&[])));
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        read(model, 0, purge("q"));
    };
    allowed(story, &full);
    allowed(story, &empty);
    let told = |model: &mut Model| {
        story(model);
        answer(model, 0, &purge("q"));
    };
    allowed(told, &empty);
    refused(told, &full, "10 is back in q");
    let later = |model: &mut Model| {
        told(model);
        publish_durably(model, "q", &[11]);
    };
    refused(later, &empty, "11 is missing from q");
}

#[test]
fn what_was_on_its_way_to_a_consumer_may_have_escaped_a_purge() {
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        done(model, 1, Operation::Consume { queue: "q".into(), tag: "c".into(), no_ack: true });
        done(model, 0, purge("q"));
    };
    allowed(story, &only(found(&[(1, 10, true)])));
    allowed(story, &only(found(&[])));
    // The acknowledgement may be lost, and the purge had not met it.
    let escaped = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        done(model, 1, Operation::Consume { queue: "q".into(), tag: "c".into(), no_ack: false });
        done(model, 0, purge("q"));
        let (consumer, key, body) = ("c".into(), String::new(), 10_u64.to_be_bytes().to_vec());
        let (redelivered, properties) = (false, Vec::new());
        model.event(1, Event::Deliver { channel: 1, consumer, tag: 1, redelivered, key, properties, body });
        read(model, 1, ack(1));
    };
    allowed(escaped, &only(found(&[(1, 10, true)])));
}

#[test]
fn a_transaction_is_nothing_until_it_is_committed() {
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        done(model, 1, Operation::Select);
        get(model, "q", 10, 1, false);
        read(model, 1, ack(1));
        let queue = Some("q".to_owned());
        read(
            model,
            1,
            Operation::Publish {
                queue,
                id: 11,
                persistent: true,
                mandatory: false,
                priority: 0,
                ttl_ms: None,
            },
        );
    };
    allowed(story, &only(found(&[(1, 10, true)])));
    refused(story, &only(found(&[])), "10 is missing from q");
    refused(story, &only(found(&[(1, 10, true), (2, 11, true)])), "11 at 2 of q was never there");
    let committed = |model: &mut Model| {
        story(model);
        read(model, 1, Operation::Commit);
    };
    allowed(committed, &only(found(&[(1, 10, true)])));
    allowed(committed, &only(found(&[(2, 11, false)])));
}

#[test]
fn a_commit_is_there_as_a_whole_or_not_at_all() {
    let committed = |model: &mut Model| {
        publish_durably(model, "q", &[10]);
        done(model, 1, Operation::Select);
        get(model, "q", 10, 1, false);
        read(model, 1, ack(1));
        for id in [11, 12] {
            let queue = Some("q".to_owned());
            let (persistent, mandatory, priority) = (true, false, 0);
            read(model, 1, Operation::Publish { queue, id, persistent, mandatory, priority, ttl_ms: None });
        }
        read(model, 1, Operation::Commit);
    };
    let both = [(2, 11, false), (3, 12, false)];
    allowed(committed, &only(found(&[(1, 10, true)])));
    allowed(committed, &only(found(&both)));
    refused(committed, &only(found(&both[..1])), "12 is missing from q");
    refused(committed, &only(found(&both[1..])), "11 is missing from q");
    refused(committed, &only(found(&[(1, 10, true), both[0], both[1]])), "10 is back in q");
}

#[test]
fn a_message_is_in_all_of_its_queues_or_in_none() {
    let story = |model: &mut Model| {
        done(model, 0, declare("r"));
        done(model, 0, bind("q"));
        done(model, 0, bind("r"));
        let (queue, id, persistent, mandatory, priority) = (None, 10, true, false, 0);
        read(model, 0, Operation::Publish { queue, id, persistent, mandatory, priority, ttl_ms: None });
    };
    let bound = |messages: &[_]| RecoveredQueue { is_bound: true, ..found(messages) };
    let message = [(1, 10, false)];
    allowed(story, &with(&[("q", bound(&[])), ("r", bound(&[]))]));
    allowed(story, &with(&[("q", bound(&message)), ("r", bound(&message))]));
    refused(story, &with(&[("q", bound(&message)), ("r", bound(&[]))]), "10 is missing from r");
}

#[test]
fn failed_deliveries_are_counted_as_far_as_the_log_knows() {
    let story = |model: &mut Model| {
        done(model, 0, declare("quorum-1"));
        publish_durably(model, "quorum-1", &[10]);
        model.queues[1].messages.get_mut(&1).expect("it is there").failed = 2;
        model.queues[1].was_delivered = true;
    };
    let synced = |count| Synced { returned: HashMap::from([((1, 1), count)]), ..Synced::default() };
    let counted = |delivery_count| {
        let mut queue = found(&[(1, 10, true)]);
        queue.messages[0].delivery_count = delivery_count;
        with(&[("q", found(&[])), ("quorum-1", queue)])
    };
    assert_eq!(crash(story, &synced(1), &counted(1)), Ok(()));
    assert_eq!(crash(story, &synced(1), &counted(2)), Ok(()));
    for wrong in [0, 3] {
        let broken = crash(story, &synced(1), &counted(wrong));
        assert_eq!(broken, Err(format!("10 of quorum-1 has failed {wrong} times, not 1 to 2")));
    }
}

#[test]
fn what_may_have_given_way_to_others_may_be_gone() {
    let ids: Vec<u64> = (1..=LENGTH_MAX as u64 + 1).collect();
    let story = |model: &mut Model| {
        done(model, 0, declare("bounded-1"));
        publish_durably(model, "bounded-1", &ids);
    };
    let left = |ids: &[u64]| {
        let messages: Vec<_> = ids.iter().map(|id| (*id, *id, false)).collect();
        with(&[("q", found(&[])), ("bounded-1", found(&messages))])
    };
    allowed(story, &left(&ids));
    allowed(story, &left(&ids[1..]));
    refused(story, &left(&ids[2..]), "2 is missing from bounded-1");
}

#[test]
fn a_queue_that_came_back_is_the_one_that_it_says() {
    let story = |model: &mut Model| {
        read(model, 0, delete("q"));
        read(model, 1, declare("q"));
    };
    let numbered = |number| only(RecoveredQueue { number: Some(number), ..found(&[]) });
    allowed(story, &numbered(0));
    allowed(story, &numbered(1));
    let told = |model: &mut Model| {
        story(model);
        answer(model, 1, &declare("q"));
    };
    refused(told, &numbered(0), "q is back");
}

#[test]
fn what_was_delivered_is_marked_once_the_log_knows() {
    let story = |model: &mut Model| {
        publish_durably(model, "q", &[10, 11]);
        get(model, "q", 10, 1, false);
    };
    let synced = Synced { delivered_up_to: HashMap::from([(0, 1)]), ..Synced::default() };
    let unmarked = only(found(&[(1, 10, false), (2, 11, false)]));
    let marked = only(found(&[(1, 10, true), (2, 11, false)]));
    for left in [&unmarked, &marked] {
        allowed(story, left);
    }
    assert_eq!(crash(story, &synced, &marked), Ok(()));
    let reason = "10 of q is not marked as redelivered";
    assert_eq!(crash(story, &synced, &unmarked), Err(reason.to_owned()));
    let gap = only(found(&[(1, 10, false), (2, 11, true)]));
    refused(story, &gap, "11 of q is marked as redelivered, and not the one before");
    let nobody_took = |model: &mut Model| publish_durably(model, "q", &[10, 11]);
    refused(nobody_took, &marked, "10 of q is marked as redelivered");
}

#[test]
fn a_binding_is_what_the_client_was_told_last_or_later() {
    let bound = only(RecoveredQueue { is_bound: true, ..found(&[]) });
    let unbound = only(found(&[]));
    let story = |model: &mut Model| read(model, 0, bind("q"));
    allowed(story, &bound);
    allowed(story, &unbound);
    let told = |model: &mut Model| done(model, 0, bind("q"));
    allowed(told, &bound);
    refused(told, &unbound, "q is not bound");
    let undone = |model: &mut Model| {
        told(model);
        read(model, 0, unbind("q"));
    };
    allowed(undone, &bound);
    allowed(undone, &unbound);
    let undone_told = |model: &mut Model| {
        undone(model);
        answer(model, 0, &unbind("q"));
    };
    allowed(undone_told, &unbound);
    refused(undone_told, &bound, "q is bound");
}

/// A model of a broker that has begun again with two messages, one of them marked.
fn restarted() -> Model {
    let mut model = model();
    publish_durably(&mut model, "q", &[10, 11]);
    publish(&mut model, "q", 12);
    get(&mut model, "q", 10, 1, false);
    let synced = Synced { delivered_up_to: HashMap::from([(0, 1)]), ..Synced::default() };
    model.crash(&synced, &only(found(&[(1, 10, true), (2, 11, false)])));
    assert!(model.connections.iter().all(|connection| connection.is_closed));
    model.connections = vec![Connection::default(), Connection::default()];
    (0..2).for_each(|client| done(&mut model, client, Operation::OpenChannel));
    model
}

#[test]
fn after_a_crash_everything_goes_on() {
    let mut model = restarted();
    publish_durably(&mut model, "q", &[13]);
    get(&mut model, "q", 10, 1, true);
    get(&mut model, "q", 11, 2, false);
    read(&mut model, 1, ack(2));
    let left = found(&[(1, 10, true), (100, 13, false)]);
    assert_eq!(model.try_crash(&Synced::default(), &only(RecoveredQueue { next: 101, ..left })), Ok(()));
}

#[test]
fn what_the_log_knew_of_deliveries_holds_after_another_crash() {
    let unmarked = only(found(&[(1, 10, false), (2, 11, false)]));
    let broken = restarted().try_crash(&Synced::default(), &unmarked);
    assert_eq!(broken, Err("10 of q is not marked as redelivered".to_owned()));
}

#[test]
#[should_panic(expected = "10 was delivered before")]
fn after_a_crash_a_marked_message_comes_marked() {
    get(&mut restarted(), "q", 10, 1, false);
}

#[test]
#[should_panic(expected = "11 was never delivered before")]
fn after_a_crash_an_unmarked_message_comes_unmarked() {
    let mut model = restarted();
    get(&mut model, "q", 10, 1, true);
    get(&mut model, "q", 11, 2, true);
}

#[test]
#[should_panic(expected = "nothing is invented")]
fn after_a_crash_what_was_lost_does_not_come() {
    let mut model = restarted();
    get(&mut model, "q", 10, 1, true);
    get(&mut model, "q", 12, 2, false);
}

#[test]
#[should_panic(expected = "after a crash q is gone")]
fn a_broken_promise_ends_the_test() {
    model().crash(&Synced::default(), &with(&[]));
}
