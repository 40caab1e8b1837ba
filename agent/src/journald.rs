//! The log as journald takes it: each line with its fields, so that `journalctl REFIT_PRODUCT=payments` finds what
//! belongs to a product. Only where stderr is the journal's own; else lines go to stderr.

use std::{
    fmt::{self, Write as _},
    io,
    os::unix::net::UnixDatagram,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Where journald takes lines with fields (systemd's "Native Journal Protocol").
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest value that is sent, bytes: a line must fit into one datagram.
const LONGEST: usize = 16 * 1024;

/// Sends each event to journald.
pub struct Journald(UnixDatagram);

impl Journald {
    /// If this process's stderr is the journal's (`JOURNAL_STREAM`) and journald can be reached.
    pub fn if_stderr_is_its() -> Option<Journald> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let about = rustix::fs::fstat(io::stderr()).ok()?;
        (stream == format!("{}:{}", about.st_dev, about.st_ino)).then_some(())?;
        Journald::at(SOCKET).ok()
    }

    fn at(path: &str) -> io::Result<Journald> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Journald(socket))
    }
}

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let datagram = fields.datagram(*event.metadata().level(), event.metadata().target());
        if self.0.send(&datagram).is_err() {
            // Better without fields than not at all.
            eprintln!("{}", fields.message);
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value.to_owned());
    }
}

impl Fields {
    fn add(&mut self, name: &'static str, mut value: String) {
        let mut end = value.len().min(LONGEST);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        value.truncate(end);
        match name {
            "message" => self.message = value,
            // At most ten: what is worth a name of its own is less.
            _ if self.others.len() < 10 => self.others.push((name, value)),
            _ => {}
        }
    }

    fn datagram(&self, level: Level, target: &str) -> Vec<u8> {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        // People read the message alone.
        let mut message = self.message.clone();
        for (name, value) in &self.others {
            // Writing to a string does not fail.
            let _ = write!(message, " {name}={value}");
        }
        let mut out = Vec::new();
        put(&mut out, "MESSAGE", &message);
        put(&mut out, "PRIORITY", priority);
        put(&mut out, "SYSLOG_IDENTIFIER", "refit-agent");
        put(&mut out, "REFIT_TARGET", target);
        for (name, value) in &self.others {
            put(&mut out, &field_name(name), value);
        }
        out
    }
}

/// `product` is `REFIT_PRODUCT`.
fn field_name(name: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().take(50).map(word).collect();
    format!("REFIT_{name}")
}

/// A field as the protocol has it: with a value of several lines, its length comes before it.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend((value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn a_line_reaches_journald_with_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let layer = Journald::at(path.to_str().unwrap()).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(product = %"payments", cause = "no-space", "/opt is full\nhelp: free it");
        });
        let mut buffer = [0; 4096];
        let read = journal.recv(&mut buffer).unwrap();
        let text = "/opt is full\nhelp: free it product=payments cause=no-space";
        let mut wanted = b"MESSAGE\n".to_vec();
        wanted.extend((text.len() as u64).to_le_bytes());
        wanted.extend(text.as_bytes());
        wanted.extend(b"\nPRIORITY=4\nSYSLOG_IDENTIFIER=refit-agent\nREFIT_TARGET=");
        assert!(
            buffer[..read].starts_with(&wanted),
            "{}",
            String::from_utf8_lossy(&buffer[..read])
        );
        let rest = String::from_utf8_lossy(&buffer[wanted.len()..read]).into_owned();
        assert!(rest.ends_with("\nREFIT_PRODUCT=payments\nREFIT_CAUSE=no-space\n"), "{rest}");
    }

    #[test]
    fn no_value_makes_a_field_of_its_own_and_none_is_endless() {
        let mut fields = Fields::default();
        fields.add("message", "x".repeat(100_000));
        fields.add("path", "a\nPRIORITY=0\nREFIT_CAUSE=lie".to_owned());
        let datagram = fields.datagram(Level::INFO, "t");
        assert!(datagram.len() < 64 * 1024);
        let text = String::from_utf8_lossy(&datagram).into_owned();
        assert!(text.contains("REFIT_PATH\n"), "its length is said before it");
        assert!(!text.contains("REFIT_PATH=a"));
        assert_eq!(field_name("a-b.c"), "REFIT_A_B_C");
    }
}
