//! `refit host backup`: the backups that hosts keep, as they report them. The server can't bring one back:
//! it gives no orders that signatures do not cover, so that is for root on the host.

use anyhow::bail;
use refit_proto::{
    printable::printable,
    wire::{BackupState, HostStatus},
};

use super::one;
use crate::{connect::Connection, output, output::Output};

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
