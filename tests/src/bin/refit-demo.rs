//! The main job, end to end, as a story: what `cargo xtask demo` shows. Everything in it is real: the
//! server, the six hosts, their certificates, the keys, the service that is updated. Each claim is checked
//! when it is told, and the exit code says whether all of them held.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use refit_proto::package::compress;
use refit_tests::{
    process::end_all_from,
    release::Behaviour,
    sandbox::{LIMITS, PRODUCT, Ring, Sandbox},
    wait::until,
};

const FLEET: [(&str, &[&str]); 3] = [
    ("pilot", &["web-1"]),
    ("early", &["web-2", "web-3"]),
    ("broad", &["web-4", "web-5", "web-6"]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => demo(None),
        ["--keep"] => kept_folder().and_then(|folder| demo(Some(folder))),
        ["--stop", folder] => stop(Path::new(folder)),
        _ => Err(anyhow::anyhow!("usage: refit-demo [--keep | --stop FOLDER]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells what happens, and how long it has been going on.
struct Story {
    begun: Instant,
}

impl Story {
    fn chapter(&self, text: &str) {
        println!("\n{:>4.0} s  {text}", self.begun.elapsed().as_secs_f32());
    }

    fn line(&self, text: &str) {
        println!("        {text}");
    }
}

fn demo(keep: Option<PathBuf>) -> Result<()> {
    let story = Story { begun: Instant::now() };
    story.chapter("A server, an administrator called alice, and keys that never leave her side.");
    let rings = FLEET.map(|(name, _)| Ring { name, limits: LIMITS });
    let mut fleet = match keep.clone() {
        Some(folder) => Sandbox::kept(folder, &rings)?,
        None => Sandbox::new(&rings)?,
    };
    story.line("The server holds four keys of its own and can sign no release and no promotion.");
    let told = tell(&story, &mut fleet);
    if told.is_err() {
        fleet.print_logs();
    }
    told?;
    if let Some(folder) = keep {
        leave(&mut fleet, &folder)?;
    }
    Ok(())
}

fn tell(story: &Story, fleet: &mut Sandbox) -> Result<()> {
    story
        .chapter("Six hosts enroll, each with a token; from then on everything is mutual TLS 1.3.");
    for (ring, hosts) in FLEET {
        for host in hosts {
            fleet.host(host, &[&format!("ring={ring}")])?;
        }
        story.line(&format!("ring {ring:5}  {}", hosts.join(", ")));
    }

    for version in ["1.0", "1.1"] {
        good_release(story, fleet, version)?;
    }
    bad_release(story, fleet)?;
    tampered_release(story, fleet)?;

    story.chapter("Where everything stands, as `refit status` shows it:");
    println!("\n{}", fleet.refit(["status"])?);
    println!("{}", fleet.refit(["host", "list"])?);
    story.chapter("All of it held: every claim above was checked.");
    Ok(())
}

fn good_release(story: &Story, fleet: &Sandbox, version: &str) -> Result<()> {
    story.chapter(&format!("Release {version} is built, signed and published. No host moves yet."));
    fleet.publish(version, Behaviour::Good)?;
    for (ring, hosts) in FLEET {
        fleet.promote(version, ring)?;
        for host in hosts {
            fleet.until_runs(host, version)?;
        }
        fleet.until_rollout(ring, version, "done")?;
        story.line(&format!(
            "promoted to {ring:5}  {} run{} {version}, healthy, soaked",
            hosts.join(", "),
            if hosts.len() == 1 { "s" } else { "" }
        ));
    }
    Ok(())
}

fn bad_release(story: &Story, fleet: &Sandbox) -> Result<()> {
    story.chapter("Release 1.2 starts, but its health check fails.");
    fleet.publish("1.2", Behaviour::Unhealthy)?;
    fleet.promote("1.2", "pilot")?;
    let pilot = fleet.until_rollout("pilot", "1.2", "halted")?;
    story.line("web-1 installed it, saw it fail, and went back to 1.1 by itself.");
    fleet.until_runs("web-1", "1.1")?;
    let failed = &pilot["rollout"]["counts"]["failed"];
    ensure!(*failed == 1, "the brake counted {failed} failures, not 1");
    let hold = pilot["rollout"]["hold"]["text"].as_str().unwrap_or_default();
    ensure!(!hold.is_empty(), "the halted rollout does not say why");
    story.line(&format!("The brake halted the rollout: {hold}"));
    // Even a promotion signed by a person does not get past the ring before.
    fleet.promote("1.2", "early")?;
    until("early is held", || {
        let early = fleet.ring("early")?;
        Ok((early["rollout"]["version"] == "1.2" && early["rollout"]["hold"].is_object())
            .then_some(()))
    })?;
    for (ring, hosts) in &FLEET[1..] {
        for host in *hosts {
            ensure!(fleet.host_named(host).says()? == "payments 1.1", "{host} was touched");
        }
        story.line(&format!("{ring}: {} never left 1.1", hosts.join(", ")));
    }
    let early = fleet.ring("early")?;
    story.line(&format!(
        "1.2 was promoted to early all the same. Its hold: {}",
        early["rollout"]["hold"]["text"].as_str().unwrap_or_default()
    ));
    Ok(())
}

/// Someone with the server's disk in hand puts other bytes under a signed release.
fn tampered_release(story: &Story, fleet: &Sandbox) -> Result<()> {
    story.chapter("Release 1.3 is good, but someone changes a file of it on the server's disk.");
    let built = fleet.build("1.3", Behaviour::Good)?;
    fleet.publish_built(&built)?;
    let digest = refit_proto::names::Digest::of(b"1.3").to_string();
    let frame = find(&fleet.server_data().join("content"), &digest)?;
    let mut forged = Vec::new();
    compress(&mut &b"6.6"[..], &mut forged)?;
    fs::write(&frame, forged)?;
    fleet.promote("1.3", "pilot")?;
    fleet.until_rollout("pilot", "1.3", "halted")?;
    let host = fleet.host_status("web-1")?;
    let failure = &host["products"][0]["failure"];
    ensure!(failure["cause"] == "content-mismatch", "web-1 says {failure}");
    fleet.until_runs("web-1", "1.1")?;
    story.line("web-1 refused it before anything on the host was touched:");
    let text = failure["text"].as_str().unwrap_or_default();
    story.line(text.lines().next().unwrap_or_default());
    Ok(())
}

fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|found| found.to_string_lossy().contains(name)) {
                return Ok(path);
            }
        }
    }
    bail!("{name} is nowhere below {}", folder.display())
}

fn kept_folder() -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("refit-demo-").tempdir()?.keep())
}

fn leave(fleet: &mut Sandbox, folder: &Path) -> Result<()> {
    let ids = fleet.leave_running();
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    fs::write(folder.join("processes"), ids.join("\n"))?;
    let refit = fleet.refit_command()?;
    let refit = format!(
        "{} --home {}",
        refit.get_program().to_string_lossy(),
        folder.join("home-alice").display()
    );
    let agent = refit_tests::process::program("refit-agent")?;
    let (agent, own) = (agent.display(), env::current_exe()?);
    let (page, port) = (fleet.status_port(), fleet.host_named("web-1").port);
    println!(
        "\nEverything still runs, in {folder}:\n\n  the page         http://127.0.0.1:{page}/\n  \
         metrics          http://127.0.0.1:{page}/metrics\n  web-1's service  http://127.0.0.1:{port}/\n\n\
         Try:\n\n  {refit} status\n  {refit} rollout status {PRODUCT}\n  {refit} host show web-1\n  \
         {refit} rollout rollback {PRODUCT} pilot --reason \"just to see\"\n  {refit} audit list\n  \
         {agent} status --data {folder}/web-1/data\n\nTo end it:\n\n  {own} --stop {folder}",
        folder = folder.display(),
        own = own.display(),
    );
    Ok(())
}

fn stop(folder: &Path) -> Result<()> {
    let ids = fs::read_to_string(folder.join("processes"))
        .with_context(|| format!("{} holds no demo that was kept", folder.display()))?;
    for id in ids.lines() {
        // An id may have been given to another program since.
        let program = fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
        if program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("refit-")) {
            Command::new("kill").arg(id).status()?;
            until("it ends", || {
                Ok((!Path::new(&format!("/proc/{id}/exe")).exists()).then_some(()))
            })?;
        }
    }
    end_all_from(folder);
    fs::remove_dir_all(folder)?;
    Ok(())
}
