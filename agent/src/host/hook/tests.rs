//! Hooks run to their end by the agent itself, and the words that systemd-run is given.

use super::*;
use crate::host::process::marked;

fn hook(script: &str, timeout_seconds: u32) -> Hook {
    let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
    let needs = HookNeeds::default();
    Hook { when: HookTime::BeforeSwitch, command, timeout_seconds, needs }
}

fn run_by(hooks: &Hooks, install: &str, hook: &Hook, folder: &Path) -> HookRun {
    let install = InstallId::parse(install).unwrap();
    let variables = Variables::new();
    let context = HookContext {
        install: &install,
        package: &PackageName::parse("payments").unwrap(),
        folder,
        variables: &variables,
        writes: vec!["/opt/refit/payments".into()],
        read_only: vec![],
        hidden: vec!["/var/lib/refit-agent".into()],
    };
    hooks.run(hook, 0, &context)
}

fn run(install: &str, hook: &Hook, folder: &Path) -> HookRun {
    run_by(&Hooks::Own, install, hook, folder)
}

#[test]
fn a_hook_runs_in_its_package_and_knows_its_update() {
    let folder = tempfile::tempdir().unwrap();
    let went = run("i-1", &hook("echo $REFIT_INSTALL > here; echo done", 60), folder.path());
    assert_eq!(went.ended(), Ok(()));
    assert_eq!(went.output, "done", "what a good one wrote is kept too");
    assert_eq!(std::fs::read_to_string(folder.path().join("here")).unwrap(), "i-1\n");
}

#[test]
fn a_hook_that_fails_says_with_what_and_writes_nothing_to_a_terminal_but_text() {
    let went = run("i-2", &hook("printf 'no such table\\033[2K'; exit 4", 60), Path::new("/"));
    assert_eq!(went.end, End::Failed { code: 4 });
    let said = went.ended().unwrap_err().to_string();
    assert_eq!(said, "hook before-switch of payments ended with 4: no such table\\u{1b}[2K");
    let missing = Hook {
        needs: HookNeeds { writes: vec!["/no/such/folder".into()], ..HookNeeds::default() },
        ..hook("exit 1", 60)
    };
    let said = run("i-2", &missing, Path::new("/")).ended().unwrap_err().to_string();
    assert!(said.contains("/no/such/folder is not there") && said.contains("`writes`"), "{said}");
    let unknown = Hook { command: vec!["${NOWHERE}".into()], ..hook("", 60) };
    let said = run("i-2", &unknown, Path::new("/")).ended().unwrap_err().to_string();
    assert!(said.contains("was not started") && said.contains("NOWHERE"), "{said}");
}

#[test]
fn of_a_hook_that_writes_without_end_only_the_end_is_kept() {
    let went = run("i-7", &hook("seq 2000000; echo last; exit 1", 60), Path::new("/"));
    assert!(went.output.len() <= OUTPUT_KEPT && went.output.len() > OUTPUT_KEPT / 2);
    assert!(went.output.ends_with("\n2000000\nlast"));
    let said = went.ended().unwrap_err().to_string();
    assert!(said.len() < 1000 && said.ends_with("last"), "{said}");
}

#[test]
fn a_hook_does_not_outlive_its_turn() {
    let late = run("i-3", &hook("setsid sleep 600 & sleep 600", 1), Path::new("/"));
    assert_eq!(late.end, End::TimedOut);
    assert!(late.ended().unwrap_err().to_string().contains("took longer than 1 s"));
    assert_eq!(marked("refit-hook-i-3-before-switch-0").unwrap(), []);
}

#[test]
fn what_a_killed_agent_left_of_a_hook_is_ended_before_it_runs_again() {
    let left = Program {
        program: "sleep".into(),
        arguments: vec!["600".into()],
        folder: "/".into(),
        environment: Default::default(),
        mark: "refit-hook-i-4-before-switch-0".into(),
    };
    let mut child = left.command().spawn().unwrap();
    assert_eq!(run("i-4", &hook("true", 60), Path::new("/")).ended(), Ok(()));
    let ended = child.wait().unwrap();
    assert!(!ended.success());
}

/// CVE-2024-39698: a program in systemd-run's place sees each word of the hook as it is.
#[test]
fn under_systemd_odd_words_of_a_hook_stay_whole() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("systemd-run");
    let said = folder.path().join("said");
    let script = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > '{}'\n", said.display());
    std::fs::write(&run, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&run, mode).unwrap();
    let hooks = Hooks::Systemd(Systemd { run, control: "/bin/true".into() });
    let package = folder.path().join("a $(b) %h");
    std::fs::create_dir(&package).unwrap();
    let command = ["./hook 1", "--unit=evil", "$(id)", "`id`", "a;b", "-- x"];
    let hook = Hook { command: command.map(str::to_owned).to_vec(), ..hook("", 60) };
    assert_eq!(run_by(&hooks, "i-odd", &hook, &package).ended(), Ok(()));
    let said = std::fs::read_to_string(said).unwrap();
    let (options, words) = said.split_once("\n--\n").unwrap();
    let program = format!("{}/./hook 1", package.display());
    let wanted = [program.as_str(), "--unit=evil", "$$(id)", "`id`", "a;b", "-- x"];
    assert_eq!(words.lines().collect::<Vec<_>>(), wanted);
    assert!(options.contains(&format!("--working-directory={}\n", package.display())));
    assert!(options.contains("--property=ReadWritePaths=\"-/opt/refit/payments\"\n"));
    assert!(!options.contains("evil"));
}
