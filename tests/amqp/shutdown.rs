//! How the broker ends, or does not begin.

use std::process::{Command, Output};

use crate::{
    broker::{TestBroker, is_external},
    wire::{Close, Incoming, Login, Refusal, Wire},
};

use amq_protocol::protocol::connection::CloseOk;

#[test]
fn sigterm_closes_clients_and_exits_cleanly() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::open(&broker)).collect();
    broker.terminate();
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'".to_owned();
    let close = Close { code: 320, text, class_id: 0, method_id: 0 };
    for wire in &mut clients {
        assert_eq!(wire.refusal(), Refusal::Connection(close.clone()));
        wire.send(0, CloseOk {});
        assert_eq!(wire.next(), Incoming::End);
    }
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn clients_that_do_not_answer_do_not_keep_it() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let _silent = Wire::open(&broker);
    let _halfway = Wire::tuned(&broker, &Login::default());
    let _unknown = Wire::tcp(&broker);
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn a_data_directory_is_for_one_at_a_time() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let data_dir = broker.data_dir();
    let leveret = |arguments: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.current_dir(data_dir.parent().expect("a parent")).args(arguments).output().expect("run it")
    };
    // One that is let in after all ends at its ready file.
    let start = ["--amqp-port", "0", "--ready-file", "no/such/file"];
    for arguments in [&start[..], &[&start[..], &["--salvage"]].concat(), &["fsck"]] {
        let output = leveret(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{arguments:?}: {message}");
        assert!(message.contains("is in use by another broker"), "{message}");
    }
    Wire::open(&broker);
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    let output = leveret(&["fsck"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
