//! A plain HTTP server on loopback over one folder: a mirror, as anybody could run it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::Result;

/// Serves until it is dropped.
pub struct FolderServer {
    port: u16,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FolderServer {
    /// Serves the files below a folder; what is not there is 404.
    ///
    /// # Errors
    /// If no port is to be had.
    pub fn start(folder: &Path) -> Result<FolderServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let ends = Arc::new(AtomicBool::new(false));
        let (folder, end) = (folder.to_owned(), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                // A client that hangs up in the middle is the client's affair.
                drop(answer(stream, &folder));
            }
        });
        Ok(FolderServer { port, ends, thread: Some(thread) })
    }

    /// The address of a path in it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for FolderServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the thread.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn answer(stream: TcpStream, folder: &Path) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut header = String::from("-");
    while !header.trim().is_empty() {
        header.clear();
        reader.read_line(&mut header)?;
    }
    let found = line.split(' ').nth(1).and_then(|path| read(folder, path));
    let (code, body) = match found {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let mut stream = stream;
    let length = body.len();
    write!(stream, "HTTP/1.1 {code}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
    Ok(stream.write_all(&body)?)
}

/// File names are percent-encoded as in the URL, so it is taken as it stands.
fn read(folder: &Path, path: &str) -> Option<Vec<u8>> {
    let path: PathBuf = path.trim_start_matches('/').split('/').collect();
    let inside = !path.components().any(|part| part.as_os_str() == "..");
    inside.then(|| fs::read(folder.join(path)).ok()).flatten()
}
