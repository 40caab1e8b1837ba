//! What a new agent says of itself, and what the one that runs makes of it. Pure: reads nothing.

use refit_proto::names::Version;
use serde::{Deserialize, Serialize};

use crate::update::{Cause, Failure};

/// What a new agent has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// It reads this host's settings and identity.
    Settings,
    /// It reads a copy of the journal, and the update that it is about.
    Journal,
    /// It reads a way back as the running agent writes it, and so does its rescuer.
    WayBack,
    /// It verifies the signed metadata, and every byte of a release by it: its own.
    Package,
    /// It makes, seals and brings back a backup.
    Backup,
    /// Its rescuer follows the way back that it writes.
    Rescuer,
    /// It reaches the server.
    Server,
}

impl Task {
    /// All of them.
    pub const ALL: [Task; 7] = [
        Task::Settings,
        Task::Journal,
        Task::WayBack,
        Task::Package,
        Task::Backup,
        Task::Rescuer,
        Task::Server,
    ];

    /// Its name in the answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Task::Settings => "settings",
            Task::Journal => "journal",
            Task::WayBack => "way-back",
            Task::Package => "package",
            Task::Backup => "backup",
            Task::Rescuer => "rescuer",
            Task::Server => "server",
        }
    }
}

/// How a task went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// As it should.
    Good,
    /// It failed.
    Bad,
    /// The server did not answer.
    Away,
    /// The disk refused: of the host, not of the release.
    Host,
    /// A word of a later agent's.
    #[serde(other)]
    Unrecognised,
}

/// One task, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The task's name.
    pub task: String,
    /// How it went.
    pub finding: Finding,
    /// Why, where it did not go as it should.
    #[serde(default)]
    pub text: String,
}

/// All that a new agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which version it is, by its own word.
    pub version: String,
    /// What it has tried.
    pub tasks: Vec<Checked>,
}

/// What to make of the answer, or of none: the release qualifies, or it does not and why. `words` are the
/// last that the program said.
///
/// # Errors
/// Why the release must not take over.
pub fn judge(
    answer: Option<&[u8]>,
    words: &str,
    wanted: &Version,
    server: bool,
) -> Result<(), Failure> {
    let refused = |text: String| Err(Failure::new(Cause::NotQualified, text));
    let Some(answer) = answer else {
        return refused(format!("the new agent said nothing of itself; its last words: {words}"));
    };
    let answer: Answer = match serde_json::from_slice(answer) {
        Ok(answer) => answer,
        Err(error) => {
            return refused(format!(
                "what the new agent says of itself can't be read: {error}; its last words: {words}"
            ));
        }
    };
    if answer.version != wanted.as_str() {
        return refused(format!(
            "the release is called {wanted}, and the agent in it says that it is {}",
            answer.version
        ));
    }
    let wanted = Task::ALL.into_iter().filter(|task| *task != Task::Server || server);
    let mut away = None;
    for task in wanted {
        let name = task.as_str();
        let mut told = answer.tasks.iter().filter(|told| told.task == name);
        let (Some(told), None) = (told.next(), told.next()) else {
            return refused(format!("the new agent does not say once how {name} went"));
        };
        let text = format!("the new agent, trying {name}: {}", told.text);
        match told.finding {
            Finding::Good => {}
            Finding::Host => return Err(Failure::new(Cause::HostFault, text)),
            // The server alone comes and goes.
            Finding::Away if task == Task::Server => {
                away = Some(Failure::new(Cause::ServerAway, text));
            }
            Finding::Bad | Finding::Away | Finding::Unrecognised => return refused(text),
        }
    }
    away.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        Version::parse("1.2.3").unwrap()
    }

    fn answer(version: &str, change: impl Fn(&mut Vec<Checked>)) -> Vec<u8> {
        let told = |task: Task| Checked {
            task: task.as_str().into(),
            finding: Finding::Good,
            text: "as it should".into(),
        };
        let mut tasks = Task::ALL.map(told).to_vec();
        change(&mut tasks);
        serde_json::to_vec(&Answer { version: version.into(), tasks }).unwrap()
    }

    fn judged(answer: &[u8], server: bool) -> Result<(), Cause> {
        judge(Some(answer), "", &version(), server).map_err(|failure| failure.cause)
    }

    #[test]
    fn an_agent_that_shows_all_of_it_and_is_what_it_is_called_qualifies() {
        assert_eq!(judged(&answer("1.2.3", |_| {}), true), Ok(()));
        let text = String::from_utf8(answer("1.2.3", |_| {})).unwrap();
        let later = text.replacen('{', "{\"colour\":1,", 1);
        let later = later.replace("\"tasks\":[", "\"tasks\":[{\"task\":\"x\",\"finding\":\"y\"},");
        assert_eq!(judged(later.as_bytes(), true), Ok(()), "a later agent says more");
    }

    #[test]
    fn another_version_than_its_releases_is_refused_and_so_is_one_that_says_nothing_or_rubbish() {
        assert_eq!(judged(&answer("1.2.4", |_| {}), true), Err(Cause::NotQualified));
        let silent = judge(None, "Segmentation fault", &version(), true).unwrap_err();
        assert!(silent.text.contains("Segmentation fault"), "{silent}");
        let whole = answer("1.2.3", |_| {});
        for length in 0..whole.len() {
            assert_eq!(judged(&whole[..length], true), Err(Cause::NotQualified), "{length}");
        }
    }

    #[test]
    fn each_task_is_asked_for_and_only_the_disk_and_the_server_are_not_the_releases_fault() {
        for (at, task) in Task::ALL.into_iter().enumerate() {
            let missing = answer("1.2.3", |tasks| drop(tasks.remove(at)));
            assert_eq!(judged(&missing, true), Err(Cause::NotQualified), "{task:?}");
            let twice = answer("1.2.3", |tasks| tasks.push(tasks[at].clone()));
            assert_eq!(judged(&twice, true), Err(Cause::NotQualified), "{task:?}");
            let found =
                |finding| judged(&answer("1.2.3", |tasks| tasks[at].finding = finding), true);
            assert_eq!(found(Finding::Bad), Err(Cause::NotQualified));
            assert_eq!(found(Finding::Unrecognised), Err(Cause::NotQualified));
            assert_eq!(found(Finding::Host), Err(Cause::HostFault));
            let away = match task {
                Task::Server => Cause::ServerAway,
                _ => Cause::NotQualified,
            };
            assert_eq!(found(Finding::Away), Err(away), "{task:?}");
        }
    }

    #[test]
    fn a_host_without_a_server_asks_for_none_and_a_missing_server_excuses_nothing_else() {
        let without = answer("1.2.3", |tasks| drop(tasks.pop()));
        assert_eq!(judged(&without, false), Ok(()));
        let both = answer("1.2.3", |tasks| {
            tasks[6].finding = Finding::Away;
            tasks[4].finding = Finding::Bad;
        });
        assert_eq!(judged(&both, true), Err(Cause::NotQualified));
    }
}
