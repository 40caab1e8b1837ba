//! `cargo xtask bench backup`: backup and restore of many small files by the agent's own code, beside restic
//! and `tar | zstd`, in one run on one disk, which needs room for eight times as much. Prints the
//! median of each and its ratio to ours.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::cargo;

/// Options of `cargo xtask bench backup`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How much is backed up, MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// In how many files.
    #[arg(long, default_value_t = 10_000)]
    files: u64,
    /// How often each is done; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A folder on the disk that is meant; all of it is below this.
    #[arg(long, default_value_os_t = cargo::target().join("bench"))]
    folder: PathBuf,
}

/// What one tool took in each round.
struct Tool {
    name: &'static str,
    /// What is on the disk for certain when it ends, and what was checked.
    promises: &'static str,
    backup: Vec<Duration>,
    restore: Vec<Duration>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let ours = build()?;
    for (program, package) in [("restic", "restic"), ("zstd", "zstd"), ("tar", "tar")] {
        if !succeeds(Command::new("which").arg(program).stdout(Stdio::null())) {
            bail!("{program} is not here\nhelp: apt-get install {package}");
        }
    }
    let folder = &arguments.folder;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let source = folder.join("source");
    println!("making {} files of {} MiB together ...", arguments.files, arguments.mib);
    make(&source, arguments)?;
    let mut tools = [
        Tool::new("refit", "synced, read back from the disk by hash, restored once and compared"),
        Tool::new("refit without tests", "synced; nothing read back"),
        Tool::new("restic", "packs synced; nothing read back"),
        Tool::new("tar | zstd -1", "one sync at its end; nothing read back"),
    ];
    for round in 0..arguments.rounds {
        println!("round {} of {}", round + 1, arguments.rounds);
        let work = folder.join("work");
        remove(&work)?;
        for (tool, n) in tools.iter_mut().zip(1..) {
            // Nothing is removed before the end of the round: ext4 looks long for an inode where many were freed just
            // now, as none are on a host before its backup.
            let work = work.join(n.to_string());
            fs::create_dir_all(&work)?;
            tool.prepare(&work)?;
            forget();
            let began = Instant::now();
            tool.back_up(&ours, &source, &work)?;
            tool.backup.push(began.elapsed());
            forget();
            let began = Instant::now();
            tool.bring_back(&ours, &work)?;
            tool.restore.push(began.elapsed());
            compare(&source, &tool.restored(&source, &work))?;
        }
    }
    remove(folder)?;
    print(&tools);
    Ok(ExitCode::SUCCESS)
}

impl Tool {
    fn new(name: &'static str, promises: &'static str) -> Tool {
        Tool { name, promises, backup: Vec::new(), restore: Vec::new() }
    }

    /// What is done once and not for each backup.
    fn prepare(&self, work: &Path) -> Result<()> {
        match self.name {
            "restic" => done(restic(work).args(["init", "--quiet"])),
            _ => Ok(()),
        }
    }

    fn back_up(&self, ours: &Path, source: &Path, work: &Path) -> Result<()> {
        match self.name {
            "refit" => done(Command::new(ours).arg("back-up").arg(source).arg(work)),
            "refit without tests" => done(Command::new(ours).arg("save").arg(source).arg(work)),
            "restic" => done(restic(work).args(["backup", "--quiet", "."]).current_dir(source)),
            _ => shell(
                "tar -C \"$1\" -cf - . | zstd -q -1 -T0 -o \"$2/all\" && sync \"$2/all\"",
                source,
                work,
            ),
        }
    }

    fn bring_back(&self, ours: &Path, work: &Path) -> Result<()> {
        match self.name {
            "refit" => done(Command::new(ours).arg("bring-back").arg(work).arg(work.join("out"))),
            // It has no seal to go by.
            "refit without tests" => Ok(()),
            "restic" => done(
                restic(work)
                    .args(["restore", "--quiet", "latest", "--target"])
                    .arg(work.join("out")),
            ),
            _ => {
                let out = work.join("out");
                fs::create_dir(&out)?;
                shell("zstd -q -dc \"$2/all\" | tar -C \"$1\" -xf - && sync -f \"$1\"", &out, work)
            }
        }
    }

    fn restored(&self, source: &Path, work: &Path) -> Option<PathBuf> {
        match self.name {
            "refit" => Some(work.join("out").join(source.strip_prefix("/").unwrap_or(source))),
            "refit without tests" => None,
            _ => Some(work.join("out")),
        }
    }
}

fn print(tools: &[Tool]) {
    let base = &tools[0];
    println!(
        "\n{:<20} {:>9} {:>7} {:>9} {:>7}  when it ends",
        "", "backup s", "ratio", "restore s", "ratio"
    );
    for tool in tools {
        let (backup, restore) = (median(&tool.backup), median(&tool.restore));
        let ratio = |own: f64, ours: f64| if ours > 0.0 { own / ours } else { 0.0 };
        println!(
            "{:<20} {:>9.1} {:>7.2} {:>9.1} {:>7.2}  {}",
            tool.name,
            backup,
            ratio(backup, median(&base.backup)),
            restore,
            ratio(restore, median(&base.restore)),
            tool.promises,
        );
    }
    println!(
        "\nratio: to refit's own; below 1 is faster. Caches were dropped before each, where that is allowed"
    );
}

fn median(spans: &[Duration]) -> f64 {
    let mut seconds: Vec<f64> = spans.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or_default()
}

/// The program that drives the agent's own code, built as it is shipped.
fn build() -> Result<PathBuf> {
    cargo::ship(&["--package", "refit-agent", "--example", "backup-bench"])?;
    Ok(cargo::shipped().join("examples/backup-bench"))
}

/// Files that are half text and half noise, all different, in a hundred folders.
fn make(source: &Path, arguments: &Arguments) -> Result<()> {
    remove(source)?;
    let length = usize::try_from((arguments.mib << 20) / arguments.files.max(1))?;
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for n in 0..arguments.files {
        let folder = source.join((n % 100).to_string());
        fs::create_dir_all(&folder)?;
        let mut bytes =
            format!("file {n}: a line of configuration\n").repeat(length / 70 + 1).into_bytes();
        bytes.truncate(length / 2);
        bytes.extend(std::iter::repeat_with(&mut noise).take(length - bytes.len()));
        File::create(folder.join(n.to_string()))?.write_all(&bytes)?;
    }
    done(&mut Command::new("sync"))
}

fn restic(work: &Path) -> Command {
    let mut restic = Command::new("restic");
    restic
        .env("RESTIC_PASSWORD", "bench")
        .arg("--no-cache")
        .arg("--repo")
        .arg(work.join("repository"));
    restic
}

fn shell(script: &str, one: &Path, two: &Path) -> Result<()> {
    let script = format!("set -o pipefail; {script}");
    done(Command::new("bash").arg("-c").arg(script).arg("bash").arg(one).arg(two))
}

/// Everything is read from the disk again; a machine that forbids it says so by its times.
fn forget() {
    let _ = Command::new("sync").status();
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}

fn compare(source: &Path, restored: &Option<PathBuf>) -> Result<()> {
    let Some(restored) = restored else { return Ok(()) };
    done(Command::new("diff").arg("-rq").arg(source).arg(restored))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

fn done(command: &mut Command) -> Result<()> {
    match succeeds(command) {
        true => Ok(()),
        false => bail!("{command:?} failed"),
    }
}
