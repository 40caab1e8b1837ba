//! `refit-agent backup restore ID`: asks the running agent to bring a backup back, and waits for its end.

use std::{path::Path, process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use refit_agent::{
    bundle::new_install,
    restore::Progress,
    settings::Settings,
    status::{self, Question},
    update::BackupId,
};

/// How often to look.
const LOOK: Duration = Duration::from_millis(300);

pub(super) fn run(settings: &Settings, backup: &BackupId) -> Result<ExitCode> {
    let question = Question::Restore { backup: backup.clone(), install: new_install() };
    let mut said = String::new();
    loop {
        let answer = status::ask(&settings.socket(), &question)
            .context("the running agent does not answer\nhelp: only its own user may ask it")?
            .with_context(|| no_agent(&settings.data))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{error}");
        }
        let now =
            match serde_json::from_value(answer).context("the agent answers something else")? {
                Progress::Waiting => "waits for its turn".to_owned(),
                Progress::UnderWay { text } if text.is_empty() => "is brought back".to_owned(),
                Progress::UnderWay { text } => format!("is brought back: {text}"),
                Progress::Refused { text } => bail!("it is not brought back: {text}"),
                Progress::Done { text } => {
                    println!("backup {backup} is brought back: {text}");
                    return Ok(ExitCode::SUCCESS);
                }
            };
        if said != now {
            println!("  {now}");
            said = now;
        }
        thread::sleep(LOOK);
    }
}

fn no_agent(data: &Path) -> String {
    format!(
        "no agent runs on {}\nhelp: start it, `systemctl start refit-agent`; it needs no network",
        data.display()
    )
}
