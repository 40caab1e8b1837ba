//! What belongs to what a release replaces: drop-ins of its units, and who owns it.

use super::*;

/// At the first check, the release or a person has changed these.
struct Meddling<'a> {
    alone: Alone<'a>,
    writes: &'a [(&'a str, &'a [u8])],
}

impl Host for Meddling<'_> {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        if matches!(step, Step::Watch { .. }) {
            for (path, bytes) in self.writes {
                put(&self.alone.world.files, Path::new(path), bytes, 0o644);
            }
        }
        self.alone.perform(step)
    }
}

#[test]
fn drop_ins_of_units_that_are_replaced_come_back_as_they_were_and_those_that_were_not_there_go() {
    let (mut world, update, two) = on_one();
    // Of a unit that stays, of one that goes with the release, and of one that nothing here has.
    put(&world.files, Path::new("/etc/units/web.service.d/10-more.conf"), b"[Service]", 0o640);
    put(&world.files, Path::new("/etc/units/old.service.d/10-more.conf"), b"[Unit]", 0o644);
    put(&world.files, Path::new("/etc/units/other.service.d/x.conf"), b"theirs", 0o644);
    world.files = world.files.fork();
    let before = world.outside();
    world.bad = Some(two.digest);
    let writes: [(&str, &[u8]); 4] = [
        ("/etc/units/web.service.d/10-more.conf", b"changed"),
        ("/etc/units/web.service.d/20-new.conf", b"added"),
        ("/etc/units/old.service.d/10-more.conf", b"changed"),
        ("/etc/units/new.service.d/10-new.conf", b"added"),
    ];
    let mut journal = world.journal.clone();
    let alone = Alone { machine: world.machine(), world: &mut world };
    let mut host = Meddling { alone, writes: &writes };
    let outcome = drive(update, &mut host, &mut journal, &mut ()).unwrap();
    let Outcome::RolledBack { failure, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(world.outside(), before);
    // What was written there meanwhile is kept, and named.
    assert!(failure.text.contains("/data/set-aside/i2/"), "{failure}");
    let kept = snapshot(&world.files, Path::new("/data/set-aside"));
    let names: Vec<_> = kept.keys().map(|path| path.display().to_string()).collect();
    for name in ["web.service.d/20-new.conf", "new.service.d/10-new.conf"] {
        assert!(names.iter().any(|it| it.ends_with(name)), "{name} of {names:?}");
    }
}

#[test]
fn a_backup_that_is_brought_back_belongs_to_the_users_of_the_same_names() {
    const CONF: &str = "/etc/payments/conf";
    let list = |world: &World, uid: u32, gid: u32| {
        let users = format!("root:x:0:0::/:/bin/sh\npay:x:{uid}:{gid}::/:/bin/sh\n");
        put(&world.files, Path::new("/etc/passwd"), users.as_bytes(), 0o644);
        let groups = format!("root:x:0:\npay:x:{gid}:\n");
        put(&world.files, Path::new("/etc/group"), groups.as_bytes(), 0o644);
    };
    let (mut world, update, _) = on_one();
    list(&world, 998, 997);
    world.files.set_owner(Path::new(CONF), 998, 997).unwrap();
    world.files = world.files.fork();
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    // The user was removed and made again since, and its group is unknown now.
    let users = b"pay:x:1200:997::/:/bin/sh\nother:x:998:998::/:/bin/sh\n";
    put(&world.files, Path::new("/etc/passwd"), users, 0o644);
    put(&world.files, Path::new("/etc/group"), b"other:x:998:\n", 0o644);
    let outcome = world.restore("i2").unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    let stat = world.files.stat(Path::new(CONF)).unwrap().unwrap();
    assert_eq!((stat.uid, stat.gid), (1200, 997));
}
