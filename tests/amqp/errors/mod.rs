//! THE table: a row for every way to be refused, with what is closed, the code, the text and the method it blames.
//!
//! A row's name starts with the part of the protocol it belongs to: A1 framing, A2 connection, A3 channel, A4 exchange,
//! A5 queue, A6 basic, A7 tx and confirm, B1 the arguments of a queue, B2 those of a consumer, P permissions. In texts
//! and in names of queues and exchanges `{n}` stands for a name of the row's own.

mod arguments;
mod basic;
mod exchange;
mod framing;
mod permissions;
mod queue;
mod session;

use std::sync::Arc;

use amq_protocol::protocol::{basic as class_basic, channel, connection};

use crate::{
    broker::{TestBroker, is_external, shared},
    wire::{Close, Login, Method, Refusal, Wire, prefetch, unique},
};

/// The rows of one part.
#[derive(Default)]
struct Table {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    expected: Expected,
    login: Login,
    // Another broker is known to answer otherwise.
    is_deviation: bool,
    act: Box<dyn Fn(&mut Scene)>,
}

enum Expected {
    /// Refused exactly so; the name is filled in.
    Refusal(Refusal),
    /// The connection is closed with this code, the text is our own.
    ConnectionCode(u16),
    /// Answered by this method.
    Answer(&'static str),
}

/// What a row acts on: a connection with channels 1 and 2 open, and a name.
struct Scene {
    wire: Wire,
    other: Option<Wire>,
    name: String,
}

impl Scene {
    /// Sends a method on channel 1.
    fn send(&mut self, method: impl Method) {
        self.wire.send(1, method);
    }

    /// Sends a method on channel 1 that must be answered, not refused.
    fn done(&mut self, method: impl Method) {
        self.wire.send(1, method);
        let (_, event) = self.wire.event();
        assert!(!event.contains("Close"), "{}: {event}", self.name);
    }

    /// Has another connection do this first. It stays open until the row is over.
    fn elsewhere(&mut self, method: impl Method) {
        let other = self.other.get_or_insert_with(|| Wire::open(&shared()));
        other.send(1, method);
        let (_, event) = other.event();
        assert!(!event.contains("Close"), "{}: {event}", self.name);
    }
}

impl Table {
    /// Channel 1 is closed.
    fn channel(&mut self, name: &str, close: (u16, &str, u16, u16), act: impl Fn(&mut Scene) + 'static) {
        self.add(name, Expected::Refusal(Refusal::Channel(1, new_close(close))), act);
    }

    /// The connection is closed.
    fn connection(&mut self, name: &str, close: (u16, &str, u16, u16), act: impl Fn(&mut Scene) + 'static) {
        self.add(name, Expected::Refusal(Refusal::Connection(new_close(close))), act);
    }

    /// Deviation: our connection is closed with this code where RabbitMQ only ends the stream or says 541.
    fn connection_code(&mut self, name: &str, code: u16, act: impl Fn(&mut Scene) + 'static) {
        self.add(name, Expected::ConnectionCode(code), act);
        self.mark_deviation();
    }

    /// Nothing is refused: channel 1 hears this.
    fn answer(&mut self, name: &str, answer: &'static str, act: impl Fn(&mut Scene) + 'static) {
        self.add(name, Expected::Answer(answer), act);
    }

    /// The last row is ours alone.
    fn mark_deviation(&mut self) {
        self.rows.last_mut().expect("a row").is_deviation = true;
    }

    /// The last row is for this user.
    fn login(&mut self, login: Login) {
        self.rows.last_mut().expect("a row").login = login;
    }

    fn add(&mut self, name: &str, expected: Expected, act: impl Fn(&mut Scene) + 'static) {
        let (name, login) = (name.to_owned(), Login::default());
        self.rows.push(Row { name, expected, login, is_deviation: false, act: Box::new(act) });
    }

    /// Asks every row, and lists those that were answered otherwise.
    fn check(self) {
        let broker = shared();
        let rows = self.rows.iter().filter(|row| !(row.is_deviation && is_external()));
        let wrong: Vec<String> = rows.filter_map(|row| row.check(&broker).err()).collect();
        assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), self.rows.len(), wrong.join("\n"));
    }
}

impl Row {
    fn check(&self, broker: &Arc<TestBroker>) -> Result<(), String> {
        let prefix = if self.login.user == "bob" { "bob-row" } else { "row" };
        let mut wire = Wire::login(broker, &self.login);
        wire.open_channel(1);
        wire.open_channel(2);
        let mut scene = Scene { wire, other: None, name: unique(prefix) };
        (self.act)(&mut scene);
        match &self.expected {
            Expected::Answer(answer) => self.compare(*answer, scene.wire.event().1.as_str()),
            Expected::ConnectionCode(code) => match scene.wire.refusal() {
                Refusal::Connection(close) if close.code == *code => Ok(()),
                other => {
                    Err(format!("{}\n  expected connection.close {code}\n  got      {other:?}", self.name))
                }
            },
            Expected::Refusal(expected) => {
                let refusal = scene.wire.refusal();
                self.compare(&expected.named(&scene.name), &refusal.on_one_line())?;
                scene.goes_on_after(&refusal);
                Ok(())
            }
        }
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&self, expected: T, got: T) -> Result<(), String> {
        if expected == got {
            return Ok(());
        }
        Err(format!("{}\n  expected {expected:?}\n  got      {got:?}", self.name))
    }
}

impl Scene {
    /// A refused channel leaves its neighbour untouched and can be opened again; a refused connection ends.
    fn goes_on_after(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::Channel(channel, _) => {
                self.wire.send(*channel, channel::CloseOk {});
                self.wire.call::<class_basic::QosOk>(2, prefetch(1));
                self.wire.open_channel(*channel);
            }
            Refusal::Connection(_) if !is_external() => {
                self.wire.send(0, connection::CloseOk {});
                // After a broken frame nobody can tell where the next one starts: the end of our side will do.
                self.wire.finish();
                assert_eq!(self.wire.refusal(), Refusal::End, "after connection.close-ok");
            }
            _ => {}
        }
    }
}

impl Refusal {
    /// With the row's name in its text, cut where a short string ends.
    fn named(&self, name: &str) -> Self {
        self.with_text(|text| text.replace("{n}", name))
    }

    /// RabbitMQ breaks long Erlang terms into lines; we don't.
    fn on_one_line(&self) -> Self {
        self.with_text(|text| text.split('\n').map(str::trim_start).collect())
    }

    fn with_text(&self, change: impl Fn(&str) -> String) -> Self {
        let changed = |close: &Close| Close { text: change(&close.text), ..close.clone() };
        match self {
            Self::Channel(channel, close) => Self::Channel(*channel, changed(close)),
            Self::Connection(close) => Self::Connection(changed(close)),
            Self::End => Self::End,
        }
    }
}

fn new_close((code, text, class_id, method_id): (u16, &str, u16, u16)) -> Close {
    Close { code, text: text.to_owned(), class_id, method_id }
}
