//! Calling cargo, and where the workspace lies.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

/// The profile of what hosts run, and the name of its folder.
const AGENT: &str = "agent";

/// The top of the checkout.
pub(crate) fn workspace() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// Where cargo puts everything.
pub(crate) fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| workspace().join("target"))
}

/// Where what [`ship`] has built is put.
pub(crate) fn shipped() -> PathBuf {
    target().join(AGENT)
}

/// Where debug binaries are put.
pub(crate) fn binaries() -> PathBuf {
    target().join("debug")
}

/// A cargo command at the top of the checkout.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(arguments);
    // Set for this program by cargo; a cargo below it must find its own.
    for variable in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(variable);
    }
    command
}

/// Builds a program as it is shipped to hosts: by itself, so that no feature of another package reaches it.
/// `which` names it: `["--package", "refit-agent", "--bin", "refit-agent"]`.
///
/// # Errors
/// If it can't be built.
pub(crate) fn ship(which: &[&str]) -> Result<()> {
    let mut build = cargo(&["rustc", "--quiet", "--profile", AGENT]);
    build.arg("--config").arg(without_paths(&sources()));
    build.args(which).arg("--");
    // There the linker is LLVM's. Elsewhere the program is larger, and the same.
    if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        // What is the same code is there once; and what ends when it panics needs no tables to unwind by.
        for word in ["--icf=all", "--no-eh-frame-hdr"] {
            build.arg(format!("-Clink-arg=-Wl,{word}"));
        }
        build.arg(format!("-Clink-arg=-Wl,-T,{}", workspace().join("agent/shipped.ld").display()));
    }
    run(&mut build)
}

/// The folders that hold the sources of other crates on this machine.
fn sources() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let folders = home.and_then(|home| home.join("registry/src").read_dir().ok());
    folders.into_iter().flatten().flatten().map(|folder| folder.path()).collect()
}

/// The setting by which a program does not say where they are. It names the file of each place where it may panic:
/// 0.03 MB of the agent, and another program on each machine that builds it.
fn without_paths(sources: &[PathBuf]) -> String {
    let flag = |folder: &PathBuf| format!("'--remap-path-prefix={}/='", folder.display());
    let flags: Vec<_> = sources.iter().map(flag).collect();
    format!("build.rustflags=[{}]", flags.join(", "))
}

/// Runs a command and wants it to succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
