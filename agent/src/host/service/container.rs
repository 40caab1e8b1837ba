//! The unit of a service that runs in a container. systemd runs podman, podman runs the container within the
//! unit, so that state, restarts, journal and what it takes are told as of any other service.

use std::path::PathBuf;

use super::{
    Service,
    systemd::{Quoting, quoted},
};
use crate::host::podman::Image;

/// How long a container may take to stop before it is killed, seconds.
const STOPPING: u32 = 20;

/// In what a service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// podman itself.
    pub podman: PathBuf,
    /// Of which image.
    pub image: Image,
    /// Options of `podman run`, as the package names them.
    pub options: Vec<String>,
}

impl Container {
    /// The name of the container of a service.
    pub fn name_of(service: &str) -> String {
        format!("refit-{service}")
    }

    /// The unit file. The image is taken by its id, never by a name that somebody can move, and from the release's
    /// own folder where podman has lost it.
    ///
    /// # Errors
    /// If a word of the manifest can't stand in a unit.
    pub(super) fn unit_text(&self, service: &Service) -> Result<String, &'static str> {
        let unit = service.unit.as_str();
        let name = Container::name_of(unit.strip_suffix(".service").unwrap_or(unit));
        let podman = self.podman.to_str().ok_or("the path of podman is not UTF-8")?;
        let load = line(&self.image.command("load", &self.podman))?;
        let remove = line(&words(&[podman, "rm", "--force", "--volumes", "--ignore", &name]))?;
        let time = format!("--time={STOPPING}");
        let stop = line(&words(&[podman, "stop", "--ignore", &time, &name]))?;
        let run = line(&self.run(service, podman, &name))?;
        let after = STOPPING + 10;
        Ok(format!(
            "# Made by refit-agent. Changes are lost with the next release; use a drop-in instead.\n\
             [Unit]\n\
             Description={unit} (a container, brought by Refit)\n\
             Wants=network-online.target\n\
             After=network-online.target\n\
             \n\
             [Service]\n\
             Type=notify\n\
             NotifyAccess=all\n\
             Delegate=yes\n\
             Environment=PODMAN_SYSTEMD_UNIT={unit}\n\
             ExecStartPre=-{remove}\n\
             ExecStartPre={load}\n\
             ExecStart={run}\n\
             ExecStop={stop}\n\
             ExecStopPost=-{remove}\n\
             SuccessExitStatus=143\n\
             Restart=on-failure\n\
             RestartSec=1\n\
             TimeoutStartSec=1800\n\
             TimeoutStopSec={after}\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n"
        ))
    }

    fn run(&self, service: &Service, podman: &str, name: &str) -> Vec<String> {
        let mut run = words(&[
            podman,
            "run",
            &format!("--name={name}"),
            "--rm",
            "--detach",
            "--pull=never",
            "--sdnotify=conmon",
            "--log-driver=passthrough",
            // Within the unit's own; an option of the package may say otherwise.
            "--cgroups=split",
        ]);
        let environment = service.environment.iter();
        run.extend(environment.map(|(name, value)| format!("--env={name}={value}")));
        run.extend(self.options.iter().cloned());
        run.push(self.image.id.to_string());
        run.extend(service.arguments.iter().cloned());
        run
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A command as a line of a unit.
fn line(command: &[String]) -> Result<String, &'static str> {
    let mut line = Vec::new();
    for (number, word) in command.iter().enumerate() {
        let quoting = if number == 0 { Quoting::Program } else { Quoting::Argument };
        line.push(quoted(word, quoting)?);
    }
    Ok(line.join(" "))
}

#[cfg(test)]
mod tests {
    use refit_proto::{
        names::{Digest, PackageName, Product},
        package::{self, PodmanImage, Variables},
    };

    use super::*;
    use crate::host::podman::Image;

    fn text(options: &[&str], command: &[&str], variables: &Variables) -> Option<String> {
        let image = PodmanImage { manifest: Digest::of(b"m"), config: Digest::of(b"c"), bytes: 1 };
        let (product, folder) = (Product::parse("payments").unwrap(), "/opt/x/payments".as_ref());
        let image = Image::of(&product, &image, folder);
        let container = Container { podman: "/usr/bin/podman".into(), image, options: vec![] };
        let all = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let service = package::Service {
            name: PackageName::parse("web").unwrap(),
            command: all(command),
            environment: [("A".to_owned(), "5 $ or ${PORT}%".to_owned())].into(),
            user: None,
            unit_file: None,
            options: all(options),
        };
        let service = Service::contained(&service, folder, variables, container).ok()?;
        service.container.as_ref().unwrap().unit_text(&service).ok()
    }

    #[test]
    fn a_container_runs_by_its_images_id_and_what_its_package_says_comes_after_what_refit_does() {
        let variables = Variables::from([("PORT".to_owned(), "80".to_owned())]);
        let text = text(&["--publish=${PORT}:80"], &["serve", "--all"], &variables).unwrap();
        let run = text.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        let id = Digest::of(b"c");
        assert!(run.starts_with(r#"ExecStart="/usr/bin/podman" "run" "--name=refit-web" "--rm""#));
        let said = r#""--env=A=5 $$ or 80%%" "--publish=80:80""#;
        assert!(run.ends_with(&format!(r#"{said} "{id}" "serve" "--all""#)), "{run}");
        assert!(run.contains(r#""--pull=never""#) && !run.contains("localhost/"), "{run}");
        let load = text.lines().find(|line| line.starts_with("ExecStartPre=\"/bin/sh\"")).unwrap();
        assert!(load.ends_with(&format!(
            r#"" "refit-image" "load" "/usr/bin/podman" "/opt/x/payments/image" "localhost/refit/payments-image/{}" "{id}""#,
            Digest::of(b"m")
        )));
        for line in text.lines().filter(|line| !line.is_empty()) {
            assert!(line.starts_with(['#', '[']) || line.contains('='), "{line}");
        }
    }

    /// CVE-2024-39698.
    #[test]
    fn no_word_of_a_manifest_or_of_the_host_adds_a_line_to_a_containers_unit() {
        let variables = |value: &str| Variables::from([("PORT".to_owned(), value.to_owned())]);
        assert!(text(&[], &[], &variables("80")).is_some());
        for (options, command, value) in [
            (&["--volume=/a\nUser=x"][..], &[][..], "80"),
            (&[], &["serve\nExecStart=/bin/x"], "80"),
            (&[], &[], "80\nUser=x"),
            (&["--publish=${NONE}"], &[], "80"),
        ] {
            assert_eq!(text(options, command, &variables(value)), None, "{options:?} {command:?}");
        }
    }
}
