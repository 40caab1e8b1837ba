//! A plain HTTP GET over loopback, as a person with a browser would make it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result};

/// Status line code and body of `http://127.0.0.1:<port><path>`.
///
/// # Errors
/// No connection, or no answer within ten seconds.
pub fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // In one piece: who answers after the first line may hang up before a second one is sent.
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok((code.context("no status code")?, body.to_owned()))
}
