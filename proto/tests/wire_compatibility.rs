//! An agent and a server of two versions must understand each other, so the wire may only grow. The
//! descriptor set of each released protocol is kept in `proto/released/`, and every later protocol is
//! held against all of them.

use std::{collections::BTreeMap, fs, path::Path};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use refit_proto::wire::DESCRIPTORS;

/// What two sides must agree on: fields by message and number, calls by service and name.
#[derive(Debug, Default, PartialEq)]
struct Protocol {
    fields: BTreeMap<(String, i32), String>,
    calls: BTreeMap<String, String>,
}

impl Protocol {
    fn read(bytes: &[u8]) -> Protocol {
        let set = FileDescriptorSet::decode(bytes).expect("a descriptor set");
        let mut protocol = Protocol::default();
        for file in set.file.iter().filter(|file| file.package() == "refit.v1") {
            for message in &file.message_type {
                protocol.add("", message);
            }
            for service in &file.service {
                for call in &service.method {
                    let name = format!("{}/{}", service.name(), call.name());
                    let shape = format!(
                        "{} stream={} -> {} stream={}",
                        call.input_type(),
                        call.client_streaming(),
                        call.output_type(),
                        call.server_streaming()
                    );
                    protocol.calls.insert(name, shape);
                }
            }
        }
        protocol
    }

    fn add(&mut self, outer: &str, message: &DescriptorProto) {
        let name = format!("{outer}{}", message.name());
        for field in &message.field {
            // A field may change its name, but not what it looks like on the wire.
            let shape = format!("{:?} {:?} {}", field.r#type(), field.label(), field.type_name());
            self.fields.insert((name.clone(), field.number()), shape);
        }
        for nested in &message.nested_type {
            self.add(&format!("{name}."), nested);
        }
    }

    /// What of `self` a later protocol does not have, or has otherwise.
    fn broken_by(&self, later: &Protocol) -> Vec<String> {
        let fields = self.fields.iter().filter(|(key, shape)| later.fields.get(key) != Some(shape));
        let fields = fields.map(|((message, number), shape)| {
            let now = later.fields.get(&(message.clone(), *number));
            format!("field {number} of {message} was {shape} and is {now:?}")
        });
        let calls = self.calls.iter().filter(|(name, shape)| later.calls.get(*name) != Some(shape));
        let calls = calls.map(|(name, shape)| {
            format!("call {name} was {shape} and is {:?}", later.calls.get(name))
        });
        fields.chain(calls).collect()
    }
}

#[test]
fn the_protocol_keeps_what_every_released_one_has() {
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("released");
    let now = Protocol::read(DESCRIPTORS);
    let mut held = 0;
    for file in fs::read_dir(released).expect("proto/released").map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "binpb") {
            continue;
        }
        let broken = Protocol::read(&fs::read(&file).unwrap()).broken_by(&now);
        assert!(
            broken.is_empty(),
            "{} cannot talk to this protocol any more:\n{}\n\
             help: add a new field or call instead, and keep the old one",
            file.display(),
            broken.join("\n")
        );
        held += 1;
    }
    assert!(held > 0, "proto/released holds no descriptor set");
}

#[test]
fn a_removed_or_changed_field_is_noticed_and_a_new_one_is_not() {
    let now = Protocol::read(DESCRIPTORS);
    let key = ("Report".to_owned(), 2);
    assert!(now.fields.contains_key(&key) && !now.calls.is_empty());
    let mut without = Protocol::read(DESCRIPTORS);
    without.fields.remove(&key);
    assert_eq!(now.broken_by(&without).len(), 1);
    assert!(without.broken_by(&now).is_empty());
    let mut changed = Protocol::read(DESCRIPTORS);
    changed.fields.insert(key, "String Optional".into());
    assert_eq!(now.broken_by(&changed).len(), 1);
}
