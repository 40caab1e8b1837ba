//! The command line of each box, and what systemd says of how one ended.

use super::*;

fn boxed(walls: Option<Walls>) -> Boxed {
    let program = Program {
        program: "/opt/p/hook".into(),
        arguments: vec!["a b".into(), "--x".into(), "$Y".into()],
        folder: "/opt/p".into(),
        environment: [("REFIT_INSTALL".to_owned(), "i".to_owned())].into(),
        mark: "m".into(),
    };
    Boxed { program, limits: Limits { seconds: 30, memory: 1 << 26, tasks: 9 }, walls }
}

fn has(words: &[String], property: &str) -> bool {
    words.contains(&format!("--property={property}"))
}

#[test]
fn a_boxed_program_is_a_unit_with_limits_of_its_own_and_nothing_of_its_words_is_expanded() {
    let words = arguments("refit-hook-1", &boxed(None), true);
    let split = words.iter().position(|word| word == "--").unwrap();
    assert_eq!(words[split + 1..], ["/opt/p/hook", "a b", "--x", "$$Y"]);
    for property in [
        "RuntimeMaxSec=30",
        "MemoryMax=67108864",
        "MemorySwapMax=0",
        "TasksMax=9",
        "KillMode=control-group",
        "SendSIGKILL=yes",
    ] {
        assert!(has(&words, property), "{property}");
    }
    // Modules of others have limits, and no walls.
    let walled = words.iter().any(|word| word.contains("Protect") || word.contains("Private"));
    assert!(!walled && !words.iter().any(|word| word.contains("LimitDATA")), "{words:?}");
    assert!(has(&arguments("n", &boxed(None), false), "LimitDATA=67108864"));
}

#[test]
fn in_walls_the_system_is_read_only_but_for_what_is_named_and_there_is_no_network() {
    let walls = Walls {
        writes: vec!["/opt/refit/payments".into(), "/etc/a b\"\\%h".into()],
        read_only: vec!["/srv/data".into()],
        hidden: vec!["/var/lib/refit-agent".into()],
        network: false,
        systemd: false,
    };
    let words = arguments("n", &boxed(Some(walls.clone())), true);
    for property in [
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        "PrivateNetwork=yes",
        "PrivateTmp=yes",
        "NoNewPrivileges=yes",
        "ReadOnlyPaths=\"-/run\"",
        "ReadOnlyPaths=\"-/srv/data\"",
        "ReadWritePaths=\"-/opt/refit/payments\"",
        "ReadWritePaths=\"-/etc/a b\\\"\\\\%h\"",
        "InaccessiblePaths=\"-/var/lib/refit-agent\"",
        "InaccessiblePaths=\"-/run/systemd/private\"",
        "InaccessiblePaths=\"-/run/dbus/system_bus_socket\"",
    ] {
        assert!(has(&words, property), "{property} in {words:?}");
    }
    let rights = words.iter().find(|word| word.contains("CapabilityBoundingSet")).unwrap();
    for right in ["SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "MKNOD", "DAC_READ_SEARCH", "NET_ADMIN"]
    {
        assert!(!rights.contains(right), "{right}");
    }
    let open =
        Walls { network: true, systemd: true, writes: vec!["/tmp".into(), "/run".into()], ..walls };
    let words = arguments("n", &boxed(Some(open)), true);
    assert!(!has(&words, "PrivateNetwork=yes") && !has(&words, "PrivateTmp=yes"));
    assert!(!words.iter().any(|word| word.contains("system_bus_socket")));
    assert!(!has(&words, "ReadOnlyPaths=\"-/run\"") && has(&words, "ReadWritePaths=\"-/run\""));
}

#[test]
fn how_a_unit_ended_is_what_systemd_says() {
    let end = |text: &str| end_of(text, "no such program");
    assert_eq!(end("Result=exit-code\nExecMainStatus=4"), End::Failed { code: 4 });
    assert_eq!(end("Result=signal\nExecMainStatus=9"), End::Killed { signal: Some(9) });
    assert_eq!(end("Result=timeout\nExecMainStatus=9"), End::TimedOut);
    assert_eq!(end("Result=oom-kill\nExecMainStatus=9"), End::OutOfMemory);
    let never = End::NotStarted { why: "no such program".into() };
    assert_eq!(end("Result=success\nExecMainStatus=0"), never);
    assert_eq!(end(""), never);
}
