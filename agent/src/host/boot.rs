//! Booting this host: who holds a boot off, and asking for it. Only systemd can be asked.

use std::time::Duration;

use serde::Deserialize;

use super::process::{Ended, Program, system_program};

/// Both calls are answered at once; longer means that nobody answers.
const LONGEST: Duration = Duration::from_secs(60);

/// What boots this host.
pub trait Boots: Send {
    /// Who holds a boot off now, in the host's words; nobody where that can't be told.
    fn held_by(&self) -> Vec<String>;

    /// Asks for a boot, which begins at once.
    ///
    /// # Errors
    /// What was said where it was refused.
    fn ask(&mut self) -> Result<(), String>;
}

/// systemd, and its logind.
#[derive(Debug, Clone)]
pub struct SystemdBoots;

impl SystemdBoots {
    fn call(tool: &str, arguments: &[&str]) -> Result<String, String> {
        let program = system_program(tool).ok_or_else(|| format!("there is no {tool}"))?;
        let program = Program {
            program: program.into(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("{tool} {} {}", arguments.join(" "), std::process::id()),
        };
        match program.run(LONGEST) {
            Ok(Ended::Exited { code: Some(0), output }) => Ok(output),
            Ok(Ended::Exited { output, .. }) => Err(output),
            Ok(Ended::TimedOut { .. }) => {
                Err(format!("{tool} did not answer within {} s", LONGEST.as_secs()))
            }
            Err(error) => Err(format!("{tool} does not start: {error}")),
        }
    }
}

impl Boots for SystemdBoots {
    fn held_by(&self) -> Vec<String> {
        let manager = "org.freedesktop.login1.Manager";
        let (service, object) = ("org.freedesktop.login1", "/org/freedesktop/login1");
        let call = ["--json=short", "call", service, object, manager, "ListInhibitors"];
        match Self::call("busctl", &call).map(|output| shutdown_inhibitors(&output)) {
            Ok(Ok(held)) => held,
            Ok(Err(why)) => vec![format!("what logind says of who does can't be read: {why}")],
            Err(why) => {
                // Whoever holds a boot off does it through logind: without it nobody can.
                tracing::warn!("logind can't be asked who holds a boot off, so nobody does: {why}");
                Vec::new()
            }
        }
    }

    fn ask(&mut self) -> Result<(), String> {
        Self::call("systemctl", &["--no-pager", "reboot"]).map(drop)
    }
}

/// Those of logind's inhibitors that hold a shutdown off; a delay of a few seconds is logind's own matter.
/// Format: systemd's org.freedesktop.login1(5), `ListInhibitors`: what, who, why, mode, user, process.
fn shutdown_inhibitors(json: &str) -> Result<Vec<String>, String> {
    type Inhibitor = (String, String, String, String, u32, u32);
    #[derive(Deserialize)]
    struct Reply {
        data: (Vec<Inhibitor>,),
    }
    let reply: Reply =
        serde_json::from_slice(json.as_bytes()).map_err(|error| error.to_string())?;
    let holds = reply.data.0.into_iter().filter(|(what, _, _, mode, _, _)| {
        what.split(':').any(|what| what == "shutdown") && mode.starts_with("block")
    });
    Ok(holds
        .map(|(_, who, why, _, user, process)| {
            format!("{who} holds a shutdown off: {why} (process {process} of user {user})")
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_blocks_a_shutdown_holds_a_boot_off() {
        let reply = r#"{"type":"a(ssssuu)","data":[[
            ["sleep","NetworkManager","it turns off networks","delay",0,10],
            ["shutdown:sleep","nightly","a dump is written","block",1000,11],
            ["shutdown","apt-daily","installs","delay",0,12],
            ["handle-power-key","someone","plays","block",0,13]]]}"#;
        let held = shutdown_inhibitors(reply).unwrap();
        let nightly =
            "nightly holds a shutdown off: a dump is written (process 11 of user 1000)".to_owned();
        assert_eq!(held, [nightly]);
        assert_eq!(shutdown_inhibitors(r#"{"type":"a(ssssuu)","data":[[]]}"#), Ok(vec![]));
        assert!(shutdown_inhibitors("Failed to connect").is_err());
    }
}
