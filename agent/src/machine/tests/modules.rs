//! Update modules on a real disk: a module that writes down what it is called for, against a table of orders.
//! It fails, is killed, or the power goes, in each state in turn; what it was called for is compared with what
//! Mender's client would call it for, and the host with what it was.

use std::{fs, os::unix::fs::PermissionsExt as _};

use refit_proto::package::MenderPayload;

use super::*;
use crate::host::{
    files::RealFiles,
    modules::{Caller, Calls, HostCalls, Part, State, UnitBack},
    tree::testing::folder,
};

/// One letter for each call. `r` is a boot by the host.
const LETTERS: [(char, &str); 14] = [
    ('S', "ProvidePayloadFileSizes"),
    ('D', "Download"),
    ('W', "DownloadWithFileSizes"),
    ('I', "ArtifactInstall"),
    ('n', "NeedsArtifactReboot"),
    ('B', "ArtifactReboot"),
    ('V', "ArtifactVerifyReboot"),
    ('C', "ArtifactCommit"),
    ('s', "SupportsRollback"),
    ('K', "ArtifactRollback"),
    ('b', "ArtifactRollbackReboot"),
    ('v', "ArtifactVerifyRollbackReboot"),
    ('F', "ArtifactFailure"),
    ('X', "Cleanup"),
];

/// Per line: what it answers to `NeedsArtifactReboot` and `SupportsRollback`; in which states it fails the
/// first time, and in which the power goes the first time (or the program that goes back is killed); what it
/// is called for; and how the update ends: `+` committed, `-` rolled back, `!` stuck.
///
/// As Mender's client does it, but for two: a cut in Download is cleaned up and begun again, and not a
/// failure; and boots on the way back end after ten.
const ORDERS: &str = "
    No        Yes  -  -  SDInCX         +
    No        Yes  S  -  SX             -
    No        Yes  D  -  SDX            -
    No        Yes  I  -  SDIsKnFX       -
    No        Yes  n  -  SDInsKnFX      -
    No        Yes  C  -  SDInCsKnFX     -
    No        Yes  X  -  SDInCX         +
    No        Yes  Is -  SDIsFX         -
    No        Yes  IK -  SDIsKFX        -
    No        Yes  IF -  SDIsKnFX       -
    No        Yes  IX -  SDIsKnFX       -
    No        Yes  CK -  SDInCsKFX      -
    No        Yes  -  S  SXSDInCX       +
    No        Yes  -  D  SDXSDInCX      +
    No        Yes  -  I  SDIsKnFX       -
    No        Yes  -  n  SDInsKnFX      -
    No        Yes  -  C  SDInCsKnFX     -
    No        Yes  -  X  SDInCXX        +
    No        Yes  I  s  SDIssKnFX      -
    No        Yes  I  K  SDIsKKnFX      -
    No        Yes  I  F  SDIsKnFFX      -
    No        Yes  I  X  SDIsKnFXX      -
    No        Yes  C  K  SDInCsKKnFX    -
    No        Yes  D  X  SDXX           -
    No        No   -  -  SDInCX         +
    No        No   S  -  SX             -
    No        No   D  -  SDX            -
    No        No   I  -  SDIsFX         -
    No        No   n  -  SDInsFX        -
    No        No   C  -  SDInCsFX       -
    No        No   IF -  SDIsFX         -
    No        No   -  I  SDIsFX         -
    No        No   -  n  SDInsFX        -
    No        No   -  C  SDInCsFX       -
    No        No   I  s  SDIssFX        -
    No        No   I  F  SDIsFFX        -
    No        No   I  X  SDIsFXX        -
    Yes       Yes  -  -  SDInBVCX       +
    Yes       Yes  I  -  SDIsKnbvFX     -
    Yes       Yes  n  -  SDInsKnbvFX    -
    Yes       Yes  B  -  SDInBsKnbvFX   -
    Yes       Yes  V  -  SDInBVsKnbvFX  -
    Yes       Yes  C  -  SDInBVCsKnbvFX -
    Yes       Yes  Vb -  SDInBVsKnbvFX  -
    Yes       Yes  Vv -  SDInBVsKnbvbvFX -
    Yes       Yes  VK -  SDInBVsKFX     -
    Yes       Yes  Vs -  SDInBVsFX      -
    Yes       Yes  VF -  SDInBVsKnbvFX  -
    Yes       Yes  VX -  SDInBVsKnbvFX  -
    Yes       Yes  -  S  SXSDInBVCX     +
    Yes       Yes  -  D  SDXSDInBVCX    +
    Yes       Yes  -  I  SDIsKnbvFX     -
    Yes       Yes  -  n  SDInsKnbvFX    -
    Yes       Yes  -  B  SDInBVCX       +
    Yes       Yes  -  V  SDInBVsKnbvFX  -
    Yes       Yes  -  C  SDInBVCsKnbvFX -
    Yes       Yes  -  X  SDInBVCXX      +
    Yes       Yes  V  s  SDInBVssKnbvFX -
    Yes       Yes  V  K  SDInBVsKKnbvFX -
    Yes       Yes  V  b  SDInBVsKnbvFX  -
    Yes       Yes  V  v  SDInBVsKnbvvFX -
    Yes       Yes  V  F  SDInBVsKnbvFFX -
    Yes       Yes  V  X  SDInBVsKnbvFXX -
    Yes       No   -  -  SDInBVCX       +
    Yes       No   I  -  SDIsFX         -
    Yes       No   B  -  SDInBsFX       -
    Yes       No   V  -  SDInBVsFX      -
    Yes       No   C  -  SDInBVCsFX     -
    Yes       No   -  I  SDIsFX         -
    Yes       No   -  B  SDInBVCX       +
    Yes       No   -  V  SDInBVsFX      -
    Yes       No   V  F  SDInBVsFFX     -
    Yes       No   V  X  SDInBVsFXX     -
    Automatic Yes  -  -  SDInrVCX       +
    Automatic Yes  I  -  SDIsKnrvFX     -
    Automatic Yes  V  -  SDInrVsKnrvFX  -
    Automatic Yes  C  -  SDInrVCsKnrvFX -
    Automatic Yes  Vv -  SDInrVsKnrvrvFX -
    Automatic Yes  VK -  SDInrVsKFX     -
    Automatic Yes  -  I  SDIsKnrvFX     -
    Automatic Yes  -  V  SDInrVsKnrvFX  -
    Automatic Yes  -  C  SDInrVCsKnrvFX -
    Automatic Yes  V  v  SDInrVsKnrvvFX -
    Automatic No   -  -  SDInrVCX       +
    Automatic No   V  -  SDInrVsFX      -
    Automatic No   C  -  SDInrVCsFX     -
    Nothing   Yes  -  -  SDInCX         +
    Maybe     Yes  -  -  SDInsKnFX      -
    Lines     Yes  -  -  SDInsKnFX      -
    No        Automatic I - SDIsFX      -
    No        Maybe I -  SDIsFX         -
    No        Lines I -  SDIsFX         -
    No        Nothing I - SDIsFX        -
";

fn name_of(letter: char) -> &'static str {
    LETTERS.iter().find(|(known, _)| *known == letter).unwrap().1
}

/// The module. What it is to do in a state stands in files beside its log.
const MODULE: &str = r#"#!/bin/sh
dir=@DIR@ tree=$2
[ "$#" = 2 ] && [ "$(pwd)" = "$tree" ] && [ "$(cat "$tree/version")" = 3 ] || exit 99
echo "$1" >>"$dir/log"
case $1 in
NeedsArtifactReboot | SupportsRollback | ProvidePayloadFileSizes) [ ! -e "$dir/answer-$1" ] || cat "$dir/answer-$1" ;;
Download*)
  if [ -e "$dir/streams" ]; then
    while next=$(cat stream-next) && [ -n "$next" ]; do
      echo "$next" >>"$dir/named"
      cat "${next%% *}" >"tmp/$(basename "${next%% *}")"
    done
  fi
  ;;
ArtifactInstall)
  if [ -e "$dir/streams" ]; then from=tmp; else from=files; fi
  cat "$from/thing" >"$dir/etc/thing"
  # What it forgets to take back.
  echo more >"$dir/etc/more/forgotten"
  ;;
ArtifactRollback) rm -f "$dir/etc/thing"; [ ! -e "$dir/old" ] || cp -p "$dir/old" "$dir/etc/thing" ;;
esac
if [ -e "$dir/kill-$1" ]; then
  rm "$dir/kill-$1"
  kill -9 "$(cut -d' ' -f4 /proc/$PPID/stat)"
  exit 0
fi
[ ! -e "$dir/hang-$1" ] || sleep 600
[ ! -e "$dir/always-$1" ] || exit 4
[ ! -e "$dir/fail-$1" ] || { rm "$dir/fail-$1"; echo "it is said to fail in $1"; exit 3; }
exit 0
"#;

/// What a systemd does that is asked for the units of a way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Systemd {
    /// All that is wanted.
    Starts,
    /// It lives, and starts no unit.
    StartsNone,
    /// Nobody answers.
    IsGone,
    /// It starts units, and says nothing more from then on.
    GoesAway,
    /// It has not started the unit yet when `systemd-run` ends, and will.
    IsLate,
}

/// A `systemd-run` that does what its options say, as far as the module can tell.
const STARTS: &str = r#"
for word; do
  case $word in
  --working-directory=*) cd "${word#*=}" || exit 1 ;;
  --property=StandardOutput=append:*) out=${word#*append:} ;;
  --property=StandardError=append:*) err=${word#*append:} ;;
  --unit=*) unit=${word#*=} ;;
  esac
  shift
  [ "$word" != -- ] || break
done
[ -n "$unit" ] || exit 1
printf 'ExecMainPID=77
Job=
Result=exit-code
' >@DIR@began
exec "$@" >>"$out" 2>>"$err"
"#;

/// A host on a real disk, with power that can go in a call.
struct Bench {
    dir: tempfile::TempDir,
    boots: Arc<AtomicU64>,
    cut: Arc<Mutex<BTreeSet<&'static str>>>,
    dark: Arc<Mutex<bool>>,
    frames: Frames,
    releases: BTreeMap<Digest, Vec<u8>>,
    journal: MemoryJournal,
    running: Arc<Mutex<BTreeSet<String>>>,
    time: Arc<AtomicU64>,
}

/// Calls, in one of which the power goes.
struct CutCalls {
    cut: Arc<Mutex<BTreeSet<&'static str>>>,
    dark: Arc<Mutex<bool>>,
    boots: PathBuf,
    systemd_run: Option<PathBuf>,
}

impl CutCalls {
    fn after<T>(&self, state: State, result: Result<T, String>) -> Result<T, String> {
        if self.cut.lock().unwrap().remove(state.as_str()) {
            *self.dark.lock().unwrap() = true;
            // Nothing is done any more, not even what an error leads to.
            std::panic::resume_unwind(Box::new("no power"));
        }
        result
    }
}

impl Calls for CutCalls {
    fn act(&self, caller: &Caller, state: State) -> Result<(), String> {
        self.after(state, HostCalls::Own.act(caller, state))
    }

    fn query(&self, caller: &Caller, state: State) -> Result<String, String> {
        self.after(state, HostCalls::Own.query(caller, state))
    }

    fn download(
        &self,
        files: &dyn Files,
        caller: &Caller,
        state: State,
        payload: &[Part],
    ) -> Result<bool, String> {
        self.after(state, HostCalls::Own.download(files, caller, state, payload))
    }

    fn boots(&self) -> PathBuf {
        self.boots.clone()
    }

    fn unit_back(&self, caller: &Caller) -> Option<UnitBack> {
        let (systemd_run, systemctl) = (self.systemd_run.clone()?, self.boots.clone());
        HostCalls::Systemd { systemd_run, systemctl }.unit_back(caller)
    }

    fn end(&self, name: &str) -> Result<(), String> {
        HostCalls::Own.end(name)
    }
}

struct BenchBoots(Arc<AtomicU64>, PathBuf);

impl Boots for BenchBoots {
    fn held_by(&self) -> Vec<String> {
        Vec::new()
    }

    fn ask(&mut self) -> Result<(), String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let log = fs::OpenOptions::new().append(true).create(true).open(&self.1);
        std::io::Write::write_all(&mut log.unwrap(), b"r\n").unwrap();
        Ok(())
    }
}

impl Bench {
    fn new(old: Option<&str>) -> Bench {
        // Room is held at the top of a file system: one where anybody may, and where nobody waits for a disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let bench = Bench {
            dir,
            boots: Arc::default(),
            cut: Arc::default(),
            dark: Arc::default(),
            frames: Frames::default(),
            releases: BTreeMap::new(),
            journal: MemoryJournal::default(),
            running: Arc::default(),
            time: Arc::default(),
        };
        for folder in ["data", "opt", "etc/more"] {
            fs::create_dir_all(bench.at(folder)).unwrap();
        }
        if let Some(old) = old {
            fs::write(bench.at("etc/thing"), old).unwrap();
            fs::write(bench.at("old"), old).unwrap();
        }
        // Whoever is asked to boot on the way back is gone at once.
        let log = bench.at("log").display().to_string();
        bench.script("systemctl", &format!("#!/bin/sh\necho r >>{log}\nkill -9 $PPID\n"));
        bench
    }

    /// From now on there is a systemd to ask for units.
    fn with_systemd(&self, systemd: Systemd) {
        let (run, show) = match systemd {
            Systemd::Starts => (STARTS, "cat @DIR@began 2>/dev/null || echo ExecMainPID=0"),
            Systemd::StartsNone => ("exit 1", "echo ExecMainPID=0"),
            Systemd::IsGone => ("exit 1", "exit 1"),
            Systemd::GoesAway => (STARTS, "[ ! -e @DIR@began ]"),
            Systemd::IsLate => ("echo late >@DIR@began; exit 1", "echo ExecMainPID=0; echo Job=7"),
        };
        let dir = self.at("").display().to_string();
        let script = |text: &str| text.replace("@DIR@", &dir);
        self.script("systemd-run", &script(&format!("#!/bin/sh\necho run >>@DIR@units\n{run}\n")));
        let boots = "reboot) echo r >>@DIR@log; kill -9 $PPID ;;";
        let ends = "stop | reset-failed) echo \"$1\" >>@DIR@units; rm -f @DIR@began ;;";
        let text = format!("#!/bin/sh\ncase $1 in\n{boots}\nshow) {show} ;;\n{ends}\nesac\n");
        self.script("systemctl", &script(&text));
    }

    /// What systemd was asked for.
    fn units(&self) -> String {
        fs::read_to_string(self.at("units")).unwrap_or_default()
    }

    /// An update's id that no other test uses, since room is held under its name.
    fn install(&self) -> String {
        let name = self.dir.path().file_name().unwrap().to_string_lossy().into_owned();
        format!("i{}", name.trim_start_matches('.'))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }

    fn script(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn mark(&self, path: &str) {
        fs::write(self.at(path), "").unwrap();
    }

    fn answer(&self, query: &str, answer: &str) {
        let text = match answer {
            "Nothing" => String::new(),
            "Lines" => "Yes\nNo\n".to_owned(),
            word => format!("{word}\n"),
        };
        fs::write(self.at(&format!("answer-{query}")), text).unwrap();
    }

    fn payload(&self) -> MenderPayload {
        serde_json::from_value(serde_json::json!({ "type": "fake", "timeout_seconds": 60 }))
            .unwrap()
    }

    fn publish(&mut self, payload: MenderPayload, declared: &[&str]) -> ReleaseId {
        let module = MODULE.replace("@DIR@", &self.at("").display().to_string());
        let module = module.replace("/ tree", " tree");
        let big = "x".repeat(300_000);
        let contents = [module.as_bytes(), b"new", b"{\"a\": 1}", big.as_bytes()];
        let entries = vec![
            file("meta-data", 0o644, contents[2]),
            folder("module", 0o755),
            file("module/fake", 0o755, contents[0]),
            folder("payload", 0o755),
            file("payload/big", 0o644, contents[3]),
            file("payload/thing", 0o644, contents[1]),
        ];
        let name = PackageName::parse("payments").unwrap();
        let paths = declared.iter().map(|path| self.at(path).display().to_string()).collect();
        let backup = Backup { paths };
        let manifest =
            Manifest::new(name.clone(), entries, vec![], Health::None, backup, vec![]).unwrap();
        let manifest = manifest.with_mender(payload).unwrap().to_bytes();
        for bytes in contents.into_iter().chain([&manifest[..]]) {
            self.frames.add(bytes);
        }
        let packages = vec![PackageRef { name, manifest: FileRef::to(&manifest) }];
        self.release("1.0", packages)
    }

    fn release(&mut self, version: &str, packages: Vec<PackageRef>) -> ReleaseId {
        let version = Version::parse(version).unwrap();
        let platforms = BTreeMap::from([(platform(), packages)]);
        let release = Release::new(payments(), version.clone(), 1, platforms).to_bytes();
        let digest = Digest::of(&release);
        self.releases.insert(digest, release);
        ReleaseId { version, digest }
    }

    fn machine(&self) -> HostMachine {
        let time = self.time.clone();
        let clock = Clock::from_fns(
            BootId::parse(&format!("boot-{}", self.boots.load(Ordering::Relaxed))).unwrap(),
            || Timestamp::UNIX_EPOCH,
            move || Running::from_nanos(time.load(Ordering::Relaxed)),
        );
        let settings = Settings {
            platform: platform(),
            install_root: self.at("opt"),
            ..Settings::load(&self.at("data"), None).unwrap()
        };
        let running = self.running.clone();
        let services = FakeServices { running, bad: None, files: RecordingFiles::default() };
        let manager = Manager::Fake(Box::new(services));
        let mut machine = HostMachine::new(Arc::new(RealFiles), &settings, clock, manager);
        let (cut, dark) = (self.cut.clone(), self.dark.clone());
        let boots = self.at("systemctl");
        let systemd_run = Some(self.at("systemd-run")).filter(|path| path.exists());
        machine.calls = Box::new(CutCalls { cut, dark, boots, systemd_run });
        machine.boots = Some(Box::new(BenchBoots(self.boots.clone(), self.at("log"))));
        machine
    }

    /// Carries it to its end through all cuts and boots.
    fn update(&mut self, update: Update) -> Outcome {
        let mut journal = self.journal.clone();
        let mut host = BenchHost { machine: self.machine(), bench: self };
        let mut went = drive(update, &mut host, &mut journal, &mut ()).map(Some);
        loop {
            match went {
                Ok(outcome) => {
                    self.journal = journal;
                    return outcome.unwrap();
                }
                Err(DriveError::Host(HostError::Ending)) => {}
                Err(error) => panic!("{error}"),
            }
            if std::mem::take(&mut *self.dark.lock().unwrap()) {
                self.boots.fetch_add(1, Ordering::Relaxed);
            }
            let mut host = BenchHost { machine: self.machine(), bench: self };
            let at = host.machine.clock.moment();
            went = resume(at, &mut host, &mut journal, &mut ());
        }
    }

    /// What the module was called for, in letters.
    fn calls(&self) -> String {
        let log = fs::read_to_string(self.at("log")).unwrap_or_default();
        let letter = |line: &str| match LETTERS.iter().find(|(_, name)| *name == line) {
            Some((letter, _)) => *letter,
            None => line.chars().next().unwrap(),
        };
        log.lines().map(letter).collect()
    }

    /// Everything that is the host owner's.
    fn outside(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                    found.insert(path, vec![]);
                } else {
                    found.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.at("etc"), &mut found);
        found
    }

    fn is_tidy(&self, row: &str) {
        for path in ["data/modules", "data/way-back"] {
            assert!(!self.at(path).exists(), "{row}: {path}");
        }
    }
}

struct BenchHost<'a> {
    machine: HostMachine,
    bench: &'a Bench,
}

impl Host for BenchHost<'_> {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        let at = self.machine.clock.moment();
        let time = &self.bench.time;
        let wait = |longest: Duration| {
            time.fetch_add(longest.as_nanos() as u64, Ordering::Relaxed);
            Waited::Over
        };
        let event = match step {
            Step::Permit { attempt, .. } => {
                let learned = self.machine.learn(&self.bench.releases[&attempt.release.digest]);
                learned.map_or_else(|failure| Event::Failed { failure }, |()| Event::Permitted)
            }
            Step::AskLeave { .. } => {
                let (id, lasts) = (LeaseId::parse("l1").unwrap(), Duration::from_secs(600));
                Event::LeaseGiven { lease: Lease { id, asked: at.clone(), lasts }, at }
            }
            Step::AskReboot { .. } => Event::MayReboot,
            step => {
                let machine = &mut self.machine;
                let mut frames = self.bench.frames.clone();
                let perform = || machine.perform(step, &mut frames, &wait);
                match std::panic::catch_unwind(std::panic::AssertUnwindSafe(perform)) {
                    Ok(event) => event?,
                    Err(_) if *self.bench.dark.lock().unwrap() => return Err(HostError::Ending),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        };
        let boot = format!("boot-{}", self.bench.boots.load(Ordering::Relaxed));
        let gone = self.machine.clock.boot().as_str() != boot;
        if gone { Err(HostError::Ending) } else { Ok(event) }
    }
}

const DECLARED: [&str; 2] = ["etc/thing", "etc/more"];
/// States that the saved command of the way back calls for.
const BACK: [&str; 6] = [
    "SupportsRollback",
    "ArtifactRollback",
    "ArtifactRollbackReboot",
    "ArtifactVerifyRollbackReboot",
    "ArtifactFailure",
    "Cleanup",
];

fn outcome_of(outcome: &Outcome) -> char {
    match outcome {
        Outcome::Committed { .. } => '+',
        Outcome::RolledBack { .. } => '-',
        Outcome::Stuck { .. } => '!',
        Outcome::Refused { .. } => '0',
        Outcome::Dropped => '.',
    }
}

fn try_order(row: &str, old: Option<&str>, systemd: Option<Systemd>) {
    let words: Vec<_> = row.split_whitespace().collect();
    let [reboot, rollback, fails, cuts, calls, end] = words[..] else { panic!("{row}") };
    let mut bench = Bench::new(old);
    if let Some(systemd) = systemd {
        bench.with_systemd(systemd);
    }
    bench.answer("NeedsArtifactReboot", reboot);
    bench.answer("SupportsRollback", rollback);
    for letter in fails.chars().filter(|letter| *letter != '-') {
        bench.mark(&format!("fail-{}", name_of(letter)));
    }
    for name in cuts.chars().filter(|letter| *letter != '-').map(name_of) {
        // On the way back there is no agent that the power could be taken from.
        match BACK.contains(&name) && end == "-" {
            true => bench.mark(&format!("kill-{name}")),
            false => _ = bench.cut.lock().unwrap().insert(name),
        }
    }
    let before = bench.outside();
    let release = bench.publish(bench.payload(), &DECLARED);
    let outcome = bench.update(attempt(&release, None, &bench.install()));
    assert_eq!(bench.calls(), calls, "{row}: {outcome:?}");
    assert_eq!(outcome_of(&outcome).to_string(), end, "{row}: {outcome:?}");
    if end == "+" {
        assert_eq!(fs::read_to_string(bench.at("etc/thing")).unwrap(), "new", "{row}");
    } else {
        assert_eq!(bench.outside(), before, "{row}: the host is as it was");
        assert!(!bench.at("opt/payments").exists(), "{row}");
    }
    bench.is_tidy(row);
    if systemd == Some(Systemd::Starts) {
        let back = calls.chars().skip_while(|letter| *letter != 's');
        let (back, units) = (back.filter(|letter| *letter != 'r').count(), bench.units());
        assert_eq!(units.matches("run").count(), back, "{row}: a unit for each call\n{units}");
    }
}

/// Rows run beside each other: each waits for a disk and for processes.
fn try_orders(rows: &[&str], old: Option<&str>, systemd: Option<Systemd>) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    try_order(row, old, systemd);
                }
            });
        }
    });
}

#[test]
fn a_module_is_called_as_menders_client_calls_it_and_what_it_changed_is_as_it_was_after_a_failure()
{
    let rows: Vec<_> = ORDERS.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(rows.len() >= 90, "{}", rows.len());
    try_orders(&rows, Some("old"), None);
}

#[test]
fn where_nothing_was_before_a_module_that_failed_nothing_is_left() {
    let rows: Vec<_> = ORDERS.lines().filter(|line| line.trim().ends_with('-')).collect();
    try_orders(&rows.into_iter().step_by(5).collect::<Vec<_>>(), None, None);
}

/// Rows that come to the saved command of the way back.
fn orders_back(step: usize) -> Vec<&'static str> {
    let rows = ORDERS.lines().filter(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words[..], [.., calls, "-"] if calls.contains('s'))
    });
    rows.step_by(step).collect()
}

#[test]
fn on_the_way_back_each_call_has_a_unit_and_the_order_is_the_same() {
    let rows = orders_back(2);
    assert!(rows.len() >= 30, "{}", rows.len());
    try_orders(&rows, Some("old"), Some(Systemd::Starts));
}

#[test]
fn where_systemd_starts_no_unit_the_way_back_goes_without_one_and_makes_no_call_twice() {
    for systemd in [Systemd::StartsNone, Systemd::IsGone] {
        try_orders(&orders_back(6), Some("old"), Some(systemd));
    }
}

#[test]
fn a_call_that_systemd_may_have_begun_is_not_made_again_and_counts_as_failed() {
    for (systemd, calls) in [(Systemd::GoesAway, "SDInCsFX"), (Systemd::IsLate, "SDInC")] {
        let mut bench = Bench::new(Some("old"));
        bench.with_systemd(systemd);
        bench.answer("SupportsRollback", "Yes");
        for state in ["ArtifactCommit", "SupportsRollback", "ArtifactFailure"] {
            bench.mark(&format!("fail-{state}"));
        }
        let before = bench.outside();
        let outcome = once(&mut bench, |_| {}, &DECLARED);
        assert_eq!(bench.calls(), calls, "{systemd:?}: {outcome:?}");
        assert_eq!(outcome_of(&outcome), '-', "{systemd:?}: {outcome:?}");
        assert_eq!(bench.outside(), before, "{systemd:?}");
        bench.is_tidy("once");
    }
}

/// An update to one release with this module, to its end.
fn once(bench: &mut Bench, change: impl FnOnce(&mut MenderPayload), declared: &[&str]) -> Outcome {
    let mut payload = bench.payload();
    change(&mut payload);
    let release = bench.publish(payload, declared);
    bench.update(attempt(&release, None, &bench.install()))
}

#[test]
fn a_module_that_asks_for_streams_gets_each_file_once_and_nothing_is_stored_for_it() {
    for (sizes, named) in
        [("No", "streams/big\nstreams/thing\n"), ("Yes", "streams/big 300000\nstreams/thing 3\n")]
    {
        let mut bench = Bench::new(Some("old"));
        bench.answer("ProvidePayloadFileSizes", sizes);
        bench.mark("streams");
        let outcome = once(&mut bench, |_| {}, &DECLARED);
        assert_eq!(outcome_of(&outcome), '+', "{outcome:?}");
        assert_eq!(fs::read_to_string(bench.at("etc/thing")).unwrap(), "new");
        assert_eq!(fs::read_to_string(bench.at("named")).unwrap(), named);
        bench.is_tidy(sizes);
    }
}

#[test]
fn a_module_that_hangs_in_a_state_or_a_query_is_ended_with_all_it_started() {
    for (state, calls) in [
        ("ProvidePayloadFileSizes", "SX"),
        ("Download", "SDX"),
        ("ArtifactInstall", "SDIsKnFX"),
        ("NeedsArtifactReboot", "SDInsKnFX"),
    ] {
        let mut bench = Bench::new(Some("old"));
        bench.answer("SupportsRollback", "Yes");
        bench.mark(&format!("hang-{state}"));
        let before = bench.outside();
        let outcome = once(&mut bench, |payload| payload.timeout_seconds = 1, &DECLARED);
        assert_eq!(bench.calls(), calls, "{state}: {outcome:?}");
        assert_eq!(outcome_of(&outcome), '-', "{state}: {outcome:?}");
        assert!(outcome.failure().unwrap().text.contains("longer than 1 s"), "{outcome:?}");
        assert_eq!(bench.outside(), before, "{state}");
        let name = format!("refit-module-{}-payments", bench.install());
        assert_eq!(crate::host::process::marked(&name).unwrap(), [], "{state}");
    }
}

#[test]
fn boots_on_the_way_back_come_to_an_end() {
    let mut bench = Bench::new(Some("old"));
    bench.answer("NeedsArtifactReboot", "Yes");
    bench.answer("SupportsRollback", "Yes");
    bench.mark("fail-ArtifactVerifyReboot");
    bench.mark("always-ArtifactVerifyRollbackReboot");
    let before = bench.outside();
    let outcome = once(&mut bench, |_| {}, &DECLARED);
    assert_eq!(bench.calls(), format!("SDInBVsKn{}", "bv".repeat(10)));
    assert_eq!(bench.outside(), before);
    let Outcome::RolledBack { failure, .. } = outcome else { panic!("{outcome:?}") };
    assert!(failure.to_string().contains("ArtifactVerifyReboot"), "{failure}");
    bench.is_tidy("loop");
}

#[test]
fn a_package_that_names_nothing_its_module_changes_is_refused_unless_the_module_goes_back_itself() {
    let mut bench = Bench::new(Some("old"));
    bench.answer("SupportsRollback", "Yes");
    let before = bench.outside();
    let outcome = once(&mut bench, |_| {}, &[]);
    let Outcome::Refused { failure } = &outcome else { panic!("{outcome:?}") };
    assert!(failure.text.contains("names nothing that its update module changes"), "{failure}");
    assert_eq!((bench.calls(), bench.outside()), (String::new(), before.clone()));

    // Its publisher's word is not enough: the module is asked before it changes anything.
    let mut bench = Bench::new(Some("old"));
    bench.answer("SupportsRollback", "No");
    let outcome = once(&mut bench, |payload| payload.rolls_back = true, &[]);
    assert_eq!((bench.calls().as_str(), outcome_of(&outcome)), ("SDsX", '-'), "{outcome:?}");

    // And where it then fails to go back, a person is needed.
    let mut bench = Bench::new(Some("old"));
    bench.answer("SupportsRollback", "Yes");
    bench.mark("fail-ArtifactCommit");
    bench.mark("always-ArtifactRollback");
    let outcome = once(&mut bench, |payload| payload.rolls_back = true, &[]);
    let Outcome::Stuck { rollback: Some(rollback), .. } = &outcome else { panic!("{outcome:?}") };
    assert!(rollback.text.contains("failed to go back: ArtifactRollback"), "{rollback}");
}

#[test]
fn a_module_of_another_device_or_that_is_not_here_or_not_roots_is_refused_before_anything_is_done()
{
    let mut bench = Bench::new(None);
    let wrong = |payload: &mut MenderPayload| {
        payload.depends.insert("device_type".into(), vec!["toaster".into()]);
    };
    let outcome = once(&mut bench, wrong, &DECLARED);
    let text = &outcome.failure().unwrap().text;
    assert!(text.contains("for the device type toaster"), "{outcome:?}");
    assert_eq!((outcome_of(&outcome), bench.calls().as_str()), ('0', ""));
    assert!(!bench.at("data/modules").exists());
}

#[test]
fn removing_a_product_takes_away_what_its_modules_made_and_leaves_what_was_there_before() {
    let mut bench = Bench::new(None);
    let outcome = once(&mut bench, |_| {}, &DECLARED);
    assert_eq!(outcome_of(&outcome), '+', "{outcome:?}");
    let one = bench.publish(bench.payload(), &DECLARED);
    let removal = bench.release("2.0", vec![]);
    let id = format!("{}-2", bench.install());
    let outcome = bench.update(attempt(&removal, Some(&one), &id));
    assert_eq!(outcome_of(&outcome), '+', "{outcome:?}");
    assert!(!bench.at("etc/thing").exists(), "it stood there because of the product alone");
    assert!(bench.at("etc/more/forgotten").exists(), "its folder was there before");
    assert!(!bench.at("opt/payments/made-by-modules").exists());
}
