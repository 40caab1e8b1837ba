//! Services under systemd. Talks to it through `systemctl`, which waits and says what came of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    ErrorsSince, LoggedErrors, Service, ServiceError, ServiceState, Services, UnitFile, UnitName,
    journal,
};
use crate::host::process::{Ended, Program, system_program};

/// Longer than any unit made here takes to stop (its `TimeoutStopSec` is 30 s, then it is killed); a
/// package's own unit may ask for more, up to systemd's default of 90 s and its kill.
const LONGEST: Duration = Duration::from_secs(120);

/// The largest unit file of a package's own.
const LARGEST_UNIT: u64 = 64 * 1024;

/// Services under systemd.
#[derive(Debug, Clone)]
pub struct Systemd {
    systemctl: PathBuf,
    units: PathBuf,
}

impl Systemd {
    /// The host's systemd, with units in this folder; `None` if it does not run here.
    pub fn find(units: &Path) -> Option<Systemd> {
        // What systemd itself names as the test for it, sd_booted(3).
        if !Path::new("/run/systemd/system").is_dir() {
            return None;
        }
        let systemctl = system_program("systemctl")?;
        Some(Systemd { systemctl, units: units.to_owned() })
    }

    /// Where units are put by hand and by the agent.
    pub const UNITS: &'static str = "/etc/systemd/system";

    fn systemctl(
        &self,
        action: &'static str,
        arguments: &[&str],
        unit: &str,
    ) -> Result<(i32, String), ServiceError> {
        let mut words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        words.push("--no-pager".into());
        if !unit.is_empty() {
            words.extend(["--".into(), unit.into()]);
        }
        let program = Program {
            program: self.systemctl.clone().into(),
            arguments: words,
            folder: "/".into(),
            environment: Default::default(),
            // Of its own for each call: another call's must not end with this one.
            mark: format!("systemctl {action} {unit} {}", std::process::id()),
        };
        let failed = |why: String| ServiceError::new(action, unit, why);
        match program.run(LONGEST) {
            Ok(Ended::Exited { code: Some(code), output }) => Ok((code, output)),
            Ok(Ended::Exited { code: None, .. }) => Err(failed("systemctl was killed".into())),
            Ok(Ended::TimedOut { output }) => {
                Err(failed(format!("systemctl took longer than {} s: {output}", LONGEST.as_secs())))
            }
            Err(error) => Err(failed(format!("systemctl does not start: {error}"))),
        }
    }

    fn expect(
        &self,
        action: &'static str,
        arguments: &[&str],
        unit: &str,
    ) -> Result<(), ServiceError> {
        match self.systemctl(action, arguments, unit)? {
            (0, _) => Ok(()),
            (code, output) => Err(ServiceError::new(
                action,
                unit,
                format!("systemctl ended with {code}: {output}"),
            )),
        }
    }

    fn end(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        match self.systemctl("stop", &["stop"], unit.as_str())? {
            (0, _) => Ok(()),
            (code, output) => match self.state(unit)? {
                ServiceState::Stopped | ServiceState::Failed { .. } | ServiceState::Unknown => {
                    Ok(())
                }
                ServiceState::Active { .. } | ServiceState::Changing { .. } => {
                    let why = format!("systemctl ended with {code}: {output}");
                    Err(ServiceError::new("stop", unit, why))
                }
            },
        }
    }
}

impl Services for Systemd {
    fn unit_files(&self, service: &Service) -> Result<Vec<UnitFile>, ServiceError> {
        let failed = |why: String| ServiceError::new("describe", &service.unit, why);
        let bytes = match (&service.container, &service.own_unit) {
            (Some(container), _) => {
                container.unit_text(service).map_err(|why| failed(why.into()))?.into_bytes()
            }
            (None, Some(path)) => {
                let read = read_unit(path).map_err(|error| failed(error.to_string()))?;
                read.ok_or_else(|| failed(format!("{} is larger than 64 KiB", path.display())))?
            }
            (None, None) => unit_text(service).map_err(|why| failed(why.into()))?.into_bytes(),
        };
        let path = self.units.join(service.unit.as_str());
        let wanted = self.units.join("multi-user.target.wants").join(service.unit.as_str());
        Ok(vec![
            UnitFile::File { path: path.clone(), bytes },
            UnitFile::Link { path: wanted, target: path },
        ])
    }

    fn drop_ins(&self, unit: &UnitName) -> Option<PathBuf> {
        Some(self.units.join(format!("{unit}.d")))
    }

    fn reload(&mut self) -> Result<(), ServiceError> {
        self.expect("reload", &["daemon-reload"], "")
    }

    fn start(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        // A unit that failed too often is not started again before this. Of no other concern: a unit
        // that has not failed answers with an error too.
        self.systemctl("start", &["reset-failed"], unit.as_str())?;
        self.expect("start", &["start"], unit.as_str())
    }

    fn stop(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        self.end(unit)?;
        // One that has failed before would be shown as failed for as long as the host is up, also where its
        // unit goes. An error says that it has not failed.
        self.systemctl("stop", &["reset-failed"], unit.as_str()).map(drop)
    }

    fn state(&mut self, unit: &UnitName) -> Result<ServiceState, ServiceError> {
        let wanted = "--property=LoadState,ActiveState,SubState,Result,NRestarts";
        let (code, output) = self.systemctl("ask for", &["show", wanted], unit.as_str())?;
        if code != 0 {
            let why = format!("systemctl ended with {code}: {output}");
            return Err(ServiceError::new("ask for", unit, why));
        }
        read_state(&output).ok_or_else(|| ServiceError::new("ask for", unit, output))
    }

    fn cgroup(&mut self, unit: &UnitName) -> Result<Option<String>, ServiceError> {
        let (code, output) =
            self.systemctl("measure", &["show", "--property=ControlGroup"], unit.as_str())?;
        match output.strip_prefix("ControlGroup=") {
            Some(cgroup) if code == 0 => Ok((!cgroup.is_empty()).then(|| cgroup.to_owned())),
            Some(_) | None => {
                let why = format!("systemctl ended with {code}: {output}");
                Err(ServiceError::new("measure", unit, why))
            }
        }
    }

    fn errors(
        &mut self,
        unit: &UnitName,
        since: &ErrorsSince,
    ) -> Result<LoggedErrors, ServiceError> {
        journal::errors(unit, since)
    }

    fn log(&mut self, unit: &UnitName) -> String {
        let Some(journalctl) = system_program("journalctl") else { return String::new() };
        let mut asked = Command::new(journalctl);
        asked.args(["--no-pager", "--quiet", "--output=short-iso", "--lines=5000", "--unit"]);
        asked.arg(unit.as_str()).stdin(Stdio::null()).stderr(Stdio::null());
        let said = asked.output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }
}

/// What `systemctl show` says.
fn read_state(output: &str) -> Option<ServiceState> {
    let value =
        |name: &str| output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if value("LoadState")? == "not-found" {
        return Some(ServiceState::Unknown);
    }
    // Missing on systemd before 235: then nobody counts.
    let restarts = value("NRestarts").and_then(|count| count.parse().ok()).unwrap_or(0);
    Some(match value("ActiveState")? {
        "active" | "reloading" | "refreshing" => ServiceState::Active { restarts },
        "activating" | "deactivating" | "maintenance" => ServiceState::Changing { restarts },
        "inactive" => ServiceState::Stopped,
        "failed" => {
            let result = value("Result").unwrap_or("failed");
            ServiceState::Failed { text: format!("systemd says: {result}") }
        }
        _ => return None,
    })
}

fn read_unit(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST_UNIT + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= LARGEST_UNIT).then_some(bytes))
}

/// A unit file made from a manifest's words.
fn unit_text(service: &Service) -> Result<String, &'static str> {
    let mut start = vec![quoted(&service.program, Quoting::Program)?];
    for argument in &service.arguments {
        start.push(quoted(argument, Quoting::Argument)?);
    }
    let folder = service.folder.to_str().ok_or("the package's folder is not UTF-8")?;
    let mut text = format!(
        "# Made by refit-agent. Changes are lost with the next release; use a drop-in instead.\n\
         [Unit]\n\
         Description={} (brought by Refit)\n\
         After=network.target\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={}\n\
         WorkingDirectory={}\n",
        service.unit,
        start.join(" "),
        // Takes no quotes: everything up to the end of the line is the path.
        specifiers_escaped(folder)?,
    );
    for (name, value) in &service.environment {
        let assignment = format!("{name}={value}");
        text.push_str(&format!("Environment={}\n", quoted(&assignment, Quoting::Environment)?));
    }
    if let Some(user) = &service.user {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if user.is_empty() || user.starts_with('-') || !user.bytes().all(plain) {
            return Err("the user's name is none");
        }
        text.push_str(&format!("User={user}\n"));
    }
    text.push_str(
        "Restart=on-failure\n\
         RestartSec=1\n\
         TimeoutStopSec=30\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
    );
    Ok(text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    Program,
    Argument,
    Environment,
}

/// A word as systemd reads it back: in quotes, with what systemd would expand doubled.
pub(super) fn quoted(word: &str, quoting: Quoting) -> Result<String, &'static str> {
    if quoting == Quoting::Program && word.contains('$') {
        return Err("a program's name cannot hold `$` under systemd");
    }
    let escaped = specifiers_escaped(word)?.replace('\\', "\\\\").replace('"', "\\\"");
    let escaped = match quoting {
        Quoting::Argument => escaped.replace('$', "$$"),
        Quoting::Program | Quoting::Environment => escaped,
    };
    Ok(format!("\"{escaped}\""))
}

fn specifiers_escaped(text: &str) -> Result<String, &'static str> {
    if text.chars().any(char::is_control) {
        return Err("a word of the command or environment holds a control character");
    }
    Ok(text.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service {
            unit: UnitName::parse("payments.service").unwrap(),
            program: "/opt/refit/payments/current/bin/serve".into(),
            arguments: vec!["--price".into(), "5 $ or 10%".into(), "a\\b\"c".into(), "".into()],
            environment: [("GREETING".to_owned(), "it's $5, 100%".to_owned())].into(),
            folder: "/opt/refit/payments/current".into(),
            user: Some("payments".into()),
            own_unit: None,
            container: None,
        }
    }

    #[test]
    fn a_unit_says_what_the_manifest_says_and_nothing_is_expanded_twice() {
        let text = unit_text(&service()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for line in [
            r#"ExecStart="/opt/refit/payments/current/bin/serve" "--price" "5 $$ or 10%%" "a\\b\"c" """#,
            r#"Environment="GREETING=it's $5, 100%%""#,
            "WorkingDirectory=/opt/refit/payments/current",
            "User=payments",
        ] {
            assert!(lines.contains(&line), "{line}\n{text}");
        }
    }

    /// CVE-2024-39698.
    #[test]
    fn no_word_of_a_manifest_adds_a_line_to_a_unit() {
        type Change = fn(&mut Service);
        let changes: [Change; 6] = [
            |service| service.program = "/bin/x\nUser=root".into(),
            |service| service.arguments.push("x\nUser=root".into()),
            |service| service.environment = [("A\nUser".into(), "root".into())].into(),
            |service| service.environment = [("A".into(), "\r\nUser=root".into())].into(),
            |service| service.user = Some("payments\nGroup=root".into()),
            |service| service.program = "/bin/$x".into(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut service = service();
            change(&mut service);
            assert!(unit_text(&service).is_err(), "change {number}");
        }
    }

    #[test]
    fn what_systemd_shows_is_read_as_it_is_meant() {
        let shown = |load: &str, active: &str, restarts: &str| {
            read_state(&format!(
                "LoadState={load}\nActiveState={active}\nSubState=x\nResult=exit-code\n{restarts}"
            ))
        };
        let active = |restarts| Some(ServiceState::Active { restarts });
        assert_eq!(shown("loaded", "active", "NRestarts=3"), active(3));
        assert_eq!(shown("loaded", "active", ""), active(0));
        assert_eq!(shown("not-found", "inactive", ""), Some(ServiceState::Unknown));
        assert_eq!(shown("loaded", "inactive", ""), Some(ServiceState::Stopped));
        let auto_restart = Some(ServiceState::Changing { restarts: 2 });
        assert_eq!(shown("loaded", "activating", "NRestarts=2"), auto_restart);
        assert!(matches!(shown("loaded", "failed", ""), Some(ServiceState::Failed { .. })));
        assert_eq!(shown("loaded", "levitating", ""), None);
        assert_eq!(read_state(""), None);
    }
}
