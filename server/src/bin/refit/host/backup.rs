//! `refit host backup`: the backups that hosts keep, as they report them. The server can't bring one back:
//! it gives no orders that signatures do not cover, so that is for root on the host.

use std::time::{Duration, Instant};

use anyhow::bail;
use refit_proto::{
    printable::printable,
    wire::{BackupState, HostStatus, VerifyBackupRequest},
};

use super::one;
use crate::{connect::Connection, duration, failure::refused, output, output::Output};

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// The backups of a host, the newest first.
    #[command(after_help = "Example:\n  refit host backup list web-1")]
    List {
        /// Its name or id.
        host: String,
        #[command(flatten)]
        output: Output,
    },
    /// Have a host read its backups again and compare every byte with their seals. Changes nothing. Waits for
    /// the answer, which comes when the host has nothing else to do; the exit code is 0 only if all are whole.
    #[command(after_help = "Example:\n  refit host backup verify web-1")]
    Verify {
        /// Its name or id.
        host: String,
        /// Which backups, of `refit host backup list`; all that are sealed if none is named.
        backups: Vec<String>,
        /// For how long to wait.
        #[arg(long, value_name = "SPAN", default_value = "10m")]
        wait: String,
    },
    /// Print the command that brings a backup back: root runs it on the host.
    #[command(after_help = "Example:\n  refit host backup restore web-1 5f0c9a1e")]
    Restore {
        /// Its name or id.
        host: String,
        /// Which backup, of `refit host backup list`.
        backup: String,
    },
}

pub(super) async fn run(connection: &Connection, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::List { host, output } => {
            let host = one(connection, &host).await?;
            output.print(&host.backups, |backups| list(backups))
        }
        Verb::Verify { host, backups, wait } => verify(connection, &host, backups, &wait).await,
        Verb::Restore { host, backup } => {
            let host = one(connection, &host).await?;
            output::line(&restore(&host, &backup)?)
        }
    }
}

fn list(backups: &[BackupState]) -> String {
    if backups.is_empty() {
        return "the host has reported no backup".to_owned();
    }
    let rows = backups.iter().map(|backup| {
        let shown = |text: &str| printable(text);
        let from = if backup.from.is_empty() { "nothing" } else { &backup.from };
        let second = match backup.second_failure.as_str() {
            "" => shown(&backup.second),
            why => format!("{}: {}", shown(&backup.second), shown(why)),
        };
        [
            shown(&backup.id),
            shown(&backup.product),
            shown(from),
            shown(&backup.to),
            output::moment(&backup.made),
            backup.bytes.to_string(),
            match backup.outside.as_str() {
                "" => shown(&backup.state),
                outside => format!("{}; {}", shown(&backup.state), shown(outside)),
            },
            second,
            shown(&backup.seal),
        ]
    });
    output::table(
        ["backup", "product", "from", "to", "made", "bytes", "state", "second place", "seal"],
        rows,
    )
}

/// How often to ask for the answer.
const LOOK: Duration = Duration::from_millis(500);

async fn verify(
    connection: &Connection,
    name: &str,
    mut ids: Vec<String>,
    wait: &str,
) -> anyhow::Result<()> {
    let host = one(connection, name).await?;
    if ids.is_empty() {
        let sealed = host.backups.iter().filter(|backup| backup.state != "unfinished");
        ids = sealed.map(|backup| backup.id.clone()).collect();
    }
    if ids.is_empty() {
        bail!("{} has reported no backup that could be read", host.name);
    }
    let until = Instant::now() + Duration::from_secs(duration::seconds(wait)?);
    let mut asked = Vec::new();
    for backup in ids {
        let request = VerifyBackupRequest { host: host.host_id.clone(), backup: backup.clone() };
        let reply = connection.admin().verify_backup(request).await;
        asked.push((backup, reply.map_err(refused("ask the host"))?.into_inner().asked));
    }
    let mut damaged = 0;
    while !asked.is_empty() {
        let host = one(connection, name).await?;
        let mut waiting = Vec::new();
        for (id, asked) in asked {
            match host.backups.iter().find(|backup| backup.id == id) {
                None => bail!("backup {id} is not there any more"),
                Some(backup) if backup.verified_for == asked => {
                    damaged += usize::from(!backup.damages.is_empty());
                    output::line(&verified(backup))?;
                }
                Some(_) => waiting.push((id, asked)),
            }
        }
        asked = waiting;
        if !asked.is_empty() {
            if Instant::now() >= until {
                bail!(
                    "{} has not answered for {} of them\n\
                     help: it answers when it has nothing else to do; `refit host show {}` tells what it does",
                    host.name,
                    asked.len(),
                    host.name
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    match damaged {
        0 => Ok(()),
        many => bail!(
            "{many} backups of {} can't be gone back to\n\
             help: docs/RUNBOOK.md, \"Stuck host\"; the next update makes a new one",
            host.name
        ),
    }
}

fn verified(backup: &BackupState) -> String {
    let id = printable(&backup.id);
    match backup.damages.as_slice() {
        [] => format!("{id}  whole: {} bytes are what was sealed", backup.bytes),
        damages => {
            let lines = damages.iter().map(|damage| format!("{id}  {}", printable(damage)));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

fn restore(host: &HostStatus, id: &str) -> anyhow::Result<String> {
    let Some(backup) = host.backups.iter().find(|backup| backup.id == id) else {
        bail!(
            "{} has reported no backup {id:?}\nhelp: `refit host backup list {}` shows those that it has",
            host.name,
            host.name
        );
    };
    if backup.state != "sealed" {
        bail!("backup {id} can't be brought back: it is {}", printable(&backup.state));
    }
    Ok(format!(
        "the server can't bring a backup back: only root on the host may. On {}, run\n\n  \
         refit-agent backup restore {id}\n\n\
         or, to look at it first,\n\n  refit-agent backup restore {id} --to /root/backup-{id}",
        host.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostStatus {
        let backup = |id: &str, state: &str| BackupState {
            id: id.into(),
            state: state.into(),
            product: "pay\u{1b}[2Jments".into(),
            ..BackupState::default()
        };
        let backups = vec![backup("b1", "sealed"), backup("b2", "damaged")];
        HostStatus { name: "web-1".into(), backups, ..HostStatus::default() }
    }

    #[test]
    fn a_backup_is_brought_back_by_root_on_its_host_and_by_nobody_else() {
        let said = restore(&host(), "b1").unwrap();
        assert!(
            said.contains("On web-1") && said.contains("refit-agent backup restore b1"),
            "{said}"
        );
        for (id, why) in [("b2", "damaged"), ("b3", "no backup")] {
            assert!(restore(&host(), id).unwrap_err().to_string().contains(why));
        }
    }

    #[test]
    fn what_a_host_says_of_its_backups_moves_nobodys_terminal() {
        let listed = list(&host().backups);
        assert!(listed.contains("b1") && !listed.contains('\u{1b}'), "{listed}");
        assert!(list(&[]).contains("no backup"));
    }
}
