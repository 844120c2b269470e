//! Commands on other hosts, over ssh.

/// The command as it is given on `host`; on this one where none is named. It never asks for a password.
pub fn on_host(host: Option<&str>, words: Vec<String>) -> Vec<String> {
    let Some(host) = host else { return words };
    // A shell reads it there.
    let quoted: Vec<String> =
        words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let mut all: Vec<String> =
        ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--"].map(str::to_owned).into();
    all.extend([host.to_owned(), quoted.join(" ")]);
    all
}
