//! The small HTTP service that the demo and the whole-system tests update: it says which release it is.
//! It reads everything from the folder it was installed into, as a real service would:
//! `share/version`, and `share/fault` for releases that are broken on purpose.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with a release, as its `share/fault` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Starts, listens, and answers its health check with an error.
    Unhealthy,
    /// Starts and takes connections, and never answers.
    Hangs,
    /// Ends at once.
    Exits,
    /// Runs `share/commands` in a shell first.
    Runs,
}

fn run() -> io::Result<()> {
    let port = env::args().nth(1).unwrap_or_else(|| "8080".into());
    let installed = installed_folder()?;
    let version = read(&installed, "share/version")?;
    let fault = match read(&installed, "share/fault").unwrap_or_default().as_str() {
        "unhealthy" => Fault::Unhealthy,
        "hangs" => Fault::Hangs,
        "exits" => Fault::Exits,
        "runs" => Fault::Runs,
        _ => Fault::None,
    };
    if fault == Fault::Exits {
        return Err(io::Error::other("share/fault says that this release can't start"));
    }
    if fault == Fault::Runs {
        // However it ends: what counts is what it did to the host.
        std::process::Command::new("sh").arg(installed.join("share/commands")).status()?;
    }
    // Configuration of the host, not of the release.
    let address = fs::read_to_string("/etc/payments/listen").unwrap_or("127.0.0.1".into());
    let listener = TcpListener::bind(format!("{}:{port}", address.trim()))?;
    println!("payments {version} listens on {}", listener.local_addr()?);
    for stream in listener.incoming().flatten() {
        let version = version.clone();
        thread::spawn(move || {
            // A client that goes away is its own affair.
            let _ = answer(stream, &version, fault);
        });
    }
    Ok(())
}

/// The release's folder: the program lies in its `bin`.
fn installed_folder() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let folder = program.parent().and_then(Path::parent);
    folder.map(Path::to_owned).ok_or_else(|| io::Error::other("the program lies in no release"))
}

fn read(installed: &Path, file: &str) -> io::Result<String> {
    Ok(fs::read_to_string(installed.join(file))?.trim().to_owned())
}

/// Longer requests are cut off, bytes.
const LONGEST_REQUEST: u64 = 16_384;

fn answer(mut stream: TcpStream, version: &str, fault: Fault) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new((&stream).take(LONGEST_REQUEST)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // To the empty line: a client must have been heard to the end before it is hung up on.
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    let (status, body) = match (path, fault) {
        (_, Fault::Hangs) => {
            thread::sleep(Duration::from_secs(60));
            return Ok(());
        }
        ("/health", Fault::Unhealthy) => ("500 Internal Server Error", "no ledger".to_owned()),
        ("/health", _) => ("200 OK", "ok".to_owned()),
        _ => ("200 OK", format!("payments {version}")),
    };
    let length = body.len() + 1;
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}\n"
    )
}
