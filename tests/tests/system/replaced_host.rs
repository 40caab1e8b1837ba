//! What stands beside a release on a booted Debian host, and is replaced with it: drop-ins of its unit, files of
//! others with all that a file system keeps of them, and the user that they belong to. Gone back, by the agent or
//! without it, it all is as it was.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use refit_tests::wait::until;
use rustix::fs::{XattrFlags, lgetxattr, setxattr};

use super::kinds::{Lab, write};

/// The product's unit, and what an administrator says of it.
const DROP_INS: &str = "/etc/systemd/system/ledger.service.d";
const DROP_IN: &str = "[Service]\nLimitNOFILE=4321\nEnvironment=LEDGER=ours\n";

/// What a hook of the new release makes of all that: a drop-in of its own, other owners and modes, and the user
/// with other numbers.
const REPLACES: &str = "set -e
cd /etc/systemd/system/ledger.service.d
rm 10-ours.conf
printf '[Service]\\nLimitNOFILE=99\\nEnvironment=LEDGER=theirs\\n' >20-theirs.conf
cd /etc/ledger
printf 'theirs' >key
rm tool link
chown -R root:root .
chmod 0777 key && chmod 00777 .
userdel ledger
getent group ledgers >/dev/null && groupdel ledgers
groupadd --gid $GROUP ledgers
useradd --no-log-init --no-create-home --uid $USER --gid ledgers ledger
";

/// Of the kernel's version 2: root and the group as the mode says, and `daemon` (1) may read.
fn access_list() -> Vec<u8> {
    let nobody = u32::MAX;
    let entries =
        [(1u16, 6u16, nobody), (2, 4, 1), (4, 4, nobody), (16, 4, nobody), (32, 0, nobody)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(may.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `cap_net_bind_service=ep`, as version 2 has it.
fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 10, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

const ATTRIBUTES: [&str; 4] =
    ["system.posix_acl_access", "system.posix_acl_default", "security.capability", "user.note"];

/// All that can be seen of a place: kind, names of its owners, mode, second names, content, attributes.
type Seen = BTreeMap<PathBuf, String>;

impl Lab {
    fn there(&self, path: &str) -> PathBuf {
        self.host.root().join(path.trim_start_matches('/'))
    }

    /// Files as their administrators left them.
    fn put_what_is_replaced(&self) {
        self.host.write(&format!("{DROP_INS}/10-ours.conf"), DROP_IN).unwrap();
        self.host.good(["chmod", "0640", &format!("{DROP_INS}/10-ours.conf")]).unwrap();
        self.host.write("/etc/ledger/key", "ours").unwrap();
        self.host.write("/etc/ledger/tool", "#!/bin/sh\n").unwrap();
        symlink("key", self.there("/etc/ledger/link")).unwrap();
        fs::hard_link(self.there("/etc/ledger/key"), self.there("/etc/ledger/second")).unwrap();
        let owned = "cd /etc/ledger && chown ledger:ledgers . key && chown -h ledger:ledgers link && \
                     chown root:ledgers tool && chmod 2750 . && chmod 0640 key && chmod 0710 tool";
        self.host.good(["sh", "-c", owned]).unwrap();
        let set = |path: &str, name: &str, value: &[u8]| {
            setxattr(self.there(path), name, value, XattrFlags::empty()).unwrap();
        };
        set("/etc/ledger/key", ATTRIBUTES[0], &access_list());
        set("/etc/ledger", ATTRIBUTES[1], &access_list());
        set("/etc/ledger/tool", ATTRIBUTES[2], &capability());
        set("/etc/ledger/key", ATTRIBUTES[3], b"keep \0 this");
        set(&format!("{DROP_INS}/10-ours.conf"), ATTRIBUTES[3], b"and this");
        self.host.good(["systemctl", "daemon-reload"]).unwrap();
        self.host.good(["systemctl", "restart", "ledger"]).unwrap();
    }

    fn seen(&self) -> Seen {
        let list =
            format!("find {DROP_INS} /etc/ledger -printf '%p\\t%y %U-is-%u %G-is-%g %m %n %l\\n'");
        let listed = self.host.good(["sh", "-c", &list]).unwrap();
        let place = |line: &str| {
            let (path, shown) = line.split_once('\t').unwrap();
            let there = self.there(path);
            let content = if there.is_file() { fs::read(&there).unwrap() } else { Vec::new() };
            let attributes = ATTRIBUTES.map(|name| attribute(&there, name));
            (PathBuf::from(path), format!("{shown} {content:?} {attributes:?}"))
        };
        listed.lines().map(place).collect()
    }

    /// What the service runs with, by systemd and by its process itself.
    fn in_effect(&self) -> String {
        let shown = ["systemctl", "show", "-p", "LimitNOFILE,Environment,DropInPaths", "ledger"];
        let shown = self.host.good(shown).unwrap();
        let of_process = "pid=$(systemctl show -P MainPID ledger); grep 'open files' /proc/$pid/limits; \
                          tr '\\0' '\\n' </proc/$pid/environ | grep LEDGER; stat -c %U /proc/$pid";
        format!("{shown}{}", self.host.good(["sh", "-c", of_process]).unwrap())
    }

    fn promote_ledger(&self, version: &str, hook: &str, good_seconds: u32) {
        let source = self.fleet.path().join(format!("source-{version}"));
        write(&source.join("tree"), "share/version", version, 0o644);
        let hook = match hook {
            "" => String::new(),
            script => format!(
                "[[hooks]]\nwhen = \"before-switch\"\ntimeout_seconds = 60\nwrites = [\"/etc\"]\n\
                 command = [\"/bin/bash\", \"-c\", {script:?}]\n"
            ),
        };
        let text = format!(
            "[[services]]\nname = \"ledger\"\nuser = \"ledger\"\ncommand = [\"/usr/bin/sleep\", \"infinity\"]\n\n\
             [backup]\npaths = [\"/etc/ledger\"]\n\n{hook}\n[health.checked]\nstart_seconds = 1\n\
             interval_seconds = 1\nfailures = 2\ngood_seconds = {good_seconds}\nmax_seconds = 600\n\n\
             [[health.checked.checks]]\nname = \"works\"\nkind = \"command\"\n\
             command = [\"/usr/bin/test\", \"!\", \"-e\", \"/root/bad\"]\n"
        );
        self.promote_written(&source, &text, version);
    }

    /// Lets the release loose that replaces all of it, and waits until that runs.
    fn replace(&self, version: &str, numbers: (u32, u32)) {
        let (user, group) = numbers;
        let hook = REPLACES.replace("$USER", &user.to_string());
        self.promote_ledger(version, &hook.replace("$GROUP", &group.to_string()), 500);
        self.until_phase(version, "probation");
        let now = self.in_effect();
        assert!(now.contains("LimitNOFILE=99\n") && now.contains("LEDGER=theirs"), "{now}");
        assert_eq!(fs::read(self.there("/etc/ledger/key")).unwrap(), b"theirs");
        assert!(!self.there("/etc/ledger/tool").exists());
    }

    /// All is as it was, and belongs to the user of that name with the number it has now.
    fn is_as_before(&self, seen: &Seen, in_effect: &str, numbers: (u32, u32)) {
        let owner = fs::metadata(self.there("/etc/ledger/key")).unwrap();
        assert_eq!((owner.uid(), owner.gid()), numbers);
        let numbered = |seen: &Seen| -> Vec<String> {
            let (user, group) = numbers;
            let of = |text: &str| {
                let words: Vec<_> = text.split(' ').collect();
                let named = words.iter().map(|word| match word.split_once("-is-") {
                    Some((_, "ledger")) => format!("{user}-is-ledger"),
                    Some((_, "ledgers")) => format!("{group}-is-ledgers"),
                    Some(_) | None => (*word).to_owned(),
                });
                named.collect::<Vec<_>>().join(" ")
            };
            seen.iter().map(|(path, text)| format!("{} {}", path.display(), of(text))).collect()
        };
        let now: Vec<_> =
            self.seen().iter().map(|(path, text)| format!("{} {text}", path.display())).collect();
        assert_eq!(now, numbered(seen));
        until("the service runs as before", || {
            let now = self.in_effect();
            anyhow::ensure!(now == in_effect, "{now}");
            Ok(Some(()))
        })
        .unwrap();
    }
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn drop_ins_owners_by_name_modes_access_lists_attributes_and_capabilities_are_as_they_were() {
    let claim = "what a release replaces beside its own files, on a booted Debian host";
    let Some(lab) = Lab::boot(claim) else { return };
    let made =
        "groupadd --gid 4100 ledgers && useradd --no-log-init --uid 4000 --gid ledgers ledger";
    lab.host.good(["sh", "-c", made]).unwrap();
    lab.promote_ledger("1.0", "", 1);
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
    lab.put_what_is_replaced();
    let (seen, in_effect) = (lab.seen(), lab.in_effect());
    let all = format!("{seen:?}\n{in_effect}");
    for part in ["4000-is-ledger", "4100-is-ledgers", "LimitNOFILE=4321", "LEDGER=ours", "10-ours"]
    {
        assert!(all.contains(part), "{part} in {all}");
    }
    let places = ["/etc/ledger/key", "/etc/ledger", "/etc/ledger/tool", "/etc/ledger/key"];
    for (path, name) in places.into_iter().zip(ATTRIBUTES) {
        assert!(attribute(&lab.there(path), name).is_some(), "{path} has no {name}");
    }

    lab.replace("1.1", (4001, 4101));
    lab.host.good(["touch", "/root/bad"]).unwrap();
    lab.until_reports("1.1", &["rolled-back", "health-check-failed"]);
    lab.is_as_before(&seen, &in_effect, (4001, 4101));

    lab.host.good(["rm", "/root/bad"]).unwrap();
    lab.replace("1.2", (4002, 4102));
    lab.host.good(["systemctl", "stop", "refit-agent"]).unwrap();
    lab.until_reports("1.2", &["rolled-back", "refit-rescue brought the host back"]);
    lab.is_as_before(&seen, &in_effect, (4002, 4102));
}
