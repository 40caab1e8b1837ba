//! A plain HTTP GET, as a person with a browser would make it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// Status line code and body of `http://127.0.0.1:<port><path>`.
///
/// # Errors
/// No connection, or no answer within ten seconds.
pub fn get(port: u16, path: &str) -> Result<(u16, String)> {
    get_at(SocketAddr::from(([127, 0, 0, 1], port)), path, Duration::from_secs(10))
}

/// The same at any address, with another patience.
///
/// # Errors
/// No connection, or no answer in time.
pub fn get_at(address: SocketAddr, path: &str, patience: Duration) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    // In one piece: who answers after the first line may hang up before a second one is sent.
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok((code.context("no status code")?, body.to_owned()))
}
