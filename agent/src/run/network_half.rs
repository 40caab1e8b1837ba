//! The network half as a process of its own: nothing but a socket that root asks it on, and the network.

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixListener as StdListener},
    path::Path,
};

use tokio::{net::UnixListener, sync::Notify};

use super::{sd_ready, told_to_end, watchdog::watchdog};
use crate::{
    clock::Clock,
    link::halves::{self, NetworkHalf},
};

/// Runs it until it is told to end, on this socket, or on the one that it was started with as its standard
/// input.
///
/// # Errors
/// If there is no socket to be asked on.
pub fn run_network_half(socket: Option<&Path>) -> io::Result<()> {
    let listener = match socket {
        Some(path) => listen(path)?,
        None => StdListener::from(io::stdin().as_fd().try_clone_to_owned()?),
    };
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (listener, asked) = (UnixListener::from_std(listener)?, Notify::new());
        sd_ready();
        tokio::select! {
            () = halves::serve(listener, NetworkHalf::new(Clock::of_no_boot()), &asked) => {}
            () = watchdog(&asked) => {}
            signal = told_to_end() => signal?,
        }
        let _not_under_systemd = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        io::Result::Ok(())
    })
}

/// In the place of a socket that an ended one left. Whoever may go into its folder is another's to say.
fn listen(path: &Path) -> io::Result<StdListener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = StdListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
